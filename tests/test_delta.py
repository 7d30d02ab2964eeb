"""The delta rule: three forms of one function whatever the keys, and what it is at the ends of its gates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.linear_attention.decay import decay_chunked
from minilm.layers.linear_attention.delta import delta_chunked, delta_parallel, delta_step
from minilm.layers.linear_attention.loop import loop
from tests.records.linear_attention_delta import drawn_gates, drawn_keys
from tests.strategies import normal, seeds
from tests.tolerances import FORMULA, MODEL, assert_close

G, T, K, V = 2, 19, 3, 5
correlations = pytest.mark.parametrize("correlation", [0.0, 0.5, 0.99, 1.0])
few = settings(max_examples=5)


def drawn(seed, correlation=0.5, g=G, t=T, k=K, v=V):
    """A state, queries, keys of length one, values and gates, a fifth of them at either end."""
    rng = np.random.default_rng(seed)
    state, q, values = (rng.standard_normal(shape) for shape in ((g, k, v), (g, t, k), (g, t, v)))
    beta, log_decay = drawn_gates(rng, g, t)
    return [jnp.asarray(x) for x in (state, q, drawn_keys(rng, correlation, g, t, k), values, beta, log_decay)]


@jax.jit
def looped(*arguments):
    return loop(delta_step, *arguments)


@correlations
@pytest.mark.parametrize("chunk", [1, 8, T, 64])
@few
@given(seed=seeds)
def test_chunks_of_any_size_equal_the_loop_in_values_and_gradients_whatever_the_keys(chunk, correlation, seed):
    arguments = drawn(seed, correlation)
    out, pullback = jax.vjp(looped, *arguments)
    chunked, chunked_pullback = jax.vjp(lambda *a: delta_chunked(*a, chunk=chunk), *arguments)
    assert_close(chunked, out, FORMULA)
    assert_close(chunked_pullback(out), pullback(out), FORMULA)


@correlations
@few
@given(seed=seeds)
def test_the_parallel_form_equals_the_loop_from_an_empty_state(correlation, seed):
    state, *arguments = drawn(seed, correlation)
    (_, o), pullback = jax.vjp(looped, 0 * state, *arguments)
    parallel, parallel_pullback = jax.vjp(delta_parallel, *arguments)
    assert_close(parallel, o, FORMULA)
    assert_close(parallel_pullback(o), pullback((0 * state, o))[1:], FORMULA)


@correlations
def test_forward_substitution_keeps_single_precision_where_repeated_squaring_has_none_left(correlation):
    """128 tokens of one chunk; by repeated squaring the errors were 310 and 7e10 of the result at .5 and .99."""
    arguments = drawn(0, correlation, t=128, k=16)
    arguments[-2:] = jnp.ones((G, 128)), jnp.zeros((G, 128))
    expected = looped(*arguments)
    arguments = [x.astype(jnp.float32) for x in arguments]
    assert_close(delta_chunked(*arguments, chunk=128), expected, MODEL, jnp.float32)
    state, *rest = arguments
    assert_close(delta_parallel(*rest), delta_chunked(0 * state, *rest, chunk=8)[1], MODEL, jnp.float32)


@few
@given(seed=seeds, cut=st.sampled_from([1, 6, 16]))
def test_what_was_read_in_two_pieces_was_read(seed, cut):
    state, *arguments = drawn(seed)
    middle, first = delta_chunked(state, *(x[:, :cut] for x in arguments), chunk=4)
    last, second = delta_chunked(middle, *(x[:, cut:] for x in arguments), chunk=4)
    assert_close((last, jnp.concatenate([first, second], 1)), looped(state, *arguments), FORMULA)


@few
@given(seed=seeds)
def test_with_orthonormal_keys_it_is_linear_attention(seed):
    """Under each key nothing stands yet but what the state before held, which linear attention would add to."""
    state, q, _, v, *_ = drawn(seed, k=T + 2)
    keys = jnp.linalg.qr(normal(jax.random.key(seed), (G, T + 2, T)))[0].mT
    one, kept = jnp.ones((G, T)), jnp.zeros((G, T))
    scores = jnp.tril(jnp.einsum("gtk,gsk->gts", q, keys))
    assert_close(delta_parallel(q, keys, v, one, kept), scores @ v, FORMULA)
    assert_close(
        delta_chunked(0 * state, q, keys, v, one, kept, chunk=8), decay_chunked(0 * state, q, keys, v, kept), FORMULA
    )


@few
@given(seed=seeds)
def test_with_orthogonal_keys_and_any_gates_it_is_the_fading_state_of_values_times_beta(seed):
    state, q, _, v, beta, log_decay = drawn(seed, k=T + 2)
    keys = jnp.linalg.qr(normal(jax.random.key(seed), (G, T + 2, T)))[0].mT
    faded = decay_chunked(0 * state, q, keys, beta[..., None] * v, log_decay)
    assert_close(delta_chunked(0 * state, q, keys, v, beta, log_decay, chunk=8), faded, FORMULA)


@pytest.mark.parametrize("chunk", [1, 8, 64])
def test_with_beta_zero_and_an_open_gate_the_state_is_kept_bit_for_bit(chunk):
    state, q, k, v, beta, log_decay = drawn(3)
    after, o = delta_chunked(state, q, k, v, 0 * beta, jnp.zeros_like(log_decay), chunk=chunk)
    assert (after == state).all()
    assert_close(o, jnp.einsum("gkv,gtk->gtv", state, q), FORMULA)


def test_what_stands_under_a_key_is_replaced_exactly_when_it_is_written_again():
    one, zero, keys = jnp.ones((1, 3)), jnp.zeros((1, 3)), jnp.eye(4)[jnp.array([2, 0, 2])][None]
    v = jnp.array([[[5.0, 1.0], [3.0, 2.0], [7.0, -4.0]]])
    for chunk in (1, 2, 64):
        state, o = delta_chunked(jnp.zeros((1, 4, 2)), keys, keys, v, one, zero, chunk=chunk)
        assert (o == v).all()
        assert (state[0] == jnp.zeros((4, 2)).at[2].set(v[0, 2]).at[0].set(v[0, 1])).all()
    summed = decay_chunked(jnp.zeros((1, 4, 2)), keys, keys, v, zero)[1]
    assert (summed[0, 2] == v[0, 0] + v[0, 2]).all()


@few
@given(seed=seeds, t=st.integers(1, T - 1))
def test_a_shut_gate_forgets_all_that_came_before(seed, t):
    state, *arguments = drawn(seed)
    arguments[-1] = arguments[-1].at[:, t].set(-jnp.inf)
    after, o = delta_chunked(state, *arguments, chunk=8)
    from_there, o_from_there = looped(0 * state, *(x[:, t:] for x in arguments))
    assert_close((after, o[:, t:]), (from_there, o_from_there), FORMULA)


@few
@given(seed=seeds)
def test_a_token_is_read_back_by_its_own_key_when_it_is_wholly_written(seed):
    state, _, k, v, beta, log_decay = drawn(seed, 0.99)
    _, o = delta_chunked(state, k, k, v, jnp.ones_like(beta), log_decay, chunk=8)
    assert_close(o, v, FORMULA)


@correlations
def test_values_and_gradients_are_finite_in_single_precision_with_gates_at_their_ends(correlation):
    arguments = [x.astype(jnp.float32) for x in drawn(1, correlation)]
    for end in (0.0, -jnp.inf):
        arguments[-1] = jnp.full((G, T), end, jnp.float32)
        out, pullback = jax.vjp(lambda *a: delta_chunked(*a, chunk=8), *arguments)
        for leaf in jax.tree.leaves((out, pullback(out))):
            assert leaf.dtype == jnp.float32
            assert jnp.isfinite(leaf).all()


def test_values_in_bfloat16_are_summed_in_single_precision():
    state, *arguments = drawn(0)
    arguments = [x.astype(jnp.bfloat16) for x in arguments]
    after, o = delta_chunked(state.astype(jnp.float32), *arguments, chunk=8)
    assert (after.dtype, o.dtype) == (jnp.float32, jnp.bfloat16)
    expected = looped(state, *(x.astype(jnp.float64) for x in arguments))[0]
    assert_close(after, expected, MODEL, jnp.float32)


@few
@given(seed=seeds, t=st.integers(1, T - 1))
def test_the_past_does_not_change_with_the_future(seed, t):
    state, *arguments = drawn(seed)
    louder = [x.at[:, t:].multiply(s) for x, s in zip(arguments, (1e4, 1, 1e4, 0.5, 2), strict=True)]
    for chunk in (4, 32):
        o, changed = (delta_chunked(state, *a, chunk=chunk)[1] for a in (arguments, louder))
        np.testing.assert_array_equal(o[:, :t], changed[:, :t])
