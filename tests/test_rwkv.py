"""RWKV-6: its forms are one, the bonus is the current token's alone, and its mixer is the paper's in PyTorch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minilm.layers.linear_attention.gated import gated_chunked, gated_parallel
from minilm.layers.linear_attention.loop import loop
from minilm.layers.linear_attention.rwkv import rwkv6_chunked, rwkv6_mixer, rwkv6_parallel, rwkv6_step
from minilm.layers.linear_attention.state_mixer import state_mixer, token_shift_mixer
from minilm.shapes import Mixer, Tokens
from tests.mixers import assert_lawful, drawn_params, numbered, slow
from tests.records.linear_attention_delta import drawn_keys
from tests.records.linear_attention_gated import drawn_log_decays
from tests.strategies import seeds
from tests.tolerances import FORMULA, assert_close
from tests.torch_oracle import assert_same_mixer

G, T, K, V = 2, 11, 3, 4
D, LONG = 5, 19  # more tokens than a chunk of the mixer
correlations = pytest.mark.parametrize("correlation", [0.0, *slow(0.5, 0.99), 1.0])
few = settings(max_examples=5)


def draw(seed, correlation=0.0, dtype=jnp.float64):
    """State, r, k, v, decays of which some keep and some forget everything, and u."""
    rng = np.random.default_rng(seed)
    state, r, v, u = (rng.standard_normal(shape) for shape in ((G, K, V), (G, T, K), (G, T, V), (G, K)))
    arrays = state, r, drawn_keys(rng, correlation, G, T, K), v, drawn_log_decays(rng, (G, T, K)), u
    return [jnp.asarray(x, dtype) for x in arrays]


@partial(jax.jit, static_argnums=0)
def value_and_gradients(form, arguments):
    out, vjp = jax.vjp(form, *arguments)
    return out, vjp(out)


def looped(state, *inputs):
    *inputs, u = inputs
    return loop(lambda state, *token: rwkv6_step(state, *token, u), state, *inputs)


def loop_from_nothing(*inputs):
    return looped(jnp.zeros((G, K, V)), *inputs)[1]


CHUNKED = {chunk: partial(rwkv6_chunked, chunk=chunk) for chunk in (1, 8, T, 2 * T)}
MIXER = rwkv6_mixer(g=G, k=K, v=V)


@correlations
@pytest.mark.parametrize("chunk", [8, *slow(1, T, 2 * T)])
@few
@given(seed=seeds)
def test_chunks_of_any_size_equal_the_loop_in_values_and_gradients_whatever_the_keys(chunk, correlation, seed):
    arguments = draw(seed, correlation)
    expected = value_and_gradients(looped, arguments)
    assert_close(value_and_gradients(CHUNKED[chunk], arguments), expected, FORMULA)


@correlations
@few
@given(seed=seeds)
def test_all_pairs_equal_the_loop_from_an_empty_state_in_values_and_gradients(correlation, seed):
    _, *inputs = draw(seed, correlation)
    expected = value_and_gradients(loop_from_nothing, inputs)
    assert_close(value_and_gradients(rwkv6_parallel, inputs), expected, FORMULA)


@few
@given(seed=seeds)
def test_with_a_bonus_of_one_and_no_decay_it_is_gated_linear_attention_without_decay(seed):
    _, r, k, v, _, u = draw(seed)
    never = jnp.zeros_like(r)
    assert_close(rwkv6_parallel(r, k, v, never, jnp.ones_like(u)), gated_parallel(r, k, v, never), FORMULA)


@few
@given(seed=seeds)
def test_its_state_is_that_of_gated_linear_attention_whatever_the_bonus(seed):
    state, r, k, v, log_decay, u = draw(seed)
    after, _ = rwkv6_chunked(state, r, k, v, log_decay, u, chunk=4)
    assert_close(after, gated_chunked(state, r, k, v, log_decay, chunk=4)[0], FORMULA)


@few
@given(seed=seeds)
def test_the_bonus_adds_to_each_token_its_own_value(seed):
    state, r, k, v, log_decay, u = draw(seed)
    _, with_bonus = rwkv6_chunked(state, r, k, v, log_decay, u, chunk=4)
    _, without = rwkv6_chunked(state, r, k, v, log_decay, 0 * u, chunk=4)
    assert_close(with_bonus - without, (r * u[:, None] * k).sum(-1, keepdims=True) * v, FORMULA)


@few
@given(seed=seeds)
def test_a_tokens_own_decay_comes_after_it_has_read(seed):
    """A token that forgets everything still reads all that was there; the next one reads only what that token wrote."""
    state, r, k, v, log_decay, u = draw(seed)
    closed = log_decay.at[:, 5].set(-jnp.inf)
    _, open_o = rwkv6_chunked(state, r, k, v, log_decay.at[:, 5].set(0.0), u, chunk=4)
    _, closed_o = rwkv6_chunked(state, r, k, v, closed, u, chunk=4)
    assert_close(closed_o[:, :6], open_o[:, :6], FORMULA)
    own = (r[:, 6] * u * k[:, 6]).sum(-1, keepdims=True) * v[:, 6]
    assert_close(closed_o[:, 6], (r[:, 6] * k[:, 5]).sum(-1, keepdims=True) * v[:, 5] + own, FORMULA)


@pytest.mark.parametrize(
    "form",
    [CHUNKED[8], *slow(CHUNKED[1], CHUNKED[T], CHUNKED[2 * T]), looped, lambda state, *inputs: rwkv6_parallel(*inputs)],
)
@pytest.mark.parametrize("log_decay", [0.0, -90.0, -np.inf])
def test_values_and_gradients_are_finite_in_float32_at_every_gate(form, log_decay):
    *others, gates, u = draw(0, correlation=1.0, dtype=jnp.float32)
    alike = np.full(gates.shape, log_decay, np.float32)
    for gates in (alike, np.where(np.arange(T)[:, None] == 3, np.float32(-0.5), alike)):
        for leaf in jax.tree.leaves(value_and_gradients(form, (*others, gates, u))):
            assert leaf.dtype == jnp.float32
            assert jnp.isfinite(leaf).all()


def torch_mixer(p, x):
    """The paper's equations, token by token, with fixed shares in place of those that depend on the data."""
    import torch
    from torch.nn.functional import group_norm, silu

    state, before, outputs = torch.zeros(G, K, V, dtype=x.dtype), torch.zeros_like(x[0]), []
    for x_t in x:
        x_r, x_k, x_v, x_w, x_g = (x_t + mu * (before - x_t) for mu in p.shift)
        r, k, v = (torch.einsum("d,dgk->gk", *pair) for pair in ((x_r, p.w_r), (x_k, p.w_k), (x_v, p.w_v)))
        d = p.b_decay + torch.einsum("i,igk->gk", torch.tanh(x_w @ p.w_decay_in), p.w_decay_out)
        w = torch.exp(-torch.exp(d))
        write = k[:, :, None] * v[:, None, :]
        wkv = (r[:, :, None] * (state + p.u[:, :, None] * write)).sum(1)
        state, before = w[:, :, None] * state + write, x_t
        normed = group_norm(wkv.reshape(1, -1), G, p.norm.scale.flatten(), p.norm.bias.flatten(), eps=64e-5)[0]
        outputs.append((silu(x_g @ p.w_gate.flatten(1)) * normed) @ p.w_o.flatten(0, 1))
    return torch.stack(outputs)


@settings(max_examples=3)
@given(seed=seeds)
def test_the_mixer_and_its_gradients_are_pytorchs_written_out(seed):
    x = np.random.default_rng(seed).standard_normal((LONG, D))
    assert_same_mixer(MIXER, torch_mixer, drawn_params(MIXER, D, seed), x, seed)


def test_the_mixer_keeps_what_mixers_promise_with_sizes_that_all_differ():
    assert_lawful(MIXER, D, documents=False)


def test_nothing_is_held_before_the_first_token():
    """Which no output tells of a state whose columns are alike: each head's norm takes that away."""
    state = MIXER.init_state(drawn_params(MIXER, D), LONG)
    assert not any(leaf.any() for leaf in jax.tree.leaves(state))


def test_each_head_of_the_mixer_is_normalised_by_itself():
    """What one head writes, however loud, leaves what the other adds to the output as it was."""
    params = drawn_params(MIXER, D)
    params = params._replace(w_o=params.w_o.at[0].set(0.0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, D)))
    louder = params._replace(w_v=params.w_v.at[:, 0].multiply(100.0))
    assert_close(MIXER.apply(louder, x, Tokens.arange(6)), MIXER.apply(params, x, Tokens.arange(6)), FORMULA)


def test_a_shifted_mixer_reads_each_token_beside_the_last_real_one_before_it():
    spy = Mixer(
        init=lambda key, d: jnp.ones(d),
        apply=lambda params, pairs, tokens: pairs,
        init_state=lambda params, size, dtype=None: (params.shape, size, dtype),
        step=lambda params, state, pairs, tokens: (state, pairs),
    )
    mixer = token_shift_mixer(spy, width=len)
    assert mixer.init_state(jnp.ones(1), 7, jnp.float32).inner == ((1,), 7, jnp.float32)
    x, real = jnp.array([[1.0], [9.0], [2.0], [9.0], [9.0], [3.0]]), np.array([True, False, True, False, False, True])
    pairs = mixer.apply(jnp.ones(1), x, numbered(real))
    assert pairs[real].tolist() == [[1.0, 0.0], [2.0, 1.0], [3.0, 2.0]]
    several = jnp.stack([x, x + 1, x[::-1]])
    assert mixer.apply(jnp.ones(1), several, numbered(real))[0].tolist() == pairs.tolist()
    own = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(numbered, (real, real, real[::-1])))
    backwards = mixer.apply(jnp.ones(1), several, own)[2][real[::-1]]
    assert backwards.tolist() == [[3.0, 0.0], [2.0, 3.0], [1.0, 2.0]]
    narrow = mixer.step(jnp.ones(1), mixer.init_state(jnp.ones(1), 1), x.astype(jnp.bfloat16), numbered(real))
    assert (narrow[0].x.dtype, narrow[1].dtype) == (jnp.float64, jnp.bfloat16)
    state = mixer.init_state(jnp.ones(1), 1)
    state, first = mixer.step(jnp.ones(1), state, x[:2], numbered(real[:2]))
    state, rest = mixer.step(jnp.ones(1), state, x[2:], numbered(real[2:]))
    assert state.x.tolist() == [3.0]
    assert jnp.concatenate([first, rest]).tolist() == pairs.tolist()


def test_a_state_mixer_begins_each_sequence_of_a_batch_from_the_empty_state_of_its_parameters():
    asked = []

    def init_state(params, size, dtype):
        asked.append((params.tolist(), size, dtype))
        return jnp.zeros(params.shape, dtype)

    def recur(params, state, x, tokens):
        x = jnp.where(tokens.position[:, None] >= 0, x, 0)
        return state + x.sum(0), state + x.cumsum(0)

    running_sum = state_mixer(
        init=lambda key, d: jnp.ones(d),
        project=lambda params, x: x * params,
        recur=recur,
        merge=lambda params, x, o: o - x,
        init_state=init_state,
    )
    params, x = jnp.array([1.0, 10.0]), jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 5, 2)))
    assert running_sum.init_state(params, 7, jnp.bfloat16).dtype == jnp.float32
    assert asked.pop() == ([1.0, 10.0], 7, jnp.float32)
    expected = (x * params).cumsum(2) - x
    assert_close(running_sum.apply(params, x, Tokens.arange(5)), expected, FORMULA)
    assert_close(running_sum.apply(params, x[0, 0], Tokens.arange(5)), expected[0, 0], FORMULA)
    real = np.random.default_rng(1).random((3, 4, 5)) < 0.7  # each sequence has its own padding
    own = Tokens(jnp.where(real, jnp.arange(5), -1), jnp.zeros((3, 4, 5), int))
    assert_close(running_sum.apply(params, x, own), (x * params * real[..., None]).cumsum(2) - x, FORMULA)
    assert {tuple(parameters) for parameters, _, _ in asked} == {(1.0, 10.0)}
    state, y = running_sum.step(params, jnp.ones(2), x[0, 0], Tokens.arange(5))
    assert_close((state, y), ((x[0, 0] * params).sum(0) + 1, expected[0, 0] + 1), FORMULA)


def test_initial_weights_keep_the_variance_of_their_inputs_and_rates_differ_by_dimension():
    params = rwkv6_mixer(g=20, k=30, v=40).init(jax.random.key(0), 50)
    inputs = dict.fromkeys(("w_r", "w_k", "w_v", "w_decay_in", "w_gate"), 50) | {"w_o": 20 * 40}
    for name, width in inputs.items():
        assert abs(getattr(params, name).std() * np.sqrt(width) - 1) < 0.1, name
    assert (params.w_decay_in.shape, params.w_decay_out.shape) == ((50, 64), (64, 20, 30))
    assert abs(params.w_decay_out.std() * 8 - 0.1) < 0.01
    assert (jnp.diff(params.b_decay, axis=1) > 0).all()
    assert (params.b_decay[:, [0, -1]] == jnp.array([-6, -1])).all()
    assert ((params.shift >= 0) & (params.shift <= 1)).all()
    assert abs(params.u.std() - 1) < 0.1
    assert (params.norm.scale == 1).all()
    assert not params.norm.bias.any()
