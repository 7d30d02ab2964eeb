"""What holds of attention itself, whatever its heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.layers.attention.biases import Alibi
from minilm.layers.attention.blockwise import Blockwise
from minilm.layers.attention.core import Dense, DenseWithWeights, Prepared, dot_product_attention, mix, scores
from minilm.layers.attention.masks import Causal, Everything, Padding, SlidingWindow
from minilm.layers.attention.multi_head import (
    MultiHeadParams,
    init_multi_head,
    merge,
    multi_head,
    project,
    softmax_mixer,
)
from minilm.reference.attention import biases as reference_biases
from minilm.reference.attention import core as reference
from minilm.reference.attention import masks as reference_masks
from minilm.reference.attention import multi_head as reference_multi_head
from minilm.shapes import Tokens
from tests.programs import dots
from tests.strategies import keys, normal, normals, seeds, uniform
from tests.tolerances import FORMULA, LAYER, assert_close

G, R, T, S, K, V, D = 2, 3, 5, 7, 4, 6, 8


def drawn(key, dtype=jnp.float64):
    shapes = (G, R, T, K), (G, S, K), (G, S, V)
    return normals(key, shapes, dtype)


def drawn_params(key, g=G, r=R, dtype=jnp.float64):
    shapes = jax.eval_shape(lambda: init_multi_head(key, D, g=g, r=r, k=K, v=V))
    return jax.tree.map(lambda p: normal(key, p.shape, dtype) / 2, shapes)


compiled = jax.jit(multi_head)


@jax.jit
def output_and_gradient_of_the_past(params, x, attend, past):
    y, pullback = jax.vjp(lambda x: multi_head(params, x, Tokens.arange(T), attend), x)
    return y, pullback(jnp.where(past, 1.0, jnp.zeros_like(y)))[0]


@pytest.mark.parametrize("attend", [Dense(Causal()), Blockwise(Causal(), None, 2, 3)], ids=["dense", "blockwise"])
@given(key=keys(), t=st.integers(0, T - 2), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_causal_attention_ignores_the_future(attend, key, t, scale):
    params, x = drawn_params(key, dtype=jnp.float32), normal(key, (T, D), jnp.float32)
    past = jnp.arange(T)[:, None] <= t
    changed = jnp.where(past, x, scale * normal(jax.random.fold_in(key, 1), (T, D), jnp.float32))
    y, gradient = output_and_gradient_of_the_past(params, x, attend, past)
    y_changed, _ = output_and_gradient_of_the_past(params, changed, attend, past)
    np.testing.assert_array_equal(jnp.where(past, y, 0), jnp.where(past, y_changed, 0))
    assert not jnp.where(past, 0, gradient).any()
    assert (gradient.any(1) == past[:, 0]).all()


@given(key=keys(), seed=seeds)
def test_attention_without_positions_commutes_with_permutations(key, seed):
    order = np.random.default_rng(seed).permutation(T)
    params, x, where = drawn_params(key), normal(key, (T, D)), Tokens.arange(T)
    permuted = compiled(params, x[order], where, Dense(Everything()))
    assert_close(permuted, compiled(params, x, where, Dense(Everything()))[order], FORMULA)


@given(key=keys(), seed=seeds)
def test_attention_with_positions_does_not_care_where_tokens_are_stored(key, seed):
    order = np.random.default_rng(seed).permutation(T)
    params, x, where = drawn_params(key), normal(key, (T, D)), Tokens.arange(T)
    moved = compiled(params, x[order], jax.tree.map(lambda p: p[order], where), Dense(Causal()))
    assert_close(moved, compiled(params, x, where, Dense(Causal()))[order], FORMULA)


@given(key=keys(), seed=seeds)
def test_masking_keys_equals_removing_them(key, seed):
    q, k, v = drawn(key)
    kept = np.isin(np.arange(S), np.random.default_rng(seed).permutation(S)[:4])
    masked = dot_product_attention(q, k, v, jnp.array(kept))
    assert_close(masked, dot_product_attention(q, k[:, kept], v[:, kept]), FORMULA)


@given(key=keys())
def test_no_score_however_large_outbids_a_mask(key):
    q, k, v = drawn(key)
    mask = jnp.arange(S) < 3
    expected = dot_product_attention(q, k[:, :3], v[:, :3])
    assert_close(dot_product_attention(q, k.at[:, 3:].multiply(1e12), v, mask), expected, FORMULA)


@given(key=keys())
def test_a_fully_masked_query_gets_zero_and_a_finite_gradient(key):
    q, k, v = drawn(key)
    mask = jnp.arange(T)[:, None] < 3
    o, pullback = jax.vjp(lambda q, k, v: dot_product_attention(q, k, v, mask), q, k, v)
    assert not o[:, :, 3:].any()
    d_q, d_k, d_v = pullback(jnp.ones_like(o))
    assert not d_q[:, :, 3:].any()
    assert all(np.isfinite(d).all() for d in (d_q, d_k, d_v))


@given(key=keys())
def test_grouped_attention_equals_repeated_heads(key):
    params, x, where = drawn_params(key), normal(key, (T, D)), Tokens.arange(T)

    def repeated(w, axis):
        return jnp.repeat(w, R, axis)

    def ungrouped(w, axis):
        return w.reshape(*w.shape[:axis], G * R, 1, *w.shape[axis + 2 :])

    many = MultiHeadParams(
        w_q=ungrouped(params.w_q, 1),
        w_k=repeated(params.w_k, 1),
        w_v=repeated(params.w_v, 1),
        w_o=ungrouped(params.w_o, 0),
        b_q=ungrouped(params.b_q, 0),
        b_k=repeated(params.b_k, 0),
        b_v=repeated(params.b_v, 0),
        b_o=params.b_o,
    )
    assert_close(compiled(params, x, where, Dense(Causal())), compiled(many, x, where, Dense(Causal())), FORMULA)


@given(key=keys())
def test_a_query_by_itself_has_the_scores_that_it_has_among_others(key):
    """By itself, as in decoding, it is multiplied in another order."""
    q, k, d_a = normals(key, [(2, 3, 4, 5), (2, 6, 5), (2, 3, 4, 6)], jnp.float64)
    together, pullback = jax.vjp(scores, q, k)
    alone, pullback_alone = jax.vjp(lambda q, k: jnp.concatenate([scores(q[:, :, [t]], k) for t in range(4)], 2), q, k)
    assert_close((alone, pullback_alone(d_a)), (together, pullback(d_a)), FORMULA)


@pytest.mark.parametrize("t", [1, 2])
def test_scores_of_unlike_dtypes_are_in_the_wider_and_their_gradients_exact(t):
    q, k, d_a = normals(jax.random.key(8), [(2, 3, t, 4), (2, 5, 4), (2, 3, t, 5)], jnp.float64)
    a, pullback = jax.vjp(scores, q, k.astype(jnp.float32))
    assert a.dtype == jnp.float64
    expected = jax.vjp(scores, q, k.astype(jnp.float32).astype(jnp.float64))[1](d_a)
    assert_close(pullback(d_a)[0], expected[0], FORMULA)


@given(key=keys())
def test_what_attends_only_to_itself_returns_its_value(key):
    params, x, where = drawn_params(key), normal(key, (T, D)), Tokens.arange(T)
    _, _, v = project(params, x, x)
    alone = compiled(params, x, where, Dense(SlidingWindow(1)))
    assert_close(alone, merge(params, jnp.repeat(v[:, None], R, 1)), FORMULA)


@given(key=keys())
def test_weights_are_passed_through_and_each_query_has_one_in_all(key):
    params, x = drawn_params(key), normal(key, (2, T, D))
    y, weights = compiled(params, x, Tokens.arange(T), DenseWithWeights(Causal() & Padding(T - 1)))
    assert weights.shape == (2, G, R, T, T)
    assert_close(weights.sum(-1), jnp.broadcast_to(jnp.arange(T) < T - 1, (2, G, R, T)).astype(float), FORMULA)
    assert_close(y, compiled(params, x, Tokens.arange(T), Dense(Causal() & Padding(T - 1))), FORMULA)


@given(key=keys())
def test_cross_attention_to_itself_is_self_attention(key):
    params, x, where = drawn_params(key), normal(key, (2, T, D)), Tokens.arange(T)
    assert_close(
        compiled(params, x, where, Dense(Causal()), x, where), compiled(params, x, where, Dense(Causal())), FORMULA
    )


def test_scores_of_unit_variance_have_unit_variance():
    q, k = normal(jax.random.key(0), (2, 1, 1, 500, 64))
    assert abs(scores(q, k[0]).std() - 1) < scores(q, k[0]).size ** -0.25


@pytest.mark.parametrize("function", [scores, mix])
def test_gradients_too_are_products_of_half_precision(function):
    q, k, v = drawn(jax.random.key(1), jnp.bfloat16)
    arguments = (q, k) if function is scores else (jax.nn.softmax(scores(q, k)), v)
    y, pullback = jax.vjp(function, *arguments)
    assert list(dots(jax.make_jaxpr(pullback)(y).jaxpr)) == 2 * [("bfloat16", "bfloat16", "float32")]
    assert [d.dtype for d in pullback(y)] == [a.dtype for a in arguments]
    exact = jax.vjp(function, *(a.astype(jnp.float64) for a in arguments))[1](y.astype(jnp.float64))
    assert_close(pullback(y), exact, LAYER, jnp.bfloat16)


def test_values_stay_in_the_dtype_of_the_input_and_products_in_that_of_the_weights():
    params, x = drawn_params(jax.random.key(2), dtype=jnp.bfloat16), jnp.ones((T, D), jnp.float32)
    assert {a.dtype for a in project(params, x, x)} == {jnp.dtype(jnp.bfloat16)}
    assert compiled(params, x, Tokens.arange(T), Dense(Causal())).dtype == jnp.float32
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    assert compiled(wide, x.astype(jnp.bfloat16), Tokens.arange(T), Dense(Causal())).dtype == jnp.bfloat16


def test_a_mixer_steps_as_it_applies():
    key = jax.random.key(6)
    mixer = softmax_mixer(Dense(Causal()), g=G, r=R, k=K, v=V)
    params, x = mixer.init(key, D), normal(key, (T, D), jnp.float32)
    state = mixer.init_state(params, T, jnp.float32)
    step, expected = jax.jit(mixer.step), mixer.apply(params, x, Tokens.arange(T))
    for t in range(T):
        state, y = step(params, state, x[t : t + 1], Tokens.arange(1, start=t))
        assert_close(y[0], expected[t], LAYER, jnp.float32)


def test_by_hand_too_attention_that_returns_its_weights_gives_the_same():
    params, x = (jax.tree.map(np.asarray, tree) for tree in (drawn_params(jax.random.key(1)), jnp.ones((2, T, D))))
    where, rule = jax.tree.map(np.asarray, Tokens.arange(T)), reference_masks.Causal()
    (y, _), (expected, _) = (
        reference_multi_head.multi_head(params, x, where, attend(rule))
        for attend in (reference.DenseWithWeights, reference.Dense)
    )
    np.testing.assert_array_equal(y, expected)


def test_memory_without_its_tokens_is_refused():
    with pytest.raises(ValueError, match="go together"):
        multi_head(
            drawn_params(jax.random.key(3)), jnp.ones((T, D)), Tokens.arange(T), Dense(Everything()), jnp.ones((S, D))
        )


@pytest.mark.parametrize(("g", "r"), [(1, 4), (4, 1), (2, 2)])
def test_initial_weights_keep_the_variance_of_their_input(g, r):
    params = init_multi_head(jax.random.key(4), 256, g=g, r=r, k=64, v=64)
    x = normal(jax.random.key(5), (300, 256), jnp.float32)
    q, k, v = project(params, x, x)
    for output in (q, k, v, merge(params, jnp.broadcast_to(v[:, None], (g, r, 300, 64)))):
        assert 0.8 < output.std() < 1.25


def test_initial_weights_deviate_as_they_are_told_and_biases_are_zero_or_absent():
    params = init_multi_head(jax.random.key(4), 64, g=2, r=3, k=5, v=7, deviation=0.3, out_deviation=0.04)
    for w, deviation in ((params.w_q, 0.3), (params.w_k, 0.3), (params.w_v, 0.3), (params.w_o, 0.04)):
        assert abs(w.std() / deviation - 1) < w.size**-0.25
    assert not any(b.any() for b in (params.b_q, params.b_k, params.b_v, params.b_o))
    mixer = softmax_mixer(Dense(Causal()), g=G, r=R, k=K, v=V)
    without = softmax_mixer(Dense(Causal()), g=G, r=R, k=K, v=V, bias=False).init(jax.random.key(0), D)
    assert mixer.init(jax.random.key(0), D).b_o is not None
    assert (without.b_q, without.b_k, without.b_v, without.b_o) == (None, None, None, None)


@given(key=keys())
def test_weights_are_rounded_to_the_dtype_of_the_values_which_is_that_of_the_output(key):
    weights, v = uniform(key, (G, R, T, S), jnp.float32), normal(key, (G, S, V), jnp.bfloat16)
    out = mix(weights, v)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, mix(weights.astype(jnp.bfloat16), v))


@given(key=keys())
def test_the_drawn_weights_heed_mask_and_bias_and_mix_to_the_output(key):
    q, k, v = drawn(key)
    query, seen, bias = Tokens.arange(T), Tokens.arange(S), Alibi(0.5 + uniform(key, (G, R)))
    out, weights = DenseWithWeights(Causal(), bias)(q, k, v, query, seen)
    assert_close(out, Dense(Causal(), bias)(q, k, v, query, seen), FORMULA)
    assert_close(mix(weights, v), out, FORMULA)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_by_hand_too_attention_asks_its_rule_and_its_bias_and_skips_empty_slots(scale, has_bias):
    """Scores of a thousand, of which no exponential is a number, among them."""
    q, k, v = (scale * x for x in drawn(jax.random.key(7)))
    query = Tokens(jnp.arange(T) % 4, jnp.zeros(T, int))
    key = Tokens(jnp.arange(S) % 5 - 1, jnp.zeros(S, int))
    slopes = np.arange(1.0, 1 + G * R).reshape(G, R)
    attend = DenseWithWeights(Causal(), Alibi(jnp.asarray(slopes)) if has_bias else None)
    bias = reference_biases.Alibi(slopes) if has_bias else None
    by_hand = reference.DenseWithWeights(reference_masks.Causal(), bias)
    arrays, places = jax.tree.map(np.asarray, ((q, k, v), (query, key)))
    expected, saved = by_hand(*arrays, *places)
    out, pullback = jax.vjp(lambda *qkv: attend(*qkv, query, key), q, k, v)
    assert_close(out, expected, FORMULA)
    assert_close(reference.Dense(reference_masks.Causal(), bias)(*arrays, *places)[0], expected[0], FORMULA)
    d_o = np.ones(expected[0].shape)
    gradients = pullback((jnp.asarray(d_o), jnp.zeros(expected[1].shape)))
    d_q, d_k, d_v = by_hand.backward(saved, d_o)
    assert_close(gradients, (d_q, d_k, d_v), FORMULA)


class Changed(Prepared):
    """A query changes by its place, and a key by its own."""

    attend = Dense(Causal())

    def prepare(self, q, k, query, key):
        return q + query.position[:, None], 2 * k - key.position[:, None]


def test_what_is_prepared_is_attended_with_queries_as_queries_and_keys_as_keys():
    q, k, v = drawn(jax.random.key(8))
    query, key = Tokens.arange(T, 3), Tokens.arange(S, 1)
    changed = q + jnp.arange(3, 3 + T)[:, None], 2 * k - jnp.arange(1, 1 + S)[:, None]
    assert_close(Changed()(q, k, v, query, key), Dense(Causal())(*changed, v, query, key), FORMULA)
