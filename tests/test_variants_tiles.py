"""Rows of `variants.usual` read a long text in tiles, and give what all scores at once give."""

import jax
import numpy as np
import pytest

from minilm import backends, variants
from minilm.layers.attention.masks import Causal
from minilm.shapes import Tokens
from minilm.variants import VARIANTS
from tests import mixers
from tests.test_variants import KINDS
from tests.tolerances import FORMULA, assert_close

D, HEADS, T = 64, 4, 300  # more than two tiles of 128, and than most windows
SOFTMAX = [name for name, row in VARIANTS.items() if row.family in ("softmax", "positions")]
# Other ways from scores to weights, which take all of a query's scores; and what forgets, or tells positions anew.
AT_ONCE = {"streaming", "sink", "soft-cap", "sigmoid", "top-k", "talking-heads", "differential", "forgetting"}


def test_variants_ask_for_no_kernels_which_compilers_do_not_divide_over_devices():
    assert not variants.usual(Causal()).kernels


def test_what_is_read_at_once_is_in_the_table():
    assert set(SOFTMAX) > AT_ONCE


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in KINDS else pytest.mark.slow) for n in SOFTMAX])
def test_a_long_text_is_read_in_tiles_with_the_results_and_gradients_of_all_scores_at_once(name, monkeypatch):
    mixer = variants.make(name, D, HEADS)
    params = mixers.drawn_params(mixer, D)
    x, d_y = np.random.default_rng(0).standard_normal((2, T, D))

    def pulled(params, x):
        y, pullback = jax.vjp(lambda params, x: mixer.apply(params, x, Tokens.arange(T)), params, x)
        return y, pullback(d_y)

    in_tiles = jax.jit(pulled).lower(params, x)
    monkeypatch.setattr(backends, "FEW_SCORES", T**2)
    at_once = jax.jit(lambda *of: pulled(*of)).lower(params, x)
    assert ("while" in in_tiles.as_text()) == (name not in AT_ONCE)
    assert "while" not in at_once.as_text()
    assert_close(in_tiles.compile()(params, x), at_once.compile()(params, x), FORMULA)
