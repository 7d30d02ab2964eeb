"""Variants of softmax attention: at its neutral setting each is dot-product attention; and what makes each its own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.attention.blockwise import Blockwise, blockwise_attention
from minilm.layers.attention.core import Dense, dot_product_attention
from minilm.layers.attention.masks import Causal
from minilm.layers.attention.qk_norm import (
    CosineHeads,
    NormalizedHeads,
    cosine_attention,
    init_qk_norm,
    init_temperature,
)
from minilm.layers.attention.rotary import Rotary
from minilm.layers.attention.sigmoid import init_shift, sigmoid_attention
from minilm.layers.attention.sinks import init_sink, sink_attention
from minilm.layers.attention.soft_cap import soft_capped_attention
from minilm.layers.attention.talking_heads import TalkingHeadsParams, init_talking_heads, talking_heads_attention
from minilm.layers.attention.top_k import top_k_attention
from minilm.layers.normalization import RMSNormParams, rms_norm
from minilm.layers.position import rotary
from minilm.reference import normalization as reference_normalization
from minilm.reference.attention import core as reference_core
from minilm.reference.attention import masks as reference_masks
from minilm.reference.attention import qk_norm as reference
from minilm.shapes import Tokens
from tests.strategies import keys, normal, normals, seeds, uniform
from tests.tolerances import FORMULA, assert_close

G, R, T, S, K, V = 2, 3, 5, 7, 4, 6
EPSILON = 1e-6  # of rms_norm
few = settings(max_examples=5)


def drawn(key, t=T):
    shapes = (G, R, t, K), (G, S, K), (G, S, V)
    return normals(key, shapes)


def drawn_mask(key, *shape):
    """Some keys hidden, and from the last query all."""
    return (uniform(key, shape) < 0.6).at[..., -1, :].set(False)


def some(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


NEUTRAL = {
    "soft cap": partial(soft_capped_attention, 1e7),
    "sink": partial(sink_attention, jnp.full((G, R), -jnp.inf)),
    "top k": partial(top_k_attention, n=S),
    "top k beyond": partial(top_k_attention, n=S + 3),
    "talking heads": partial(talking_heads_attention, init_talking_heads(G, R, dtype=jnp.float64)),
}
USUAL = {
    "soft cap": partial(soft_capped_attention, 1.5),
    "sink": partial(sink_attention, some(G, R)),
    "sigmoid": partial(sigmoid_attention, some(G, R)),
    "top k": partial(top_k_attention, n=2),
    "talking heads": partial(talking_heads_attention, TalkingHeadsParams(some(G, R, G, R), some(G, R, G, R, seed=1))),
    "cosine": partial(cosine_attention, some(G, R)),
}
each_usual = pytest.mark.parametrize("attention", USUAL.values(), ids=USUAL)


@pytest.mark.parametrize("attention", NEUTRAL.values(), ids=NEUTRAL)
@few
@given(key=keys())
def test_at_its_neutral_setting_a_variant_is_dot_product_attention(attention, key):
    mask, bias = drawn_mask(key, T, S), normal(key, (G, R, T, S))

    def with_gradient(f):
        o, pullback = jax.vjp(lambda q, k, v, bias: f(q, k, v, mask, bias), *drawn(key), bias)
        return o, pullback(jnp.ones_like(o) + o)

    assert_close(with_gradient(attention), with_gradient(dot_product_attention), FORMULA)


@few
@given(key=keys())
def test_below_a_very_negative_shift_sigmoids_are_a_softmax_without_its_sum(key):
    q, k, v = drawn(key)
    mask = (uniform(key, (T, S)) < 0.6).at[:, 0].set(True)
    v_and_ones = jnp.concatenate([v, jnp.ones((G, S, 1))], -1)
    o = sigmoid_attention(-40.0, q, k, v_and_ones, mask)
    assert_close(o[..., :-1] / o[..., -1:], dot_product_attention(q, k, v, mask), FORMULA)


@few
@given(key=keys())
def test_among_vectors_of_one_length_cosines_are_scores_and_norms_change_nothing(key):
    q, k, v = drawn(key)
    q, k = (x / jnp.sqrt((x**2).mean(-1, keepdims=True)) for x in (q, k))
    mask, scale = drawn_mask(key, T, S), RMSNormParams(jnp.full(K, (1 + EPSILON) ** 0.5))
    expected = dot_product_attention(q, k, v, mask)
    assert_close(cosine_attention(jnp.full((G, R), K**0.5 * (1 + EPSILON)), q, k, v, mask), expected, FORMULA)
    attend = NormalizedHeads(lambda q, k, v, *_: dot_product_attention(q, k, v, mask), scale, scale)
    assert_close(attend(q, k, v, None, None), expected, FORMULA)


@few
@given(key=keys())
def test_cosines_at_the_root_of_the_width_are_norms_of_scale_one(key):
    q, k, v = drawn(key)
    query, places, ones = Tokens.arange(T), Tokens.arange(S), RMSNormParams(jnp.ones(K))
    cosines = Dense(Causal(), attention=jax.tree_util.Partial(cosine_attention, jnp.full((G, R), K**0.5)))
    normalized = NormalizedHeads(Dense(Causal()), ones, ones)
    assert_close(normalized(q, k, v, query, places), cosines(q, k, v, query, places), FORMULA)


@few
@given(key=keys(), attend=st.sampled_from([Dense(Causal()), Blockwise(Causal(), t_block=2, s_block=3)]))
def test_products_of_directions_are_cosines_whoever_multiplies_them(key, attend):
    q, k, v = drawn(key)
    query, places = Tokens.arange(T, 2), Tokens.arange(S)
    cosines = Dense(Causal(), attention=jax.tree_util.Partial(cosine_attention, some(G, R)))
    o = CosineHeads(attend, some(G, R))(q, k, v, query, places)
    assert_close(o, cosines(q, k, v, query, places), FORMULA)


def test_directions_stay_in_the_dtype_of_queries_and_keys_whatever_that_of_the_temperature():
    q, k = (x.astype(jnp.bfloat16) for x in drawn(jax.random.key(0))[:2])
    prepared = CosineHeads(Dense(Causal()), some(G, R)).prepare(q, k, None, None)
    assert [x.dtype for x in prepared] == [jnp.bfloat16, jnp.bfloat16]


@few
@given(key=keys())
def test_by_hand_too_cosines_of_directions_and_the_gradient_of_their_temperature(key):
    q, k, v = drawn(key)
    query, places = Tokens.arange(T, 2), Tokens.arange(S)
    o, pullback = jax.vjp(
        lambda scale, *qkv: CosineHeads(Dense(Causal()), scale)(*qkv, query, places), some(G, R), q, k, v
    )
    arrays = jax.tree.map(np.asarray, (q, k, v, query, places))
    by_hand = reference.CosineHeads(reference_core.Dense(reference_masks.Causal()), np.asarray(some(G, R)))
    expected, saved = by_hand(*arrays)
    assert_close(o, expected, FORMULA)
    d_o = np.asarray(some(*o.shape, seed=2))
    gradients = by_hand.backward_with_scale(saved, d_o)
    assert_close(pullback(jnp.asarray(d_o)), gradients, FORMULA)
    assert_close(by_hand.backward(saved, d_o), gradients[1:], FORMULA)


@few
@given(key=keys())
def test_of_normalized_queries_and_keys_only_the_direction_counts(key):
    q, k, v = drawn(key)
    near, far = (cosine_attention(some(G, R), a * q, b * k, v) for a, b in ((1e4, 1e5), (1e7, 1e6)))
    assert_close(far, near, FORMULA)


@each_usual
@few
@given(key=keys())
def test_a_masked_key_is_a_removed_key_however_large_its_score(attention, key):
    q, k, v = drawn(key)
    expected = attention(q, k[:, :4], v[:, :4])
    assert_close(attention(q, k.at[:, 4:].multiply(1e12), v, jnp.arange(S) < 4), expected, FORMULA)


@each_usual
@few
@given(key=keys(), scale=st.sampled_from([0.0, 1.0, 1e4]))
def test_a_query_without_keys_gets_zero_and_a_finite_gradient(attention, key, scale):
    q, k, v = (scale * x for x in drawn(key))
    o, pullback = jax.vjp(lambda q, k, v: attention(q, k, v, drawn_mask(key, T, S)), q, k, v)
    d_q, d_k, d_v = pullback(jnp.ones_like(o))
    assert not o[:, :, -1].any()
    assert not d_q[:, :, -1].any()
    assert all(np.isfinite(d).all() for d in (o, d_q, d_k, d_v))


@few
@given(key=keys(), cap=st.sampled_from([0.25, 1.5]))
def test_below_a_cap_no_weight_exceeds_another_by_more_than_its_exponential_squared(key, cap):
    q, k, _ = drawn(key)
    weights = soft_capped_attention(cap, 100 * q, k, jnp.broadcast_to(jnp.eye(S), (G, S, S)))
    ratio = weights.max(-1) / weights.min(-1)
    assert (ratio <= np.exp(2 * cap) * (1 + FORMULA * np.finfo(float).eps)).all()
    assert ratio.max() > np.exp(cap)


@few
@given(key=keys())
def test_a_bias_comes_after_the_cap(key):
    q, k, v = drawn(key)
    bias = 100 * normal(key, (G, R, T, S))
    assert_close(
        soft_capped_attention(1e-12, q, k, v, True, bias), dot_product_attention(0 * q, k, v, True, bias), FORMULA
    )


@few
@given(key=keys())
def test_a_sink_is_a_key_of_its_own_score_and_no_value(key):
    q, k, v = drawn(key)
    mask, bias = drawn_mask(key, T, S), normal(key, (G, R, T, S))
    sink = some(G, R)
    k_more, v_more = (jnp.pad(x, ((0, 0), (0, 1), (0, 0))) for x in (k, v))
    column = jnp.broadcast_to(sink[:, :, None, None], (G, R, T, 1))
    expected = dot_product_attention(
        q, k_more, v_more, jnp.pad(mask, ((0, 0), (0, 1)), constant_values=True), jnp.concatenate([bias, column], -1)
    )
    assert_close(sink_attention(sink, q, k, v, mask, bias), expected, FORMULA)


@few
@given(key=keys())
def test_a_sink_is_a_gate_of_the_log_sum_exp(key):
    """So a blockwise attention, which has that sum, needs no other loop for its sinks."""
    q, k, v = drawn(key)
    query, places, sink = Tokens.arange(T, start=-1), Tokens.arange(S), some(G, R)
    o, lse = blockwise_attention(q, k, v, query, places, Causal(), t_block=2, s_block=3)
    expected = o * jax.nn.sigmoid(lse - sink[:, :, None])[..., None]
    assert_close(sink_attention(sink, q, k, v, Causal()(query, places)), expected, FORMULA)


@few
@given(key=keys(), n=st.sampled_from([1, 2, 4]))
def test_a_query_reads_the_n_best_of_what_it_may_see_and_nothing_below(key, n):
    q, k, _ = drawn(key)
    mask = drawn_mask(key, T, S)
    read = top_k_attention(q, k, jnp.broadcast_to(jnp.eye(S), (G, S, S)), mask, n=n) > 0
    np.testing.assert_array_equal(read.sum(-1), jnp.broadcast_to(jnp.minimum(mask.sum(-1), n), (G, R, T)))
    a = jnp.einsum("grtk,gsk->grts", q, k)
    worst_read = jnp.where(read, a, jnp.inf).min(-1)
    assert (jnp.where(mask & ~read, a, -jnp.inf).max(-1) <= worst_read).all()


@few
@given(key=keys(), n=st.sampled_from([1, 2]))
def test_keys_that_tie_with_the_nth_are_all_read(key, n):
    q, k, v = drawn(key)
    alike = jnp.broadcast_to(k[:, :1], k.shape)
    assert_close(top_k_attention(q, alike, v, n=n), dot_product_attention(q, alike, v), FORMULA)


def test_to_read_no_key_at_all_is_refused():
    with pytest.raises(ValueError, match="expected n >= 1, got 0"):
        top_k_attention(*drawn(jax.random.key(0)), n=0)


@few
@given(key=keys(), seed=seeds)
def test_heads_that_exchange_places_and_return_are_as_if_they_had_not_talked(key, seed):
    q, k, v = drawn(key)
    there = jnp.eye(G * R)[np.random.default_rng(seed).permutation(G * R)]
    params = TalkingHeadsParams(there.reshape(G, R, G, R), there.T.reshape(G, R, G, R))
    mask = drawn_mask(key, T, S)
    assert_close(talking_heads_attention(params, q, k, v, mask), dot_product_attention(q, k, v, mask), FORMULA)


@few
@given(key=keys())
def test_a_key_masked_for_one_head_is_not_read_through_another(key):
    q, k, v = drawn(key)
    mask = drawn_mask(key, G, R, T, S).at[0, 0, :, 2].set(False).at[1:, :, 0, 2].set(True)
    attention = USUAL["talking heads"]
    changed = v.at[0, 2].add(1.0)
    np.testing.assert_array_equal(attention(q, k, v, mask)[0, 0], attention(q, k, changed, mask)[0, 0])


@few
@given(key=keys())
def test_by_hand_too_normalized_heads_and_the_gradients_of_their_norms(key):
    q, k, v = drawn(key)
    norms = RMSNormParams(1.5 + some(K)), RMSNormParams(0.5 - some(K, seed=1))
    query, places = Tokens(jnp.arange(T) - 1, jnp.zeros(T, int)), Tokens(jnp.arange(S) % 5 - 1, jnp.zeros(S, int))
    o, pullback = jax.vjp(
        lambda q_norm, k_norm, *qkv: NormalizedHeads(Dense(Causal()), q_norm, k_norm)(*qkv, query, places),
        *norms,
        q,
        k,
        v,
    )
    arrays = jax.tree.map(np.asarray, (q, k, v, query, places))
    by_hand = reference.NormalizedHeads(
        reference_core.Dense(reference_masks.Causal()), *jax.tree.map(np.asarray, norms)
    )
    expected, saved = by_hand(*arrays)
    assert_close(o, expected, FORMULA)
    d_o = np.asarray(some(*o.shape, seed=2))
    gradients = by_hand.backward_with_norms(saved, d_o)
    assert_close(pullback(jnp.asarray(d_o)), gradients, FORMULA)
    assert_close(by_hand.backward(saved, d_o), gradients[2:], FORMULA)
    assert_close(reference_normalization.rms_norm(by_hand.q_norm, arrays[0])[0], rms_norm(norms[0], q), FORMULA)


@few
@given(key=keys())
def test_norms_around_a_rotation_are_what_the_modern_decoder_has(key):
    q, k, v = drawn(key)
    norms, query, places = (
        (RMSNormParams(1.5 + some(K)), RMSNormParams(some(K, seed=1))),
        Tokens.arange(T),
        Tokens.arange(S),
    )

    def turned(q, k, v, query, key):
        return Dense(Causal())(rotary(q, query.position), rotary(k, key.position), v, query, key)

    expected = turned(rms_norm(norms[0], q), rms_norm(norms[1], k), v, query, places)
    assert_close(NormalizedHeads(Rotary(Dense(Causal())), *norms)(q, k, v, query, places), expected, FORMULA)


def test_what_is_learned_begins_where_it_should():
    assert not init_sink(2, 3).any()
    for w in init_talking_heads(2, 3):
        np.testing.assert_array_equal(w.reshape(6, 6), np.eye(6))
    for norm in init_qk_norm(5):
        np.testing.assert_array_equal(norm.scale, np.ones(5))
    assert_close(init_temperature(2, 3, 4, dtype=jnp.float64), np.full((2, 3), np.log2(12)), FORMULA)
    v = jnp.ones((2, 10**4, 1))
    summed = sigmoid_attention(init_shift(2, 3, 10**4), jnp.zeros((2, 3, 1, 4)), jnp.zeros((2, 10**4, 4)), v)
    assert abs(summed - 1).max() < 1e-3


def test_a_text_of_one_token_has_no_temperature():
    with pytest.raises(ValueError, match="expected n >= 2, got 1"):
        init_temperature(1, 1, 1)
    assert init_temperature(1, 1, 2) == 1
