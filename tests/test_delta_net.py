"""DeltaNet with and without gates: against PyTorch, step by step, among padding, and what one is of the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minilm.layers.linear_attention.delta_net import (
    GatedDeltaParams,
    _unit,
    delta_mixer,
    gated_delta_mixer,
    init_delta,
    init_gated_delta,
)
from minilm.shapes import Tokens
from tests.mixers import assert_lawful, assert_one_mixer, assert_weights_begin_apart, drawn_params
from tests.strategies import seeds
from tests.tolerances import FORMULA, assert_close
from tests.torch_oracle import assert_same_mixer

D, G, K, V, T = 6, 2, 3, 5, 11
KINDS = {"delta": delta_mixer, "gated": gated_delta_mixer}
MIXERS = {name: kind(g=G, k=K, v=V, chunk=4) for name, kind in KINDS.items()}
each_mixer = pytest.mark.parametrize("name", MIXERS)
few = settings(max_examples=3)


def drawn(name, seed):
    """Parameters of which no two are equal, and an input."""
    x = np.random.default_rng(seed).standard_normal((T, D))
    return drawn_params(MIXERS[name], D, seed), jnp.asarray(x)


def padded_tokens(seed, share=0.7):
    real = np.random.default_rng(seed).random(T) < share
    return real, Tokens(jnp.asarray(np.where(real, real.cumsum() - 1, -1)), jnp.zeros(T, int))


def torch_mixer(params, x):
    """One sequence, head by head and token by token."""
    import torch
    from torch.nn.functional import conv1d, rms_norm, silu, softplus

    gated = isinstance(params, GatedDeltaParams)
    p, y = params.delta if gated else params, torch.zeros_like(x)
    for g in range(G):
        qkv = torch.cat([x @ w[:, g] for w in (p.w_q, p.w_k, p.w_v)], 1).T[None]
        taps = p.convolution[:, g].flip(0).T[:, None]
        qkv = silu(conv1d(qkv, taps, padding=len(p.convolution) - 1, groups=qkv.shape[1])[0, :, : len(x)]).T
        state = torch.zeros(K, V, dtype=x.dtype)
        for t in range(len(x)):
            q, k, v = qkv[t].split([K, K, V])
            q, k = (z / (z @ z + 1e-6).sqrt() for z in (q, k))
            if gated:
                rate = params.log_rate[g].exp()
                state = state * torch.exp(-rate * softplus(x[t] @ params.w_a[:, g] + params.b_a[g]))
            state = state + torch.outer(k, torch.sigmoid(x[t] @ p.w_b[:, g]) * (v - k @ state))
            o = rms_norm(q @ state, (V,), p.scale, eps=1e-6)
            o = o * silu(x[t] @ params.w_g[:, g]) if gated else o
            y[t] += o @ p.w_o[g]
    return y


@each_mixer
@few
@given(seed=seeds)
def test_the_mixer_and_its_gradients_are_pytorchs_written_out(name, seed):
    assert_same_mixer(MIXERS[name], torch_mixer, *drawn(name, seed), seed)


@each_mixer
def test_the_mixer_keeps_what_mixers_promise_with_sizes_that_all_differ(name):
    assert_lawful(MIXERS[name], D, documents=False)


@each_mixer
def test_unless_told_a_mixer_has_a_convolution_of_four_and_chunks_make_no_difference_to_it(name):
    told = {"convolution": 4, "chunk": 4} | ({"fastest": 16.0} if name == "gated" else {})
    assert_one_mixer(KINDS[name](g=G, k=K, v=V), KINDS[name](g=G, k=K, v=V, **told), D)


def test_keys_of_few_bits_have_length_one_as_float32_says():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((50, 64)), jnp.bfloat16)
    wide = np.asarray(x, np.float32)
    expected = jnp.asarray(wide / np.sqrt((wide**2).sum(-1, keepdims=True) + 1e-6), jnp.bfloat16)
    np.testing.assert_array_equal(_unit(x), expected)


@few
@given(seed=seeds)
def test_gates_that_stand_open_give_delta_net(seed):
    """A rate of next to nothing keeps the state; the gate behind the norm is brought to silu(z) = 1 by its input."""
    params, x = drawn("gated", seed)
    x, one = x.at[:, 0].set(1), 1.278464542761074  # where z sigma(z) = 1
    w_g = jnp.zeros_like(params.w_g).at[0].set(one)
    gated = params._replace(log_rate=jnp.full(G, -1e3), w_g=w_g)
    expected = MIXERS["delta"].apply(params.delta, x, Tokens.arange(T))
    assert_close(MIXERS["gated"].apply(gated, x, Tokens.arange(T)), expected, FORMULA)


def test_initial_weights_keep_the_variance_of_their_inputs():
    params = gated_delta_mixer(g=20, k=30, v=40).init(jax.random.key(0), 50)
    delta = params.delta
    inputs = {"w_q": 50, "w_k": 50, "w_v": 50, "w_b": 50, "w_o": 20 * 40, "convolution": 4}
    for name, width in inputs.items():
        assert abs(getattr(delta, name).std() * np.sqrt(width) - 1) < 0.1, name
    for w in (params.w_a, params.w_g):
        assert abs(w.std() * np.sqrt(50) - 1) < 0.1
    assert (delta.convolution.shape, delta.scale.tolist()) == ((4, 20, 100), [1.0] * 40)
    few = {"g": 2, "k": 3, "v": 5}
    assert init_delta(jax.random.key(0), 6, **few).convolution.shape == (4, 2, 11), "as their mixers', unless told"
    assert init_gated_delta(jax.random.key(0), 6, **few).delta.convolution.shape == (4, 2, 11)
    assert init_gated_delta(jax.random.key(0), 6, **few | {"g": 1000}).log_rate.max() > np.log(15.5)


def test_initial_gates_keep_from_a_fifth_to_nearly_all_of_the_state():
    params = init_gated_delta(jax.random.key(0), 7, g=1000, k=2, v=3, convolution=2)
    rates, steps = jnp.exp(params.log_rate), jax.nn.softplus(params.b_a)
    assert 0.001 <= steps.min() < 0.0011
    assert 0.098 < steps.max() < 0.1001
    assert_weights_begin_apart(gated_delta_mixer(g=8, k=3, v=5), 7)
    kept = jnp.exp(-rates * steps)
    assert 0.2 < kept.min() < 0.5
    assert 0.99 < kept.max() < 1
    assert params.delta.convolution.shape == (2, 1000, 7)
    assert (gated_delta_mixer(g=9, k=2, v=3, fastest=1.0).init(jax.random.key(0), 7).log_rate == 0).all()
