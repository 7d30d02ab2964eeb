"""Laws of pooling beyond the table: what counts, what does not, and what order and length have to say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minilm.layers.pooling import (
    AttentionPoolParams,
    attention_pool,
    attention_pool_weights,
    init_attention_pool,
    last_pool,
    max_pool,
    mean_pool,
)
from minilm.reference import pooling as reference
from tests.strategies import seeds
from tests.tolerances import FORMULA, REDUCTION, SAMPLING, assert_close

T, D, K = 5, 3, 2
PARAMS = AttentionPoolParams(*(np.random.default_rng(7).standard_normal(shape) for shape in ((D, K), (K,), (K,))))
POOLS = {
    "mean": mean_pool,
    "max": max_pool,
    "last": last_pool,
    "attention": lambda x, mask=True: attention_pool(jax.tree.map(jnp.asarray, PARAMS), x, mask),
}
SQUARE_AND_GRADIENT = {
    name: jax.jit(jax.value_and_grad(lambda x, mask, pool=pool: (pool(x, mask) ** 2).sum()))
    for name, pool in POOLS.items()
}
every_pool = pytest.mark.parametrize("name", POOLS)
masks = hnp.arrays(bool, T)


def sequence(seed, t=T):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((t, D)))


@every_pool
@given(seeds, masks, st.sampled_from([np.nan, np.inf, -np.inf, 1e30]))
def test_what_does_not_count_changes_nothing_and_receives_no_gradient(name, seed, mask, junk):
    pool, x = SQUARE_AND_GRADIENT[name], sequence(seed)
    polluted = jnp.where(mask[:, None], x, junk)
    y, gradient = pool(polluted, mask)
    jax.tree.map(np.testing.assert_array_equal, (y, gradient), pool(x, mask))
    assert not gradient[~mask].any()
    assert np.isfinite(gradient).all()


@every_pool
def test_a_sequence_of_which_nothing_counts_gives_zero_with_a_gradient_of_zero(name):
    x, mask = jnp.full((T, D), jnp.nan), jnp.zeros(T, bool)
    assert POOLS[name](x, mask).tolist() == [0] * D
    assert not SQUARE_AND_GRADIENT[name](x, mask)[1].any()


@every_pool
def test_a_sequence_without_a_position_is_refused_in_a_sentence(name):
    with pytest.raises(ValueError, match="at least one position, got none: pad it"):
        POOLS[name](jnp.zeros((0, D)))


@every_pool
@given(seed=seeds)
def test_without_a_mask_every_position_counts(name, seed):
    x = sequence(seed)
    np.testing.assert_array_equal(POOLS[name](x), POOLS[name](x, jnp.ones(T, bool)))


@every_pool
@given(seed=seeds, n=st.integers(1, T))
def test_counting_the_first_positions_is_cutting_off_the_others(name, seed, n):
    x = np.asarray(sequence(seed))
    short = x[:n].mean(0), x[:n].max(0), x[n - 1], reference.attention_pool(PARAMS, x[:n])[0]
    assert_close(POOLS[name](jnp.asarray(x), jnp.arange(T) < n), dict(zip(POOLS, short, strict=True))[name], FORMULA)


@pytest.mark.parametrize("name", sorted(POOLS.keys() - {"last"}))
@given(seed=seeds, mask=masks, order=st.permutations(range(T)))
def test_all_but_the_last_position_forget_the_order(name, seed, mask, order):
    x, order = sequence(seed), np.array(order)
    assert_close(POOLS[name](x[order], mask[order]), POOLS[name](x, mask), FORMULA)


@every_pool
def test_a_batch_of_sequences_equals_one_by_one(name):
    batch = jnp.stack([sequence(seed) for seed in range(3)])
    rows = jnp.array([[1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
    singly = [POOLS[name](x, mask) for x, mask in zip(batch, rows, strict=True)]
    assert_close(jax.vmap(POOLS[name])(batch, rows), jnp.stack(singly), FORMULA)


@given(seeds, masks)
def test_a_query_that_asks_nothing_takes_the_mean(seed, mask):
    x = sequence(seed)
    params = AttentionPoolParams(w_k=jnp.asarray(PARAMS.w_k), b_k=jnp.asarray(PARAMS.b_k), q=jnp.zeros(K))
    assert_close(attention_pool(params, x, mask), mean_pool(x, mask), FORMULA)


@given(seeds, masks)
def test_attention_weights_add_up_to_one_over_what_counts(seed, mask):
    w = attention_pool_weights(jax.tree.map(jnp.asarray, PARAMS), sequence(seed), mask)
    assert_close(w.sum(), float(mask.any()), FORMULA)
    assert ((w > 0) == mask).all()


@given(hnp.arrays(np.float64, (T, D), elements=st.integers(1, 3)), masks)
def test_positions_that_share_the_maximum_share_its_gradient(x, mask):
    y, saved = reference.max_pool(x, mask)
    share, _ = reference.max_pool_backward(saved, 2 * y)
    assert_close(SQUARE_AND_GRADIENT["max"](jnp.asarray(x), mask)[1], share, REDUCTION)
    assert_close(share.sum(0), 2 * y, REDUCTION)


def test_a_long_sequence_is_averaged_in_more_digits_than_it_has():
    x = jnp.ones((4096, D), jnp.bfloat16)  # a sum in bfloat16 stops growing at 256
    assert mean_pool(x).tolist() == [1] * D
    assert mean_pool(jnp.full((4096, D), 100, jnp.float16)).tolist() == [100] * D  # whose sum is no float16
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), PARAMS)
    assert attention_pool(params, x).tolist() == [1] * D
    weights = attention_pool_weights(params, x)
    assert weights.dtype == jnp.float32
    assert (weights == 1 / 4096).all()


def test_initial_keys_have_unit_variance_and_the_query_unit_length():
    params = init_attention_pool(jax.random.key(0), 4, 2500)
    assert (params.w_k.shape, params.b_k.tolist(), params.q.shape) == ((4, 2500), [0] * 2500, (2500,))
    assert abs(np.std(params.w_k) * 2 - 1) < SAMPLING
    assert abs(np.linalg.norm(params.q) - 1) < SAMPLING
    for dtype in (jnp.float32, jnp.bfloat16):
        narrow = jax.eval_shape(lambda key, dtype=dtype: init_attention_pool(key, 3, 2, dtype=dtype), jax.random.key(0))
        assert {leaf.dtype for leaf in narrow} == {jnp.dtype(dtype)}
    assert params.q.dtype == jnp.float32
