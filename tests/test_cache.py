"""Reading a sequence in pieces gives what reading it whole gives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.layers.attention.biases import Alibi
from minilm.layers.attention.blockwise import Blockwise
from minilm.layers.attention.cache import append, init_cache
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Causal, SlidingWindow
from minilm.layers.attention.multi_head import init_multi_head, multi_head, multi_head_step
from minilm.reference.attention import cache as by_hand
from minilm.shapes import Tokens
from tests.strategies import keys, normal
from tests.tolerances import FORMULA, assert_close

T, D, WINDOW, CHUNK = 11, 6, 4, 3
PARAMS = init_multi_head(jax.random.key(0), D, g=2, r=3, k=4, v=5, dtype=jnp.float64)

step = jax.jit(multi_head_step)
whole = jax.jit(multi_head)


def read(attend, x, chunks, size, padding=0):
    """The sequence through a cache, chunk by chunk, each with some padding at its end."""
    cache, outs, start = init_cache(PARAMS, size), [], 0
    for length in chunks:
        position = jnp.array([*range(start, start + length), *[-1] * padding])
        tokens = Tokens(position, jnp.zeros_like(position))
        chunk = jnp.concatenate([x[start : start + length], 1e3 * jnp.ones((padding, D))])
        cache, y = step(PARAMS, cache, chunk, tokens, attend)
        outs.append(y[:length])
        start += length
    return jnp.concatenate(outs)


@pytest.mark.parametrize(
    "attend",
    [Dense(Causal()), Dense(Causal(), Alibi.of(2, 3)), Blockwise(Causal(), t_block=2, s_block=4)],
    ids=["dense", "alibi", "blockwise"],
)
@given(key=keys(), chunks=st.sampled_from([(11,), (1,) * 11, (5, 1, 5), (1, 5, 5)]), padding=st.sampled_from([0, 2]))
def test_decoding_equals_forward_for_any_split(attend, key, chunks, padding):
    x = normal(key, (T, D))
    expected = whole(PARAMS, x, Tokens.arange(T), attend)
    size = max(T, max(chunks) + padding)  # with none to spare, padding would be written over a token
    assert_close(read(attend, x, chunks, size, padding), expected, FORMULA)


@given(key=keys(), chunks=st.sampled_from([(3, 3, 3, 2), (1,) * 11, (2, 3, 1, 3, 2)]), spare=st.sampled_from([0, 1]))
def test_a_window_rolls_through_a_cache_of_window_and_chunk_less_one(key, chunks, spare):
    attend, x = Dense(Causal() & SlidingWindow(WINDOW)), normal(key, (T, D))
    expected = whole(PARAMS, x, Tokens.arange(T), attend)
    assert_close(read(attend, x, chunks, WINDOW + CHUNK - 1 + spare), expected, FORMULA)


def test_a_window_in_a_smaller_cache_forgets():
    attend, x = Dense(Causal() & SlidingWindow(WINDOW)), normal(jax.random.key(1), (T, D))
    expected = whole(PARAMS, x, Tokens.arange(T), attend)
    with pytest.raises(AssertionError, match="off by"):
        assert_close(read(attend, x, (3, 3, 3, 2), WINDOW + CHUNK - 2), expected, FORMULA)


def test_an_empty_cache_is_seen_by_none():
    cache, one = init_cache(PARAMS, 5), Tokens.arange(1)
    q = jnp.ones((2, 3, 1, 4))
    assert not Dense(Causal())(q, cache.k, cache.v + 7, one, cache.tokens).any()
    assert not Dense(~Causal())(q, cache.k, cache.v + 7, one, cache.tokens).any()


def test_by_hand_too_the_first_token_of_a_text_is_kept_and_padding_is_not():
    empty, one = jax.tree.map(np.asarray, init_cache(PARAMS, 3)), np.ones((2, 2, 4))
    cache, _ = by_hand.append(empty, one, np.ones((2, 2, 5)), Tokens(np.array([0, -1]), np.array([0, 0])))
    assert cache.tokens.position.tolist() == [0, -1, -1]
    assert cache.k.sum(-1).tolist() == [[4, 0, 0], [4, 0, 0]]


def test_a_cache_has_the_dtype_of_its_weights():
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), PARAMS)
    assert init_cache(half, 3).k.dtype == init_cache(half, 3).v.dtype == jnp.bfloat16
    assert init_cache(half, 3, jnp.float32).k.dtype == jnp.float32
    _, y = multi_head_step(half, init_cache(half, 3), jnp.ones((2, D), jnp.float32), Tokens.arange(2), Dense(Causal()))
    assert y.dtype == jnp.float32


def test_a_chunk_longer_than_the_cache_is_refused():
    cache = init_cache(PARAMS, 2)
    with pytest.raises(ValueError, match="a chunk of 3 tokens does not fit a cache of 2 slots"):
        append(cache, jnp.zeros((2, 3, 4)), jnp.zeros((2, 3, 5)), Tokens.arange(3))


@pytest.mark.parametrize("sequences", [1, 2])
@pytest.mark.parametrize("g", [1, 2])
def test_a_token_is_written_into_a_cache_of_float32_and_not_into_a_copy(g, sequences):
    params = init_multi_head(jax.random.key(0), D, g=g, r=3, k=16, v=16)
    cache, one = init_cache(params, 4096), (jnp.zeros((1, D), jnp.float32), Tokens.arange(1))
    cache, (x, tokens) = jax.tree.map(lambda a: jnp.stack([a] * sequences), (cache, one))
    batched = jax.vmap(partial(multi_head_step, attend=Dense(Causal())), in_axes=(None, 0, 0, 0))
    compiled = jax.jit(batched, donate_argnums=1).lower(params, cache, x, tokens).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < cache.k.nbytes
