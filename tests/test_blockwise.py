"""Attention in tiles equals attention at once, in values and gradients."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.layers.attention.biases import Alibi, T5Relative
from minilm.layers.attention.blockwise import Blockwise, blockwise_attention, blockwise_gradients
from minilm.layers.attention.core import Dense, scores
from minilm.layers.attention.masks import Causal, Dilated, Everything, Padding, Prefix, SameDocument, SlidingWindow
from minilm.layers.attention.multi_head import init_multi_head, multi_head
from minilm.pytrees import register
from minilm.reference.attention import blockwise as by_hand
from minilm.shapes import Tokens
from tests.programs import arithmetic, dots
from tests.strategies import keys, normal, normals, seeds
from tests.test_masks import as_reference, rules
from tests.tolerances import FORMULA, LAYER, assert_close

G, R, T, S, K, V = 2, 3, 13, 17, 4, 5


def drawn(key, dtype=jnp.float64):
    """Queries, keys, values, and a gradient of the output."""
    shapes = (G, R, T, K), (G, S, K), (G, S, V), (G, R, T, V)
    return normals(key, shapes, dtype)


def tokens(rng, length, shuffled):
    """Two or three packed documents, or anything at all, with empty slots."""
    document = np.sort(rng.integers(0, 3, length))
    position = np.concatenate([np.arange((document == d).sum()) for d in range(3)])
    if shuffled:
        position, document = rng.integers(-1, 20, length), rng.integers(0, 3, length)
    return Tokens(jnp.array(np.where(rng.random(length) < 0.2, -1, position)), jnp.array(document))


@jax.jit
def value_and_gradients(attend, q, k, v, d_o, query, key):
    def attended(q, k, v, bias):
        return type(attend)(attend.rule, bias, *blocks_of(attend))(q, k, v, query, key)

    o, pullback = jax.vjp(attended, q, k, v, attend.bias)
    return o, pullback(d_o)


def blocks_of(attend):
    return (attend.t_block, attend.s_block) if isinstance(attend, Blockwise) else ()


def pair(rule, bias, key, seed, shuffled):
    """The same in tiles and at once: outputs and gradients, the bias's among them."""
    rng = np.random.default_rng(seed)
    where = tokens(rng, T, shuffled), tokens(rng, S, shuffled)
    tiled = value_and_gradients(Blockwise(rule, bias, t_block=4, s_block=3), *drawn(key), *where)
    return tiled, value_and_gradients(Dense(rule, bias), *drawn(key), *where)


T5 = T5Relative(jnp.arange(32.0 * G * R).reshape(32, G, R) / 9)
ALIBI = Alibi.of(G, R, jnp.float64)


@pytest.mark.parametrize(
    ("rule_of", "bias"),
    [
        (lambda n: Causal() & SameDocument(), None),
        (lambda n: Causal() & SlidingWindow(n) | Prefix(n // 3), ALIBI),
        (lambda n: ~(Causal() | Dilated(n)), T5),
    ],
    ids=["packed documents", "window and prefix, ALiBi", "complement, T5"],
)
@given(n=st.integers(1, 9), key=keys(), seed=seeds, shuffled=st.booleans())
def test_blockwise_equals_dense(rule_of, bias, n, key, seed, shuffled):
    assert_close(*pair(rule_of(n), bias, key, seed, shuffled), FORMULA)


@pytest.mark.slow
@given(rule=rules(), bias=st.sampled_from([None, ALIBI, T5]), key=keys(), seed=seeds, shuffled=st.booleans())
def test_blockwise_equals_dense_under_any_rule(rule, bias, key, seed, shuffled):
    assert_close(*pair(rule, bias, key, seed, shuffled), FORMULA)


@register
@dataclass(frozen=True)
class Slope:
    """A bias that all heads share, `(t, s)`."""

    slope: jax.Array

    def __call__(self, query, key):
        return self.slope * (key.position - query.position[:, None])


def test_a_bias_that_all_heads_share_has_the_same_gradient():
    assert_close(*pair(Causal(), Slope(jnp.array(0.3)), jax.random.key(6), seed=6, shuffled=True), FORMULA)


@register
@dataclass(frozen=True)
class Steps:
    """A bias by distance, from a table that is read through another one, of integers."""

    table: jax.Array
    step: jax.Array

    def __call__(self, query, key):
        return self.table[self.step[jnp.clip(query.position[:, None] - key.position, 0, 4)]]


STEPS = Steps(jnp.array([0.3, -0.7, 1.1]), jnp.array([0, 1, 1, 2, 0]))


def test_a_bias_may_hold_integers_which_have_no_gradient():
    (tiled, (*d_tiled, d_bias)), (dense, (*d_dense, d_same)) = pair(
        Causal(), STEPS, jax.random.key(7), 7, shuffled=True
    )
    assert_close((tiled, d_tiled, d_bias.table), (dense, d_dense, d_same.table), FORMULA)
    assert d_bias.step.dtype == d_same.step.dtype == jax.dtypes.float0


@pytest.mark.parametrize("blocks", [(1, 1), (5, 2), (13, 17), (128, 128)], ids=str)
def test_any_blocks_give_the_same(blocks):
    query, key = Tokens.arange(T, start=4), Tokens.arange(S)
    dense = value_and_gradients(Dense(Causal()), *drawn(jax.random.key(2)), query, key)
    assert_close(
        value_and_gradients(Blockwise(Causal(), None, *blocks), *drawn(jax.random.key(2)), query, key), dense, FORMULA
    )


@pytest.mark.parametrize("blocks", [(5, 2), (3, 7)], ids=str)
def test_the_gradients_of_a_share_are_the_same_in_tiles_that_divide_nothing(blocks):
    (q, k, v, _), at = drawn(jax.random.key(1)), np.random.default_rng(1)
    query, key = tokens(at, q.shape[2], True), tokens(at, k.shape[1], True)
    out = blockwise_attention(q, k, v, query, key, Causal())
    d_out = jax.tree.map(lambda a: at.standard_normal(a.shape), out)
    whole, tiled = (
        blockwise_gradients(q, k, v, query, key, Causal(), None, *out, *d_out, t_block=t, s_block=s)
        for t, s in ((128, 128), blocks)
    )
    assert_close(tiled, whole, FORMULA)


def test_lse_is_the_logarithm_of_the_sum_that_a_softmax_divides_by():
    q, k, v, _ = drawn(jax.random.key(3))
    where = Tokens.arange(T), Tokens.arange(S)
    _, lse = blockwise_attention(q, k, v, *where, Everything(), t_block=4, s_block=3)
    assert_close(lse, jax.nn.logsumexp(scores(q, k), axis=-1), FORMULA)


def test_a_query_that_sees_nothing_gets_zero_and_passes_no_gradient():
    q, k, v, d_o = drawn(jax.random.key(4))
    rule, query, key = Causal() & Padding(5), Tokens.arange(T), Tokens.arange(S)
    o, (d_q, d_k, d_v, _) = value_and_gradients(Blockwise(rule, None, 4, 3), q, k, v, d_o, query, key)
    assert not o[:, :, 5:].any()
    assert not d_q[:, :, 5:].any()
    assert np.isfinite(d_q).all()
    assert np.isfinite(d_k).all()
    assert not d_v[:, 5:].any()
    _, lse = blockwise_attention(q, k, v, query, key, rule, t_block=4, s_block=3)
    assert np.isneginf(lse[:, :, 5:]).all()


def test_by_hand_too_a_query_that_sees_nothing_gets_zero_and_without_bias_lse_is_that_of_the_scores():
    arrays, where = [np.asarray(x) for x in drawn(jax.random.key(3))[:3]], (Tokens.arange(T), Tokens.arange(S))
    rule = Causal() & Padding(5)
    (o, lse), _ = by_hand.blockwise_attention(*arrays, *jax.tree.map(np.asarray, where), as_reference(rule))
    assert_close((o, lse[:, :, :5]), cut(blockwise_attention(*arrays, *where, rule, t_block=4, s_block=3)), FORMULA)
    assert np.isneginf(lse[:, :, 5:]).all()


def cut(out):
    """The output, and the lse of the queries that see something."""
    return out[0], out[1][:, :, :5]


def test_large_scores_of_either_sign_neither_overflow_nor_unmask():
    q, k, v, d_o = drawn(jax.random.key(5))
    query, key = Tokens.arange(T), Tokens.arange(S)
    for scale in (1e4, -1e4):
        arguments = (scale * q, 1e4 * k, v, d_o, query, key)
        assert_close(
            value_and_gradients(Blockwise(Causal(), None, 4, 3), *arguments),
            value_and_gradients(Dense(Causal()), *arguments),
            FORMULA,
        )


@pytest.mark.parametrize("rule", [Causal(), Causal() & SlidingWindow(5), Causal() & SameDocument()], ids=str)
def test_tiles_beyond_reach_are_never_visited(rule):
    """What is not visited cannot be seen: infinite keys there leave no NaN, as 0 · ∞ in a visited tile would."""
    q, k, v, _ = (x[:, :, :12] if x.ndim == 4 else x[:, :12] for x in drawn(jax.random.key(6)))
    document = jnp.repeat(jnp.arange(3), 4)
    where = Tokens(jnp.arange(12), document)
    tiles = np.asarray(rule(where, where)).reshape(3, 4, 3, 4).any((1, 3))
    for tile, visited in enumerate(tiles):
        poisoned = v.at[:, np.repeat(~visited, 4)].set(jnp.nan)
        o = Blockwise(rule, None, 4, 4)(q, k, poisoned, where, where)
        assert np.isfinite(o[:, :, 4 * tile : 4 * tile + 4]).all()


def test_products_are_of_half_precision_and_their_sums_are_not():
    query, key = Tokens.arange(T, start=4), Tokens.arange(S)
    half = drawn(jax.random.key(7), jnp.bfloat16)
    exact = value_and_gradients(Dense(Causal()), *(x.astype(jnp.float64) for x in half), query, key)
    tiled = value_and_gradients(Blockwise(Causal(), None, 4, 3), *half, query, key)
    assert {leaf.dtype for leaf in jax.tree.leaves(tiled)} == {jnp.dtype(jnp.bfloat16)}
    assert_close(tiled, exact, LAYER, jnp.bfloat16)
    jaxpr = jax.make_jaxpr(value_and_gradients)(Blockwise(Causal(), None, 4, 3), *half, query, key).jaxpr
    products = list(dots(jaxpr))
    assert len(products) >= 7
    assert set(products) == {("bfloat16", "bfloat16", "float32")}
    assert "bfloat16" not in arithmetic(jaxpr)


def test_the_gradient_of_a_bias_is_in_its_own_precision():
    query, key = Tokens.arange(T, start=4), Tokens.arange(S)
    bias = jax.tree.map(lambda slopes: slopes.astype(jnp.float32), ALIBI)
    tiled, dense = (
        value_and_gradients(attend, *drawn(jax.random.key(8)), query, key)[1][-1]
        for attend in (Blockwise(Causal(), bias, 4, 3), Dense(Causal(), bias))
    )
    assert tiled.slopes.dtype == jnp.float32
    assert_close(tiled, dense, LAYER, jnp.float32)


def test_multi_head_is_the_same_in_tiles_with_a_place_for_each_sequence():
    key = jax.random.key(9)
    params = init_multi_head(key, 6, g=G, r=R, k=K, v=V, dtype=jnp.float64)
    x = normal(key, (2, 3, T, 6))
    start = jnp.arange(6).reshape(2, 3, 1)
    where = Tokens(jnp.maximum(jnp.arange(T) - start, -1), jnp.broadcast_to(start, (2, 3, T)))
    rule = Causal() & SlidingWindow(4) | Prefix(2)
    tiled = jax.jit(multi_head)(params, x, where, Blockwise(rule, None, 4, 3))
    assert_close(tiled, jax.jit(multi_head)(params, x, where, Dense(rule)), FORMULA)


def test_other_numbers_in_a_rule_are_not_compiled_again():
    q, k, v, _ = drawn(jax.random.key(8))
    attend = jax.jit(lambda a: a(q, k, v, Tokens.arange(T), Tokens.arange(S)))
    for width in (1, 2, 9):
        attend(Blockwise(Causal() & SlidingWindow(width)))
    assert attend._cache_size() == 1


def gradient_of_a_gradient(attend):
    q, k, v, _ = drawn(jax.random.key(9))

    def total(k):
        return jnp.sum(attend(q, k, v, Tokens.arange(T), Tokens.arange(S)) ** 2)

    return jax.grad(lambda k: jnp.sum(jax.grad(total)(k) ** 2))(k)


def test_a_second_derivative_is_refused_in_a_sentence_that_says_what_has_one():
    with pytest.raises(
        ValueError, match=r"no second derivative: take one that holds all scores, `Dense\(rule, bias\)`"
    ):
        gradient_of_a_gradient(Blockwise(Causal(), None, 4, 3))
    assert jnp.isfinite(gradient_of_a_gradient(Dense(Causal()))).all()


def test_a_gradient_that_is_held_constant_needs_no_second_derivative():
    """As in a step of gradient descent within a loss, which is differentiated where it led (MAML, to first order)."""
    q, k, v, _ = drawn(jax.random.key(9))

    def after_a_step(attend):
        def total(k):
            return jnp.sum(attend(q, k, v, Tokens.arange(T), Tokens.arange(S)) ** 2)

        return jax.jit(jax.grad(lambda k: total(k - 0.1 * jax.lax.stop_gradient(jax.grad(total)(k)))))(k)

    assert_close(after_a_step(Blockwise(Causal(), None, 4, 3)), after_a_step(Dense(Causal())), FORMULA)


def test_the_gradient_needs_a_twentieth_of_the_room_that_all_scores_do():
    """Of temporaries, at 2048 positions of 8 heads of 64: arguments and results are the same for both, 29 MB."""
    q, k = jax.ShapeDtypeStruct((8, 1, 2048, 64), jnp.float32), jax.ShapeDtypeStruct((8, 2048, 64), jnp.float32)
    where = Tokens.arange(2048)

    def temporaries(attend):
        def gradients(q, k, v, d_o):
            return jax.vjp(lambda q, k, v: attend(q, k, v, where, where), q, k, v)[1](d_o)

        return jax.jit(gradients).lower(q, k, k, q).compile().memory_analysis().temp_size_in_bytes

    assert 20 * temporaries(Blockwise(Causal())) <= temporaries(_jax_attention)


def _jax_attention(q, k, v, query, key):
    q, k, v = (jnp.moveaxis(x, 0, 1) for x in (q[:, 0], k, v))
    return jnp.moveaxis(jax.nn.dot_product_attention(q, k, v, is_causal=True), 1, 0)[:, None]
