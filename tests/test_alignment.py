"""Bahdanau's and Luong's scores: at which settings one is the other, and what their weights promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minilm.layers.activation import softmax
from minilm.layers.attention import core
from minilm.layers.attention.additive import AdditiveParams, additive_attention, additive_scores, init_additive
from minilm.layers.attention.multiplicative import (
    ConcatParams,
    LocalParams,
    concat_scores,
    dot_scores,
    general_scores,
    init_concat,
    init_local,
    local_p_weights,
    location_scores,
)
from minilm.reference.attention import multiplicative as by_hand
from tests.strategies import seeds
from tests.tolerances import FORMULA, assert_close

T, S, H, I, K = 4, 5, 3, 2, 6
few = settings(max_examples=5)


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape)) for shape in shapes]


@few
@given(seed=seeds)
def test_dot_scores_are_those_of_the_transformer_without_their_root(seed):
    q, k = draw(seed, (T, H), (S, H))
    assert_close(dot_scores(q, k), np.sqrt(H) * core.scores(q[None, None], k[None])[0, 0], FORMULA)


@few
@given(seed=seeds)
def test_general_scores_with_the_identity_are_dot_scores(seed):
    q, k = draw(seed, (T, H), (S, H))
    assert_close(general_scores(jnp.eye(H), q, k), dot_scores(q, k), FORMULA)


@few
@given(seed=seeds)
def test_concat_scores_are_additive_scores(seed):
    w_q, w_k, v, q, k = draw(seed, (H, K), (I, K), K, (T, H), (S, I))
    concat = concat_scores(ConcatParams(jnp.concatenate([w_q, w_k]), v), q, k)
    assert_close(concat, additive_scores(AdditiveParams(w_q, w_k, v), q, k), FORMULA)


@few
@given(seed=seeds)
def test_location_scores_are_general_scores_of_numbered_places(seed):
    w, q = draw(seed, (H, S), (T, H))
    assert_close(location_scores(w, q), general_scores(w, q, jnp.eye(S)), FORMULA)


@few
@given(seed=seeds)
def test_an_unbounded_reach_is_no_window(seed):
    w_p, v_p, q, scores = draw(seed, (H, K), K, (T, H), (T, S))
    weights = local_p_weights(LocalParams(w_p, v_p), q, scores, reach=1e9)
    assert_close(weights, softmax(scores), FORMULA)


@few
@given(seed=seeds)
def test_a_window_is_around_its_place_and_the_weights_sum_to_less_than_one(seed):
    w_p, v_p, q, scores = draw(seed, (H, K), K, (T, H), (T, S))
    weights = local_p_weights(LocalParams(w_p, v_p), q, scores, reach=1.5)
    p = S * jax.nn.sigmoid(jnp.tanh(q @ w_p) @ v_p)
    np.testing.assert_array_equal(weights > 0, abs(np.arange(S) - p[:, None]) <= 1.5)
    assert (weights.sum(1) <= 1).all()


def test_a_place_at_the_very_end_of_the_window_is_inside_for_the_layer_and_by_hand():
    params, q, scores = LocalParams(jnp.zeros((2, 3)), jnp.zeros(3)), jnp.ones((1, 2)), jnp.zeros((1, 4))
    weights = local_p_weights(params, q, scores, reach=1.0)  # the middle of four places is at 2
    assert_close(weights, np.array([[0, np.exp(-2) / 3, 1 / 3, np.exp(-2) / 3]]), FORMULA)
    assert_close(
        by_hand.local_p_weights(*jax.tree.map(np.asarray, (params, q, scores)), reach=1.0)[0], weights, FORMULA
    )


@pytest.mark.parametrize("far", [-1e4, 1e4])
def test_a_query_that_is_certain_of_the_first_place_or_the_last_overflows_nowhere(far):
    params, q, scores = LocalParams(jnp.full((2, 3), 9.0), jnp.full(3, far)), jnp.ones((1, 2)), jnp.zeros((1, 4))
    weights = local_p_weights(params, q, scores, reach=1.5)
    assert_close(
        by_hand.local_p_weights(*jax.tree.map(np.asarray, (params, q, scores)), reach=1.5)[0], weights, FORMULA
    )
    assert weights[0].argmax() == (3 if far > 0 else 0)


@few
@given(seed=seeds)
def test_the_weights_of_a_query_sum_to_one_over_its_keys(seed):
    """Of values that are all one the average is one; over the queries, weights sum to anything."""
    w_q, w_k, v, q, k = draw(seed, (H, K), (I, K), K, (T, H), (S, I))
    mask = jnp.arange(S) < 3
    out = additive_attention(AdditiveParams(w_q, w_k, v), q, k, jnp.ones((S, 1)), mask)
    assert_close(out, jnp.ones((T, 1)), FORMULA)


@few
@given(seed=seeds)
def test_a_masked_key_is_a_removed_key(seed):
    w_q, w_k, v, q, k, values = draw(seed, (H, K), (I, K), K, (T, H), (S, I), (S, 2))
    params, seen = AdditiveParams(w_q, w_k, v), np.array([0, 2, 3])
    masked = additive_attention(params, q, k, values, jnp.zeros(S, bool).at[seen].set(True))
    assert_close(masked, additive_attention(params, q, k[seen], values[seen]), FORMULA)


def test_a_query_without_keys_gets_nothing_and_a_finite_gradient():
    w_q, w_k, v, q, k, values = draw(0, (H, K), (I, K), K, (T, H), (S, I), (S, 2))
    mask = jnp.ones((T, S), bool).at[1].set(False)

    def total(*arguments):
        out = additive_attention(*arguments, mask)
        return out.sum(), out

    gradient, out = jax.grad(total, argnums=(0, 1, 2, 3), has_aux=True)(AdditiveParams(w_q, w_k, v), q, k, values)
    assert not out[1].any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert not gradient[1][1].any()


def test_initial_weights_are_of_unit_size_and_every_query_begins_in_the_middle():
    additive, concat = init_additive(jax.random.key(0), 300, 200, 400), init_concat(jax.random.key(1), 300, 200, 400)
    local = init_local(jax.random.key(2), 300, 400)
    widths = [(300, additive.w_q), (200, additive.w_k), (400, additive.v), (500, concat.w), (400, concat.v)]
    for width, leaf in [*widths, (300, local.w_p)]:
        assert leaf.shape in ((width, 400), (400,))
        assert abs(leaf.std() * np.sqrt(width) - 1) < 0.1
    weights = local_p_weights(local, jnp.ones((1, 300)), jnp.zeros((1, 7)), jnp.arange(7) < 6, reach=2.0)
    assert int(weights.argmax()) == 3
