"""The gate behind attention: shut, half open and open, and the mixer that has one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minilm.layers.attention.core import Dense
from minilm.layers.attention.gated import OutputGateParams, gated_mixer, gated_output, init_gated, init_output_gate
from minilm.layers.attention.masks import Causal, SameDocument
from minilm.layers.attention.multi_head import multi_head
from minilm.shapes import Tokens
from tests.mixers import assert_lawful, drawn_params
from tests.strategies import seeds
from tests.tolerances import FORMULA, assert_close

D, G, R, K, V, T = 5, 2, 3, 4, 6, 7
ATTEND = Dense(Causal() & SameDocument())
MIXER = gated_mixer(ATTEND, g=G, r=R, k=K, v=V)
few = settings(max_examples=5)


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape)) for shape in shapes]


def gate_of(params, w, b):
    """The parameters with every gate's weights at one value, and its biases."""
    fill = (jnp.full_like(params.gate.w_gate, w), jnp.full_like(params.gate.b_gate, b))
    return params._replace(gate=OutputGateParams(*fill))


@pytest.mark.parametrize(("bias", "share"), [(0.0, 0.5), (1e4, 1.0), (-1e4, 0.0)], ids=["half", "open", "shut"])
@few
@given(seed=seeds)
def test_a_gate_without_weights_lets_a_constant_share_of_each_head_through(bias, share, seed):
    params, (x,) = drawn_params(MIXER, D, seed), draw(seed, (2, T, D))
    heads, where = params.multi_head, Tokens.arange(T)
    ungated = multi_head(heads._replace(b_o=None), x, where, ATTEND)
    y = MIXER.apply(gate_of(params, 0.0, bias), x, where)
    assert_close(y, share * ungated + heads.b_o, FORMULA)


@few
@given(seed=seeds)
def test_an_open_gate_is_multi_head_attention_itself(seed):
    params, (x,) = drawn_params(MIXER, D, seed), draw(seed, (T, D))
    y = MIXER.apply(gate_of(params, 0.0, 1e4), x, Tokens.arange(T))
    assert_close(y, multi_head(params.multi_head, x, Tokens.arange(T), ATTEND), FORMULA)


@few
@given(seed=seeds)
def test_a_gate_reads_its_own_token_and_serves_its_own_entry(seed):
    w, b, x, o = draw(seed, (D, G, R, V), (G, R, V), (T, D), (G, R, T, V))
    y = gated_output(OutputGateParams(w, b), x, o)
    moved = gated_output(OutputGateParams(w.at[:, 1, 2, 3].add(1.0), b), x.at[4].add(1.0), o)
    changed = np.zeros((G, R, T, V), bool)
    changed[:, :, 4] = changed[1, 2, :, 3] = True
    np.testing.assert_array_equal(moved[~changed], y[~changed])
    assert (moved[changed] != y[changed]).any()


def test_saturated_gates_have_finite_gradients():
    w, x, o = draw(0, (D, G, R, V), (T, D), (G, R, T, V))
    params = OutputGateParams(1e4 * w, jnp.zeros((G, R, V)))
    gradients = jax.grad(lambda *a: gated_output(*a).sum(), argnums=(0, 1, 2))(params, x, o)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_a_fully_masked_query_gets_nothing_through_any_gate():
    params, (x,) = drawn_params(MIXER, D), draw(1, (T, D))
    nowhere = Tokens(jnp.full(T, -1), jnp.zeros(T, int))
    y, gradient = jax.value_and_grad(lambda x: MIXER.apply(params, x, nowhere)[2].sum())(x)
    assert_close(y, params.multi_head.b_o.sum(), FORMULA)
    assert np.isfinite(gradient).all()


def test_initial_gates_stand_in_the_middle_and_a_bias_may_be_absent():
    gate = init_output_gate(jax.random.key(0), 300, g=2, r=3, v=40)
    assert abs(gate.w_gate.std() * np.sqrt(300) - 1) < gate.w_gate.size**-0.25
    assert not gate.b_gate.any()
    sizes = {"g": G, "r": R, "k": K, "v": V}
    without = gated_mixer(ATTEND, **sizes, bias=False).init(jax.random.key(0), D)
    assert (without.gate.b_gate, without.multi_head.b_q) == (None, None)
    for begun in (gated_mixer(ATTEND, **sizes).init(jax.random.key(0), D), init_gated(jax.random.key(0), D, **sizes)):
        assert begun.gate.b_gate.shape == (G, R, V)


def test_what_goes_through_has_the_dtype_of_the_heads():
    params, (x, o) = drawn_params(MIXER, D), draw(0, (T, D), (G, R, T, V))
    assert gated_output(params.gate, x, o.astype(jnp.float32)).dtype == jnp.float32


def test_the_mixer_keeps_what_mixers_promise_with_sizes_that_all_differ_and_documents_apart():
    assert_lawful(MIXER, D)
