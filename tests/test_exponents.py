"""What no number holds: linear attention of weights of any smallness, and attention by exponents of any size."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minilm.layers.linear_attention.feature_maps import elu_plus_one
from minilm.layers.linear_attention.linear import (
    NOTHING,
    PerformerParams,
    ScaledState,
    exponential_attention,
    linear_attention,
    performer_mixer,
)
from minilm.reference.linear_attention import linear as reference
from minilm.shapes import Tokens
from tests.strategies import seeds
from tests.tolerances import FORMULA, LAYER, MODEL, REDUCTION, assert_close

G, T, K, V = 2, 9, 4, 5
few = settings(max_examples=3)


def draw(seed):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape)) for shape in ((G, T, K), (G, T, K), (G, T, V))]


@pytest.mark.parametrize("low", [-30.0, -50.0, -60.0, -76.0, -80.0, -90.0, -110.0])
def test_weights_of_any_smallness_have_a_mean_and_gradients_in_float32(low):
    q, k, v = draw(5)
    state, d_o = jnp.zeros((G, K, V + 1)), jnp.ones_like(v)

    def attended(dtype, *features):
        def attend(q, k):
            return linear_attention(state.astype(dtype), elu_plus_one(q), elu_plus_one(k), v.astype(dtype), chunk=2)[1]

        o, pullback = jax.vjp(attend, *(x.astype(dtype) for x in features))
        assert all(np.isfinite(leaf).all() for leaf in pullback(1e6 * d_o.astype(dtype)))
        return o, pullback(d_o.astype(dtype))

    # Below e^-87 many processors have 0; there the product of a small key, a small value and a small query comes first.
    for features, least in (((q + low, k), -80), ((q, k + low), -76)):
        o, gradients = attended(jnp.float32, *features)
        expected, d_expected = attended(jnp.float64, *features)
        if low >= least:
            assert_close(o, expected, LAYER, jnp.float32)
        if low >= -60:
            assert_close(gradients, d_expected, MODEL, jnp.float32)


def test_features_of_any_size_and_sign_have_one_mean_of_which_the_gradients_are_their_own():
    q, k, v = draw(5)
    q, k, state = jnp.abs(q).at[..., 0].set(0), jnp.abs(k), jnp.zeros((G, K, V + 1))

    def attended(dtype, size):
        features = ((size * q).astype(dtype), (math.exp(-30) * k).astype(dtype))
        attend = lambda q, k: linear_attention(state.astype(dtype), q, k, v.astype(dtype), chunk=2)[1]  # noqa: E731
        o, pullback = jax.vjp(attend, *features)
        d_q, d_k = pullback(jnp.ones_like(o))
        return o, size * d_q, math.exp(-30) * d_k

    expected = attended(jnp.float64, 1.0)
    for size in (1.0, -1.0, math.exp(-60), -math.exp(-60)):
        assert_close(attended(jnp.float32, size), expected, MODEL, jnp.float32)


@few
@given(seed=seeds)
def test_attention_by_exponents_is_linear_attention_of_their_exponentials(seed):
    a, b, v = draw(seed)
    matrix, m = jnp.abs(jnp.asarray(np.random.default_rng(seed).standard_normal((G, K, V + 1)))), jnp.array([-2.0, 3.0])
    after, o = linear_attention(matrix * jnp.exp(m)[:, None, None], jnp.exp(a), jnp.exp(b), v, chunk=2)
    state, same = exponential_attention(ScaledState(matrix, m), a, b, v, chunk=2)
    assert_close((state.matrix * jnp.exp(state.m)[:, None, None], same), (after, o), FORMULA)


@pytest.mark.parametrize("far", [-1000, 1000])
def test_exponents_of_any_size_have_a_mean_and_gradients_in_float32(far):
    a, b, v = (jnp.round(8 * x).astype(jnp.float32) / 8 for x in draw(6))  # which have the room to go far

    def attend(a, b):
        empty = ScaledState(jnp.zeros((G, K, V + 1), jnp.float32), jnp.full(G, NOTHING, jnp.float32))
        return exponential_attention(empty, a, b, v, chunk=2)[1]

    expected, o = (jax.vjp(attend, *given) for given in ((a, b), (a - far, b + far)))
    d_o = jnp.ones_like(v)
    assert_close((o[0], o[1](d_o)), (expected[0], expected[1](d_o)), LAYER, jnp.float32)
    growing = b + 100 * jnp.arange(T, dtype=jnp.float32)[:, None]
    assert_close(attend(a, growing), v, LAYER, jnp.float32)  # each key outweighs those before it


@pytest.mark.parametrize(("aside", "far"), [(0, 3000.0), (0, -3000.0), (4, -3000.0), (4, 0.0), (T, 0.0)])
def test_exponents_of_any_size_and_of_no_key_give_what_they_do_by_hand(aside, far):
    """Keys far away, and the first ones none at all: of those there is nothing, and behind them no trace."""
    a, b, v = draw(7)
    b, empty = (b + far).at[:, :aside].set(-jnp.inf), ScaledState(jnp.zeros((G, K, V + 1)), jnp.full(G, NOTHING))
    (state, o), pullback = jax.vjp(partial(exponential_attention, chunk=2), empty, a - far / 2, b, v)
    given = jax.tree.map(np.asarray, (empty, a - far / 2, b, v))
    (by_hand, expected), saved = reference.exponential_attention(*given)
    d_out = jax.tree.map(np.ones_like, (by_hand, expected))
    assert_close((o, state.matrix), (expected, by_hand.matrix), FORMULA)
    assert_close(state.m, by_hand.m, FORMULA)
    assert_close(
        pullback(jax.tree.map(jnp.asarray, d_out)), reference.exponential_attention_backward(saved, d_out), FORMULA
    )
    assert not o[:, :aside].any()
    assert o[:, aside:].all()


def test_values_that_are_all_zero_have_a_gradient_by_exponents_too():
    a, b, v = draw(11)
    given = ScaledState(jnp.zeros((G, K, V + 1)), jnp.full(G, NOTHING)), a, b, jnp.zeros_like(v)
    _, pullback = jax.vjp(lambda *x: exponential_attention(*x, chunk=2)[1], *given)
    (after, o), saved = reference.exponential_attention(*jax.tree.map(np.asarray, given))
    by_hand = reference.exponential_attention_backward(saved, (jax.tree.map(np.zeros_like, after), np.ones_like(o)))
    assert_close(pullback(jnp.ones_like(v)), by_hand, FORMULA)
    assert by_hand[3].all()


def test_a_state_whose_power_is_that_of_the_largest_key_has_the_gradient_by_hand():
    """As it is where a text goes on: its power is a whole number, and so is that of the keys."""
    a, b, v = draw(8)
    state = ScaledState(jnp.abs(draw(9)[2][:, :K]).repeat(2, -1)[..., : V + 1], jnp.round(b.max((1, 2))))
    out, pullback = jax.vjp(partial(exponential_attention, chunk=2), state, a, b, v)
    expected, saved = reference.exponential_attention(*jax.tree.map(np.asarray, (state, a, b, v)))
    d_out = jax.tree.map(np.ones_like, expected)
    by_hand = reference.exponential_attention_backward(saved, d_out)
    assert_close((out, pullback(jax.tree.map(jnp.asarray, d_out))), (expected, by_hand), FORMULA)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_features_of_sixteen_bits_are_not_rounded_once_more(dtype):
    q, k, v = (jnp.abs(x).astype(dtype) for x in draw(10))
    state, v = jnp.zeros((G, K, V + 1), jnp.float32), v.astype(jnp.float32)
    o, wide = (linear_attention(state, x, k.astype(x.dtype), v, chunk=2)[1] for x in (q, q.astype(jnp.float32)))
    assert_close(o, wide, REDUCTION, jnp.float32)
    scaled, narrow = ScaledState(state, jnp.full(G, NOTHING, jnp.float32)), v.astype(dtype)
    after, o = exponential_attention(scaled, q, k, narrow, chunk=2)
    assert (o.dtype, after.matrix.dtype, after.m.dtype) == (dtype, jnp.float32, jnp.float32)


@pytest.mark.parametrize("scale", [1.0, 4.0, 8.0, 12.0])
def test_a_performer_of_loud_inputs_computes_in_float32_what_it_does_in_float64(scale):
    mixer = performer_mixer(g=2, k=32, v=4, m=64)
    params = mixer.init(jax.random.key(0), 64)
    x = scale * jnp.asarray(np.random.default_rng(0).standard_normal((20, 64)), jnp.float32)
    y, pullback = jax.vjp(lambda params, x: mixer.apply(params, x, Tokens.arange(20)), params, x)
    wide = jax.tree.map(lambda w: w.astype(jnp.float64), (params, x))
    assert_close(y, mixer.apply(*wide, Tokens.arange(20)), MODEL, jnp.float32)  # exponents are squares of the inputs
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(pullback(y)))


def test_exponents_of_inputs_of_sixteen_bits_are_not_rounded():
    """Inputs and heads are whole numbers that sixteen bits hold; exponents of some 300 would be off by one."""
    mixer = performer_mixer(g=1, k=4, v=4, m=16)
    params = mixer.init(jax.random.key(0), 4)
    eye = jnp.eye(4).reshape(4, 1, 4)
    heads = params.heads._replace(w_q=eye[:, :, None], w_k=eye, w_v=eye, w_o=eye.reshape(1, 1, 4, 4))
    signs = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (12, 2)), jnp.float32)
    x = jnp.concatenate([jnp.full((12, 2), 24.0), signs], 1)
    y, wide = (
        mixer.apply(
            PerformerParams(
                jax.tree.map(lambda w, dtype=dtype: w.astype(dtype), heads), params.projection.at[:, :2].set(0)
            ),
            x.astype(dtype),
            Tokens.arange(12),
        )
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    assert_close(y[:, 2:], wide[:, 2:], REDUCTION, jnp.bfloat16)
