"""Gated linear attention: its forms are one, its gates may close and open, and its mixer is the paper's in PyTorch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minilm.layers.linear_attention.gated import gated_chunked, gated_linear_mixer, gated_parallel, gated_step
from minilm.layers.linear_attention.loop import loop
from tests.mixers import assert_lawful, drawn_params, slow
from tests.records.linear_attention_delta import drawn_keys
from tests.records.linear_attention_gated import drawn_log_decays
from tests.strategies import seeds
from tests.tolerances import FORMULA, MODEL, assert_close
from tests.torch_oracle import assert_same_mixer

G, T, K, V = 2, 11, 3, 4
D, LONG = 5, 19  # more tokens than a chunk of the mixer
correlations = pytest.mark.parametrize("correlation", [0.0, *slow(0.5, 0.99), 1.0])
few = settings(max_examples=5)


def draw(seed, correlation=0.0, t=T, dtype=jnp.float64):
    """State, q, k, v, and decays of which some keep and some forget everything."""
    rng = np.random.default_rng(seed)
    state, q, v = (rng.standard_normal(shape) for shape in ((G, K, V), (G, t, K), (G, t, V)))
    arrays = state, q, drawn_keys(rng, correlation, G, t, K), v, drawn_log_decays(rng, (G, t, K))
    return [jnp.asarray(x, dtype) for x in arrays]


@partial(jax.jit, static_argnums=0)
def value_and_gradients(form, arguments):
    out, vjp = jax.vjp(form, *arguments)
    return out, vjp(out)


def loop_from_nothing(*inputs):
    return loop(gated_step, jnp.zeros((G, K, V)), *inputs)[1]


LOOP = partial(loop, gated_step)
CHUNKED = {chunk: partial(gated_chunked, chunk=chunk) for chunk in (1, 8, T, 2 * T)}
MIXER = gated_linear_mixer(g=G, k=K, v=V)


@correlations
@pytest.mark.parametrize("chunk", [8, *slow(1, T, 2 * T)])
@few
@given(seed=seeds)
def test_chunks_of_any_size_equal_the_loop_in_values_and_gradients_whatever_the_keys(chunk, correlation, seed):
    arguments = draw(seed, correlation)
    expected = value_and_gradients(LOOP, arguments)
    assert_close(value_and_gradients(CHUNKED[chunk], arguments), expected, FORMULA)


@correlations
@few
@given(seed=seeds)
def test_all_pairs_equal_the_loop_from_an_empty_state_in_values_and_gradients(correlation, seed):
    _, *inputs = draw(seed, correlation)
    expected = value_and_gradients(loop_from_nothing, inputs)
    assert_close(value_and_gradients(gated_parallel, inputs), expected, FORMULA)


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


@pytest.mark.parametrize(
    "form",
    [CHUNKED[8], *slow(CHUNKED[1], CHUNKED[T], CHUNKED[2 * T]), LOOP, lambda state, *inputs: gated_parallel(*inputs)],
)
@pytest.mark.parametrize("log_decay", [0.0, -1e-30, -1.0, -90.0, -1e30, -np.inf])
def test_values_and_gradients_are_finite_in_float32_at_every_gate(form, log_decay):
    """Split into $e^F$ and $e^{-F}$, sixteen decays of −90 would overflow; as a difference of sums, −∞ is NaN."""
    *others, gates = draw(0, correlation=1.0, dtype=jnp.float32)
    alike = np.full(gates.shape, log_decay, np.float32)
    for gates in (alike, np.where(np.arange(T)[:, None] == 3, np.float32(-0.5), alike)):
        for leaf in jax.tree.leaves(value_and_gradients(form, (*others, gates))):
            assert leaf.dtype == jnp.float32
            assert jnp.isfinite(leaf).all()


@few
@given(seed=seeds)
def test_strong_decays_leave_the_digits_of_weak_ones_behind_them(seed):
    """Running sums would stand at −10⁶ after the first token, where float32 tells 0.06 from nothing."""
    state, q, k, v, log_decay = draw(seed, t=16, dtype=jnp.float32)
    log_decay = jnp.maximum(log_decay, -0.1).at[:, 0].set(-1e6)
    exact = [x.astype(jnp.float64) for x in (state, q, k, v, log_decay)]
    assert_close(gated_chunked(state, q, k, v, log_decay), gated_chunked(*exact, chunk=1), MODEL, jnp.float32)


def torch_mixer(p, x):
    """The paper's equations, token by token: the root of the gate is taken of the gate, not of its logarithm."""
    import torch
    from torch.nn.functional import rms_norm, silu

    y = torch.zeros_like(x)
    for g in range(G):
        state = torch.zeros(K, V, dtype=x.dtype)
        for t in range(len(x)):
            q, k, v = (x[t] @ w[:, g] for w in (p.w_q, p.w_k, p.w_v))
            alpha = torch.sigmoid(x[t] @ p.w_decay_in @ p.w_decay_out[:, g] + p.b_decay[g]) ** (1 / 16)
            state = torch.diag(alpha) @ state + torch.outer(k, v)
            o = rms_norm(q @ state / K**0.5, (V,), p.norm.scale, eps=1e-6)
            y[t] += (silu(x[t] @ p.w_gate[:, g]) * o) @ p.w_o[g]
    return y


@settings(max_examples=3)
@given(seed=seeds)
def test_the_mixer_and_its_gradients_are_pytorchs_written_out(seed):
    x = np.random.default_rng(seed).standard_normal((LONG, D))
    assert_same_mixer(MIXER, torch_mixer, drawn_params(MIXER, D, seed), x, seed)


def test_the_mixer_keeps_what_mixers_promise_with_sizes_that_all_differ():
    assert_lawful(MIXER, D, documents=False)


def test_the_mixers_state_has_one_size_and_begins_empty():
    params = drawn_params(MIXER, D)
    for size in (1, 1000):
        assert MIXER.init_state(params, size).shape == (G, K, V)
        assert not MIXER.init_state(params, size).any()


def test_initial_weights_keep_the_variance_of_their_inputs():
    params = gated_linear_mixer(g=20, k=30, v=40).init(jax.random.key(0), 50)
    inputs = dict.fromkeys(("w_q", "w_k", "w_v", "w_decay_in", "w_gate"), 50) | {"w_decay_out": 16, "w_o": 20 * 40}
    for name, width in inputs.items():
        assert abs(getattr(params, name).std() * np.sqrt(width) - 1) < 0.1, name
    assert (params.w_decay_in.shape, params.w_decay_out.shape) == ((50, 16), (16, 20, 30))
    assert not params.b_decay.any()
    assert (params.norm.scale == 1).all()
