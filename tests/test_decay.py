"""The fading state: three forms of one function, and what it is at the ends of its gates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.linear_attention.decay import decay_chunked, decay_matrix, decay_parallel, decay_step
from minilm.layers.linear_attention.loop import loop
from tests.mixers import slow
from tests.records.linear_attention_delta import drawn_keys
from tests.strategies import seeds
from tests.tolerances import FORMULA, REDUCTION, assert_close

G, T, K, V = 2, 19, 3, 5
correlations = pytest.mark.parametrize("correlation", [0.0, *slow(0.5, 0.99), 1.0])
few = settings(max_examples=5)


def drawn(seed, correlation=0.0, dtype=jnp.float64):
    """A state, queries, keys, values and gates, a fifth of them wholly open and a fifth wholly shut."""
    rng = np.random.default_rng(seed)
    state, q, v, gates = (rng.standard_normal(shape) for shape in ((G, K, V), (G, T, K), (G, T, V), (G, T)))
    log_decay = np.select([gates > 0.85, gates < -0.85], [0.0, -np.inf], -np.exp(gates))
    return [jnp.asarray(x, dtype) for x in (state, q, drawn_keys(rng, correlation, G, T, K), v, log_decay)]


@jax.jit
def looped(*arguments):
    return loop(decay_step, *arguments)


@correlations
@pytest.mark.parametrize("chunk", [8, *slow(1, T, 64)])
@few
@given(seed=seeds)
def test_chunks_of_any_size_equal_the_loop_in_values_and_gradients_with_gates_open_and_shut(chunk, correlation, seed):
    arguments = drawn(seed, correlation)
    out, pullback = jax.vjp(looped, *arguments)
    chunked, chunked_pullback = jax.vjp(lambda *a: decay_chunked(*a, chunk=chunk), *arguments)
    assert_close(chunked, out, FORMULA)
    assert_close(chunked_pullback(out), pullback(out), FORMULA)


@correlations
@few
@given(seed=seeds)
def test_the_parallel_form_equals_the_loop_from_an_empty_state(correlation, seed):
    state, *arguments = drawn(seed, correlation)
    (_, o), pullback = jax.vjp(looped, 0 * state, *arguments)
    parallel, parallel_pullback = jax.vjp(decay_parallel, *arguments)
    assert_close(parallel, o, FORMULA)
    assert_close(parallel_pullback(o), pullback((0 * state, o))[1:], FORMULA)


@few
@given(seed=seeds, cut=st.sampled_from([1, 6, 16]))
def test_what_was_read_in_two_pieces_was_read(seed, cut):
    state, *arguments = drawn(seed)
    middle, first = decay_chunked(state, *(x[:, :cut] for x in arguments), chunk=4)
    last, second = decay_chunked(middle, *(x[:, cut:] for x in arguments), chunk=4)
    assert_close((last, jnp.concatenate([first, second], 1)), looped(state, *arguments), FORMULA)


@few
@given(seed=seeds)
def test_with_open_gates_it_is_causal_attention_without_a_softmax(seed):
    _, q, k, v, log_decay = drawn(seed)
    scores = jnp.tril(jnp.einsum("gtk,gsk->gts", q, k))
    assert_close(decay_parallel(q, k, v, 0 * jnp.isinf(log_decay).astype(q.dtype)), scores @ v, FORMULA)


@few
@given(seed=seeds, t=st.integers(1, T - 1))
def test_a_shut_gate_forgets_all_that_came_before(seed, t):
    state, *arguments = drawn(seed)
    arguments[-1] = arguments[-1].at[:, t].set(-jnp.inf)
    after, o = decay_chunked(state, *arguments, chunk=8)
    from_there, o_from_there = looped(0 * state, *(x[:, t:] for x in arguments))
    assert_close((after, o[:, t:]), (from_there, o_from_there), FORMULA)


@few
@given(seed=seeds)
def test_a_constant_gate_decays_with_the_distance_as_retnet_writes_it(seed):
    distance = jnp.arange(T)[:, None] - jnp.arange(T)
    log_gamma = -jnp.asarray(np.random.default_rng(seed).random(G))
    expected = jnp.where(distance >= 0, jnp.exp(log_gamma[:, None, None] * distance), 0)
    assert_close(decay_matrix(jnp.broadcast_to(log_gamma[:, None], (G, T))), expected, FORMULA)


@pytest.mark.parametrize("chunk", [8, *slow(1, T)])
@pytest.mark.parametrize("end", [0.0, -np.inf])
def test_values_and_gradients_are_finite_in_single_precision_with_all_gates_at_an_end(chunk, end):
    state, *inputs, log_decay = drawn(1, correlation=1.0, dtype=jnp.float32)
    log_decay = jnp.full_like(log_decay, end)
    forms = (
        jax.vjp(lambda *a: decay_chunked(*a, chunk=chunk), state, *inputs, log_decay),
        jax.vjp(decay_parallel, *inputs, log_decay),
        jax.vjp(looped, state, *inputs, log_decay),
    )
    for out, pullback in forms:
        for leaf in jax.tree.leaves((out, pullback(out))):
            assert leaf.dtype == jnp.float32
            assert jnp.isfinite(leaf).all()


def test_single_precision_keeps_its_digits_far_from_the_beginning():
    """Sums from the beginning would be near −4000 here, and their differences good to three digits."""
    log_decay = -4 * np.random.default_rng(0).random(2000)
    near = decay_matrix(jnp.asarray(log_decay[-8:]))
    assert_close(decay_matrix(jnp.asarray(log_decay, jnp.float32))[-8:, -8:], near, REDUCTION, jnp.float32)


def test_values_in_bfloat16_are_summed_in_single_precision():
    state, q, k, v, log_decay = drawn(0, dtype=jnp.bfloat16)
    after, o = decay_chunked(state.astype(jnp.float32), q, k, v, log_decay, chunk=8)
    assert (after.dtype, o.dtype) == (jnp.float32, jnp.bfloat16)
