"""How feed-forward layers begin: every weight drawn by a key of its own, at its own scale, and biases at zero."""

import itertools

import jax
import numpy as np
import pytest

from minilm.layers.feed_forward import init_glu, init_mlp
from tests.tolerances import SAMPLING

D, F = 60, 150


@pytest.mark.parametrize("init", [init_mlp, init_glu])
@pytest.mark.parametrize(("deviations", "up", "down"), [((None, None), D**-0.5, F**-0.5), ((0.5, 3.0), 0.5, 3.0)])
def test_initial_weights_have_their_scale_and_are_drawn_apart(init, deviations, up, down):
    params = init(jax.random.key(0), D, F, deviation=deviations[0], out_deviation=deviations[1])
    weights = {name: leaf for name, leaf in params._asdict().items() if name.startswith("w_")}
    for name, w in weights.items():
        expected = down if name == "w_down" else up
        assert w.shape == ((F, D) if name == "w_down" else (D, F))
        assert abs(float(w.std()) / expected - 1) < SAMPLING
    for one, other in itertools.combinations(weights.values(), 2):
        correlation = np.corrcoef(np.ravel(one), np.ravel(other))[0, 1]
        assert abs(correlation) < SAMPLING


def test_an_initial_mlp_has_zero_biases_unless_it_is_to_have_none():
    with_biases, without = (init_mlp(jax.random.key(0), 3, 5, **bias) for bias in ({}, {"bias": False}))
    assert with_biases.b_up.tolist() == [0.0] * 5
    assert with_biases.b_down.tolist() == [0.0] * 3
    assert without.b_up is None
    assert without.b_down is None
