"""Differential attention: what is left where nothing is taken away, where all is, and what the weights sum to."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minilm.layers.attention.core import dot_product_attention
from minilm.layers.attention.differential import (
    DifferentialParams,
    differential_attention,
    differential_heads,
    differential_lambda,
    differential_mixer,
    init_differential,
)
from minilm.layers.attention.masks import Causal, SameDocument
from minilm.shapes import Tokens
from tests.mixers import assert_lawful, drawn_params
from tests.strategies import seeds
from tests.tolerances import FORMULA, assert_close

D, G, R, K, V, T, S = 5, 2, 3, 4, 6, 7, 8
MIXER = differential_mixer(Causal() & SameDocument(), g=G, r=R, k=K, v=V, depth=3, bias=True)
few = settings(max_examples=5)


def draw(seed):
    rng = np.random.default_rng(seed)
    q, k, v, bias = (rng.standard_normal(shape) for shape in ((G, R, T, 2 * K), (G, S, 2 * K), (G, S, V), (T, S)))
    return *map(jnp.asarray, (q, k, v)), jnp.asarray(rng.random((T, S)) < 0.7), jnp.asarray(bias)


@few
@given(seed=seeds)
def test_where_lambda_is_zero_it_is_dot_product_attention_of_the_first_halves(seed):
    q, k, v, mask, bias = draw(seed)
    expected = dot_product_attention(q[..., :K], k[..., :K], v, mask, bias)
    assert_close(differential_attention(0.0, q, k, v, mask, bias), expected, FORMULA)


@few
@given(seed=seeds)
def test_it_is_a_difference_of_two_attentions(seed):
    q, k, v, mask, bias = draw(seed)
    first = dot_product_attention(q[..., :K], k[..., :K], v, mask, bias)
    second = dot_product_attention(q[..., K:], k[..., K:], v, mask, bias)
    assert_close(differential_attention(0.3, q, k, v, mask, bias), first - 0.3 * second, FORMULA)


@few
@given(seed=seeds)
def test_what_both_halves_see_alike_cancels(seed):
    q, k, v, mask, bias = draw(seed)
    q, k = (jnp.concatenate([x[..., :K]] * 2, -1) for x in (q, k))
    one_half = differential_attention(0.0, q, k, v, mask, bias)
    assert_close(one_half - differential_attention(1.0, q, k, v, mask, bias), one_half, FORMULA)


@few
@given(seed=seeds)
def test_the_weights_of_a_query_sum_to_one_minus_lambda(seed):
    q, k, _, mask, bias = draw(seed)
    mask = mask.at[:, 0].set(True)
    out = differential_attention(0.3, q, k, jnp.ones((G, S, 1)), mask, bias)
    assert_close(out, jnp.full((G, R, T, 1), 1 - 0.3), FORMULA)


@few
@given(seed=seeds)
def test_a_masked_key_is_a_removed_key(seed):
    q, k, v, _, _ = draw(seed)
    seen = np.array([0, 2, 5])
    masked = differential_attention(0.3, q, k, v, jnp.zeros(S, bool).at[seen].set(True))
    assert_close(masked, differential_attention(0.3, q, k[:, seen], v[:, seen]), FORMULA)


def test_a_query_without_keys_gets_nothing_and_a_finite_gradient():
    q, k, v, mask, _ = draw(0)
    params, mask = init_differential(jax.random.key(0), K, V, dtype=jnp.float64), mask.at[2].set(False)

    def total(*arguments):
        out = differential_heads(*arguments, mask)
        return out.sum(), out

    gradient, out = jax.grad(total, argnums=(0, 1, 2, 3, 4), has_aux=True)(params, 0.3, q, k, v)
    assert not out[:, :, 2].any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert not gradient[2][:, :, 2].any()


@few
@given(seed=seeds)
def test_heads_have_one_scale_however_much_the_difference_has_cancelled(seed):
    q, k, v, _, _ = draw(seed)
    params = init_differential(jax.random.key(seed), K, V, dtype=jnp.float64)
    out = differential_heads(params, 0.4, q, k, 1e4 * v)
    assert_close((out**2).mean(-1), jnp.full((G, R, T), (1 - 0.4) ** 2), 1e4 * FORMULA)


def test_a_constant_in_a_wider_dtype_widens_no_head():
    q, k, v, _, _ = (a.astype(jnp.float32) for a in draw(0))
    params = init_differential(jax.random.key(0), K, V)
    assert differential_heads(params, jnp.array(0.4, jnp.float64), q, k, v).dtype == jnp.float32


def test_lambda_begins_near_a_constant_that_grows_with_depth():
    params = init_differential(jax.random.key(0), 64, V)
    assert params.scale.tolist() == [1.0] * V
    assert abs(jnp.stack(params[:4]).std() / 0.1 - 1) < 256**-0.25
    assert abs(differential_lambda(params, 0.2) - 0.2) < 0.5
    zero = DifferentialParams(*jnp.zeros((4, K)), scale=jnp.ones(V))
    assert_close(differential_lambda(zero, 0.35), 0.35, FORMULA)


@pytest.mark.parametrize(("depth", "lam0"), [(0, 0.2), (3, 0.8 - 0.6 * math.exp(-0.9)), (10**6, 0.8)])
def test_a_mixer_has_the_constant_of_its_depth(depth, lam0):
    mixer = differential_mixer(Causal(), g=G, r=R, k=K, v=V, depth=depth, bias=True)
    params, x = drawn_params(mixer, D), jnp.asarray(np.random.default_rng(1).standard_normal((1, D)))
    y = mixer.apply(params, x, Tokens.arange(1))
    heads = params.multi_head
    v = jnp.einsum("td,dgv->gtv", x, heads.w_v) + heads.b_v[:, None]
    lam = differential_lambda(params.attend, lam0)
    rows = (1 - lam) * v  # of one key, the weight of either softmax is one
    normal = rows / jnp.sqrt((rows**2).mean(-1, keepdims=True) + 1e-5) * params.attend.scale
    expected = (1 - lam0) * jnp.einsum("gtv,grvd->td", normal, heads.w_o) + heads.b_o
    assert_close(y, expected, FORMULA)


def test_queries_and_keys_without_halves_are_refused():
    q, k, v, _, _ = draw(0)
    with pytest.raises(ValueError, match="an even width was expected, but it is 7"):
        differential_attention(0.3, q[..., 1:], k[..., 1:], v)


def test_projections_are_two_halves_wide_and_without_bias():
    params = differential_mixer(g=G, r=R, k=K, v=V, depth=0).init(jax.random.key(0), D)
    assert params.multi_head.w_q.shape == (D, G, R, 2 * K)
    assert params.multi_head.w_k.shape == (D, G, 2 * K)
    assert params.attend.q_1.shape == (K,)
    assert params.multi_head.b_q is None


def test_the_mixer_keeps_what_mixers_promise_with_sizes_that_all_differ_and_documents_apart():
    assert_lawful(MIXER, D)
