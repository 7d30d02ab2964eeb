"""Gated linear attention: its forms are one, its gates may close and open, and what it is where nothing decays."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.linear_attention.gated import gated_chunked, gated_linear_mixer, gated_parallel, gated_step
from tests.mixers import assert_lawful
from tests.records.linear_attention_gated import drawn_log_decays
from tests.strategies import seeds
from tests.tolerances import FORMULA, MODEL, assert_close

G, T, K, V = 2, 11, 3, 4
few = settings(max_examples=5)


def draw(seed, t=T, dtype=jnp.float64):
    """State, q, k, v, and decays of which some keep and some forget everything."""
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(shape) for shape in ((G, K, V), (G, t, K), (G, t, K), (G, t, V))]
    return [jnp.asarray(x, dtype) for x in (*arrays, drawn_log_decays(rng, (G, t, K)))]


def token_by_token(state, *inputs):
    outputs = []
    for t in range(inputs[0].shape[1]):
        state, o = gated_step(state, *(x[:, t] for x in inputs))
        outputs.append(o)
    return state, jnp.stack(outputs, axis=1)


@few
@given(seed=seeds, chunk=st.sampled_from([1, 8, T, 2 * T]))
def test_step_by_step_equals_chunks_of_any_size(seed, chunk):
    arguments = draw(seed)
    assert_close(gated_chunked(*arguments, chunk=chunk), token_by_token(*arguments), FORMULA)


@few
@given(seed=seeds, chunk=st.sampled_from([1, 8, T]))
def test_all_pairs_equal_chunks_from_an_empty_state(seed, chunk):
    state, *inputs = draw(seed)
    assert_close(gated_parallel(*inputs), gated_chunked(0 * state, *inputs, chunk=chunk)[1], FORMULA)


@few
@given(seed=seeds)
def test_without_decay_it_is_causal_linear_attention_without_a_normaliser(seed):
    _, q, k, v, _ = draw(seed)
    expected = jnp.tril(q @ k.mT) @ v
    assert_close(gated_parallel(q, k, v, jnp.zeros_like(q)), expected, FORMULA)


@few
@given(seed=seeds)
def test_a_token_that_forgets_everything_begins_anew(seed):
    """With every gate closed a token sees itself; with one closed, nothing before that one is seen."""
    state, q, k, v, log_decay = draw(seed)
    closed = jnp.full_like(log_decay, -jnp.inf)
    assert_close(gated_chunked(state, q, k, v, closed, chunk=4)[1], (q * k).sum(-1, keepdims=True) * v, FORMULA)
    once = log_decay.at[:, 5].set(-jnp.inf)
    after, o = gated_chunked(state, q, k, v, once, chunk=4)
    expected = gated_chunked(0 * state, q[:, 5:], k[:, 5:], v[:, 5:], log_decay[:, 5:], chunk=4)
    assert_close((after, o[:, 5:]), expected, FORMULA)


@few
@given(seed=seeds)
def test_one_decay_for_all_dimensions_of_a_head_weighs_each_pair_by_one_number(seed):
    _, q, k, v, _ = draw(seed)
    rate = -jnp.asarray(np.random.default_rng(seed).exponential(1.0, (G, 1, 1)))
    distance = jnp.arange(T)[:, None] - jnp.arange(T)
    expected = jnp.tril(q @ k.mT * jnp.exp(rate * distance.clip(0))) @ v
    assert_close(gated_parallel(q, k, v, jnp.broadcast_to(rate, q.shape)), expected, FORMULA)


@partial(jax.jit, static_argnums=0)
def value_and_gradients(form, arguments):
    out, vjp = jax.vjp(form, *arguments)
    return out, vjp(jax.tree.map(jnp.ones_like, out))


@pytest.mark.parametrize(
    "form", [partial(gated_chunked, chunk=4), token_by_token, lambda state, *inputs: gated_parallel(*inputs)]
)
@pytest.mark.parametrize("log_decay", [0.0, -1e-30, -1.0, -90.0, -1e30, -np.inf])
def test_values_and_gradients_are_finite_in_float32_at_every_gate(form, log_decay):
    """Split into $e^F$ and $e^{-F}$, sixteen decays of −90 would overflow; as a difference of sums, −∞ is NaN."""
    *others, gates = draw(0, t=6, dtype=jnp.float32)
    arguments = (*others, jnp.full_like(gates, log_decay).at[:, 3].set(-0.5))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(value_and_gradients(form, arguments)))


@few
@given(seed=seeds)
def test_strong_decays_leave_the_digits_of_weak_ones_behind_them(seed):
    """Running sums would stand at −10⁶ after the first token, where float32 tells 0.06 from nothing."""
    state, q, k, v, log_decay = draw(seed, t=16, dtype=jnp.float32)
    log_decay = jnp.maximum(log_decay, -0.1).at[:, 0].set(-1e6)
    exact = [x.astype(jnp.float64) for x in (state, q, k, v, log_decay)]
    assert_close(gated_chunked(state, q, k, v, log_decay), gated_chunked(*exact, chunk=1), MODEL, jnp.float32)


def test_the_mixer_keeps_what_mixers_promise_with_sizes_that_all_differ():
    assert_lawful(gated_linear_mixer(g=2, k=3, v=4), 5, documents=False)


def test_the_mixers_state_has_one_size_and_begins_empty():
    mixer = gated_linear_mixer(g=2, k=3, v=4)
    params = mixer.init(jax.random.key(0), 5)
    for size in (1, 1000):
        assert mixer.init_state(params, size).shape == (2, 3, 4)
        assert not mixer.init_state(params, size).any()


def test_initial_weights_keep_the_variance_of_their_inputs():
    params = gated_linear_mixer(g=20, k=30, v=40).init(jax.random.key(0), 50)
    inputs = dict.fromkeys(("w_q", "w_k", "w_v", "w_decay_in", "w_gate"), 50) | {"w_decay_out": 16, "w_o": 20 * 40}
    for name, width in inputs.items():
        assert abs(getattr(params, name).std() * np.sqrt(width) - 1) < 0.1, name
    assert (params.w_decay_in.shape, params.w_decay_out.shape) == ((50, 16), (16, 20, 30))
