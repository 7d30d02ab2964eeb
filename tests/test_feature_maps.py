"""Feature maps: what their products are, exactly or on average, and that none of them is negative or overflows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minilm.layers.attention.core import scores
from minilm.layers.linear_attention.feature_maps import (
    elu_plus_one,
    init_random_features,
    random_features,
    taylor_features,
)
from tests.strategies import keys, normal, seeds
from tests.tolerances import FORMULA, SAMPLING, assert_close

T, S, K = 4, 5, 6
few = settings(max_examples=5)


def draw(seed, spread=1.0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(spread * rng.standard_normal(shape)) for shape in ((T, K), (S, K))]


def unit(x):
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


@few
@given(seed=seeds)
def test_products_of_taylor_features_are_the_exponentials_series_of_the_score(seed):
    q, k = draw(seed)
    s = scores(q[None, None], k[None])[0, 0]
    assert_close(taylor_features(q) @ taylor_features(k).T, 1 + s + s**2 / 2, FORMULA)


@pytest.mark.slow
@settings(max_examples=2)
@given(key=keys(), seed=seeds)
def test_products_of_random_features_are_on_average_the_exponential_of_the_score(key, seed):
    """The relative variance of one feature's product is e^(|q' + k'|²) − 1, so the pairs drawn nearly cancel.

    At 0.6 the standard error of 9,000 is 0.0096, while the exponentials themselves are far from 1.
    """
    q, _ = draw(seed)
    q, noise = (unit(x) * K**0.25 for x in (q, jnp.roll(q, 1, axis=0)))
    k = np.sqrt(0.6) * noise - q
    projection = init_random_features(key, 9000, K, dtype=jnp.float64)
    estimate = (random_features(projection, q) * random_features(projection, k)).sum(1)
    expected = jnp.exp(jnp.diagonal(scores(q[None, None], k[None])[0, 0]))
    assert np.abs(estimate / expected - 1).max() < SAMPLING
    assert np.abs(expected - 1).max() > 0.2


@pytest.mark.slow
def test_random_directions_are_orthogonal_in_blocks_and_as_long_as_normal_vectors():
    projection = init_random_features(jax.random.key(0), 9001, K, dtype=jnp.float64)
    assert projection.shape == (9001, K)
    block = projection[K : 2 * K]
    assert_close(block @ block.T, jnp.diag((block**2).sum(1)), FORMULA)
    squares = (projection**2).sum(1)
    assert abs(squares.mean() / K - 1) < SAMPLING
    assert abs(squares.std() / np.sqrt(2 * K) - 1) < SAMPLING
    assert np.abs(np.cov(projection.T) - np.eye(K)).max() < SAMPLING


def test_every_direction_has_a_length_of_its_own():
    lengths = jnp.linalg.norm(init_random_features(jax.random.key(0), 2 * K, K, dtype=jnp.float64), axis=-1)
    assert len({*lengths.round(6).tolist()}) == 2 * K


@few
@given(key=keys(), seed=seeds)
def test_a_common_factor_of_all_keys_cancels_and_one_of_each_key_does_not(key, seed):
    """Why random features have no stabiliser that looks at one key alone."""
    q, k = draw(seed)
    projection = init_random_features(key, 16, K, dtype=jnp.float64)
    phi_q, phi_k = random_features(projection, q), random_features(projection, k)

    def weights(phi_q, phi_k):
        products = phi_q @ phi_k.T
        return products / products.sum(1, keepdims=True)

    expected = weights(phi_q, phi_k)
    assert_close(weights(phi_q / phi_q.max(1, keepdims=True), phi_k / phi_k.max()), expected, FORMULA)
    assert np.abs(weights(phi_q, phi_k / phi_k.max(1, keepdims=True)) - expected).max() > SAMPLING


@pytest.mark.parametrize("size", [0.0, 1.0, 1e2, 1e4])
def test_no_input_makes_random_features_overflow_in_float32(size):
    projection = init_random_features(jax.random.key(0), 256, 64)
    x = size * normal(jax.random.key(1), (50, 64), jnp.float32)
    along = jnp.concatenate([x, projection * 64**0.25])  # the inputs that reach the bound
    out, vjp = jax.vjp(random_features, projection, along)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((out, vjp(jnp.ones_like(out)))))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_elu_plus_one_is_positive_far_below_zero_and_has_slope_one_at_zero(dtype):
    x = jnp.array([-80.0, -20.0, 0.0, 1e4], dtype)
    y, slope = jax.vmap(jax.value_and_grad(elu_plus_one))(x)
    assert (y > 0).all()
    assert slope[2:].tolist() == [1.0, 1.0]
    np.testing.assert_array_equal(slope[:2], y[:2])


@pytest.mark.parametrize("features", [elu_plus_one, taylor_features])
def test_weights_of_any_query_and_key_are_positive(features):
    q, k = draw(0, spread=10.0)
    assert (features(q) @ features(k).T > 0).all()
