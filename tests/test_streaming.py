"""Streaming with sinks: what it is in a short text, what it promises in a long one, and that its cache never grows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Causal, Prefix, SlidingWindow
from minilm.layers.attention.multi_head import softmax_mixer
from minilm.layers.attention.rotary import Rotary
from minilm.layers.attention.streaming import Streaming, streaming_append, streaming_attention, streaming_mixer
from minilm.reference.attention import streaming as reference
from minilm.shapes import Tokens
from tests.mixers import assert_dtypes, subject
from tests.strategies import seeds
from tests.tolerances import FORMULA, LAYER, assert_close

SINKS, WINDOW, D, T = 2, 3, 5, 12
MIXER = streaming_mixer(g=2, r=3, k=4, v=1, sinks=SINKS, window=WINDOW, theta=100.0)
PARAMS = jax.tree.map(
    lambda w: jnp.asarray(np.random.default_rng(0).standard_normal(w.shape)), MIXER.init(jax.random.key(0), D)
)
few = settings(max_examples=5)
whole, step = jax.jit(MIXER.apply), jax.jit(MIXER.step)


def drawn(seed, length, dtype=jnp.float64, g=2, r=3, k=4, v=1):
    rng = np.random.default_rng(seed)
    return [
        jnp.asarray(rng.standard_normal(shape), dtype) for shape in ((g, r, length, k), (g, length, k), (g, length, v))
    ]


def read(x, chunks, start=0, state=None):
    state = MIXER.init_state(PARAMS, 1, jnp.float64) if state is None else state
    ys = []
    for length in chunks:
        state, y = step(PARAMS, state, x[:length], Tokens.arange(length, start))
        x, start, ys = x[length:], start + length, [*ys, y]
    return state, jnp.concatenate(ys)


@few
@given(seed=seeds, length=st.sampled_from([1, SINKS + WINDOW]))
def test_in_a_text_no_longer_than_the_cache_it_is_rotary_causal_attention(seed, length):
    q, k, v = drawn(seed, length)
    where = Tokens.arange(length)
    expected = Rotary(Dense(Causal()), 100.0)(q, k, v, where, where)
    assert_close(Streaming(SINKS, WINDOW, 100.0)(q, k, v, where, where), expected, FORMULA)


@few
@given(seed=seeds)
def test_in_a_longer_text_it_is_not(seed):
    q, k, v = drawn(seed, SINKS + WINDOW + 1)
    where = Tokens.arange(SINKS + WINDOW + 1)
    attends = Streaming(SINKS, WINDOW, 100.0), Rotary(Dense(Causal() & (SlidingWindow(WINDOW) | Prefix(SINKS))), 100.0)
    streaming, rotary = (attend(q, k, v, where, where)[:, :, -1] for attend in attends)
    assert jnp.abs(streaming - rotary).max() > 0


@few
@given(seed=seeds)
def test_without_sinks_it_is_a_sliding_window(seed):
    q, k, v = drawn(seed, T)
    where = Tokens.arange(T)
    expected = Rotary(Dense(Causal() & SlidingWindow(WINDOW)), 100.0)(q, k, v, where, where)
    assert_close(Streaming(0, WINDOW, 100.0)(q, k, v, where, where), expected, FORMULA)


@few
@given(seed=seeds, size=st.sampled_from([1e3, -1e3]))
def test_scores_whose_exponentials_no_number_holds_are_weighed_by_hand_too(seed, size):
    """All large, and all of one sign where the first token sees itself alone."""
    q, k, v = drawn(seed, 2)
    arguments = size * abs(q), abs(k), v, Tokens.arange(2), Tokens.arange(2)
    options = {"sinks": SINKS, "window": WINDOW, "theta": 100.0}
    expected, _ = reference.streaming_attention(*jax.tree.map(np.asarray, arguments), **options)
    assert_close(streaming_attention(*arguments, **options), expected, FORMULA)


@few
@given(seed=seeds, p=st.integers(0, T - 1))
def test_a_query_sees_its_cache_as_if_it_were_the_whole_text(seed, p):
    """The paper's own words: the tokens that are kept, at positions 0, 1, 2, ... of a text of their own."""
    q, k, v = drawn(seed, T)
    where = Tokens.arange(T)
    kept = np.array([j for j in range(p + 1) if j < SINKS or p - j < WINDOW])
    cache = Tokens.arange(len(kept))
    asking = Tokens.arange(1, len(kept) - 1)
    expected = Rotary(Dense(Causal()), 100.0)(q[:, :, p : p + 1], k[:, kept], v[:, kept], asking, cache)
    actual = Streaming(SINKS, WINDOW, 100.0)(q, k, v, where, where)
    assert_close(actual[:, :, p : p + 1], expected, FORMULA)


def test_however_long_the_text_the_cache_holds_its_first_and_its_last_tokens():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((T, D)))
    for chunks in ((T,), (3, 9)):
        state, y = read(x, chunks)
        assert_close(y, whole(PARAMS, x, Tokens.arange(T)), FORMULA)
        assert state.k.shape == (2, SINKS + WINDOW, 4)
        np.testing.assert_array_equal(np.sort(state.tokens.position), [0, 1, T - 3, T - 2, T - 1])


def test_a_chunk_of_padding_alone_is_read_as_nothing():
    state, _ = read(jnp.ones((4, D)), (4,))
    nowhere = jnp.full(3, -1, jnp.int32)
    after, y = step(PARAMS, state, jnp.ones((3, D)), Tokens(nowhere, jnp.zeros_like(nowhere)))
    jax.tree.map(np.testing.assert_array_equal, after, state)
    assert_close(y, jnp.broadcast_to(PARAMS.b_o, (3, D)), FORMULA)


@few
@given(seed=seeds, far=st.sampled_from([10**4, 10**6, 2 * 10**9]))
def test_far_into_a_text_float32_is_as_exact_as_at_its_beginning(seed, far):
    """The angles are those of places in the cache; of positions in the text they would be off by far · 1.2e-7."""
    q, k, v = drawn(seed, SINKS + WINDOW, jnp.float32)
    near = Tokens.arange(SINKS + WINDOW)
    query = Tokens(jnp.array([far], jnp.int32), jnp.zeros(1, jnp.int32))
    held = Tokens(jnp.array([0, 1, far - 2, far - 1, far], jnp.int32), jnp.zeros(5, jnp.int32))
    actual = streaming_attention(q[:, :, -1:], k, v, query, held, sinks=SINKS, window=WINDOW)
    expected = Rotary(Dense(Causal()))(q, k, v, near, near)[:, :, -1:]
    assert_close(actual, expected, LAYER, jnp.float32)


def test_the_gradient_of_a_query_without_keys_is_finite_and_its_output_zero():
    q, k, v = drawn(0, 4)
    nowhere = Tokens(jnp.full(4, -1, jnp.int32), jnp.zeros(4, jnp.int32))

    def total(q, k, v):
        out = streaming_attention(q, k, v, nowhere, nowhere, sinks=1, window=2)
        return out.sum(), out

    gradient, out = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(q, k, v)
    assert not out.any()
    assert all(jnp.isfinite(leaf).all() for leaf in gradient)


def test_a_chunk_longer_than_the_cache_leaves_its_first_and_last_tokens():
    state = MIXER.init_state(PARAMS, 1, jnp.float64)
    _, k, v = drawn(0, T)
    state = streaming_append(state, k, v, Tokens.arange(T), sinks=SINKS)
    order = np.argsort(state.tokens.position)
    np.testing.assert_array_equal(state.k[:, order], k[:, np.array([0, 1, T - 3, T - 2, T - 1])])


def test_in_whatever_order_a_chunk_is_its_first_and_last_tokens_stay():
    _, *chunk = drawn(0, T)
    backwards = [a[:, ::-1] for a in chunk], jax.tree.map(lambda n: n[::-1], Tokens.arange(T))
    state, expected = (
        streaming_append(MIXER.init_state(PARAMS, 1, jnp.float64), *kv, tokens, sinks=SINKS)
        for kv, tokens in (backwards, (chunk, Tokens.arange(T)))
    )
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_a_chunk_may_be_empty():
    state, _ = read(jnp.ones((4, D)), (4,))
    q, k, v = drawn(0, 0)
    after = streaming_append(state, k, v, Tokens.arange(0), sinks=SINKS)
    jax.tree.map(np.testing.assert_array_equal, after, state)
    y = streaming_attention(q, state.k, state.v, Tokens.arange(0), state.tokens, sinks=SINKS, window=WINDOW)
    assert y.shape == (2, 3, 0, 1)


def test_a_window_of_one_holds_the_last_token_from_the_first_on():
    mixer = streaming_mixer(g=2, r=3, k=4, v=1, sinks=0, window=1)
    _, k, v = drawn(0, 2)
    state = mixer.init_state(PARAMS, 1, jnp.float64)
    for t in range(2):
        state = streaming_append(state, k[:, t : t + 1], v[:, t : t + 1], Tokens.arange(1, t), sinks=0)
        np.testing.assert_array_equal(state.k, k[:, t : t + 1])


def test_the_cache_keeps_its_dtype():
    assert_dtypes(subject(MIXER, D), (jnp.bfloat16, jnp.float32), (jnp.float32, jnp.float64))


def test_a_mixer_has_the_papers_four_sinks_and_the_parameters_of_a_rotary_one():
    sizes = {"g": 2, "r": 3, "k": 4, "v": 1}
    mixer, rotary = streaming_mixer(**sizes, window=7), softmax_mixer(Rotary(Dense(Causal())), **sizes)
    assert mixer.init_state(PARAMS, 1).tokens.position.shape == (4 + 7,)
    assert mixer.init_state(PARAMS, 1, jnp.bfloat16).k.dtype == jnp.bfloat16
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 11, D)))
    params = mixer.init(jax.random.key(1), D)
    assert_close(
        mixer.apply(params, x, Tokens.arange(11)), rotary.apply(params, x, Tokens.arange(11)), LAYER, jnp.float32
    )
    assert streaming_mixer(**sizes, window=7, bias=False).init(jax.random.key(1), D).b_q is None


@pytest.mark.parametrize(("sinks", "window"), [(-1, 4), (4, 0)])
def test_a_cache_that_cannot_be_is_refused_in_a_sentence(sinks, window):
    with pytest.raises(ValueError, match="were expected, but they are"):
        streaming_mixer(g=1, r=1, k=2, v=2, sinks=sinks, window=window)
