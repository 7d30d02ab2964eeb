"""DeltaNet with and without gates: against PyTorch, step by step, among padding, and what one is of the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import laws
from minilm.layers.linear_attention.delta_net import (
    GatedDeltaParams,
    delta_mixer,
    gated_delta_mixer,
    init_gated_delta,
)
from minilm.shapes import Tokens
from tests.strategies import seeds
from tests.tolerances import FORMULA, LAYER, assert_close

D, G, K, V, T = 6, 2, 3, 5, 11
MIXERS = {"delta": delta_mixer(g=G, k=K, v=V, chunk=4), "gated": gated_delta_mixer(g=G, k=K, v=V, chunk=4)}
each_mixer = pytest.mark.parametrize("name", MIXERS)
few = settings(max_examples=10)


def drawn(name, seed, *leading):
    """Parameters of which no two are equal, and an input."""
    keys = jax.random.split(jax.random.key(seed), 3)
    leaves, structure = jax.tree.flatten(MIXERS[name].init(keys[0], D))
    noise = [jax.random.normal(jax.random.fold_in(keys[1], i), x.shape, jnp.float64) for i, x in enumerate(leaves)]
    params = structure.unflatten([x.astype(jnp.float64) + 0.1 * n for x, n in zip(leaves, noise, strict=True)])
    return params, jax.random.normal(keys[2], (*leading, T, D), jnp.float64)


def padded_tokens(seed, share=0.7):
    real = np.random.default_rng(seed).random(T) < share
    return real, Tokens(jnp.asarray(np.where(real, real.cumsum() - 1, -1)), jnp.zeros(T, int))


def torch_mixer(params, x):
    """One sequence, head by head and token by token."""
    import torch
    from torch.nn.functional import conv1d, rms_norm, silu, softplus

    gated = isinstance(params, GatedDeltaParams)
    parameters = jax.tree.map(lambda w: torch.tensor(np.asarray(w)), params)
    p, x = parameters.delta if gated else parameters, torch.tensor(np.asarray(x))
    y = torch.zeros_like(x)
    for g in range(G):
        qkv = torch.cat([x @ w[:, g] for w in (p.w_q, p.w_k, p.w_v)], 1).T[None]
        taps = p.convolution[:, g].flip(0).T[:, None]
        qkv = silu(conv1d(qkv, taps, padding=len(p.convolution) - 1, groups=qkv.shape[1])[0, :, : len(x)]).T
        state = torch.zeros(K, V, dtype=x.dtype)
        for t in range(len(x)):
            q, k, v = qkv[t].split([K, K, V])
            q, k = (z / (z @ z + 1e-6).sqrt() for z in (q, k))
            if gated:
                rate = parameters.log_rate[g].exp()
                state = state * torch.exp(-rate * softplus(x[t] @ parameters.w_a[:, g] + parameters.b_a[g]))
            state = state + torch.outer(k, torch.sigmoid(x[t] @ p.w_b[:, g]) * (v - k @ state))
            o = rms_norm(q @ state, (V,), p.scale, eps=1e-6)
            o = o * silu(x[t] @ parameters.w_g[:, g]) if gated else o
            y[t] += o @ p.w_o[g]
    return y.numpy()


@each_mixer
@few
@given(seed=seeds)
def test_the_mixer_equals_pytorch_written_out(name, seed):
    pytest.importorskip("torch")
    params, x = drawn(name, seed)
    assert_close(MIXERS[name].apply(params, x, Tokens.arange(T)), torch_mixer(params, x), FORMULA)


@each_mixer
def test_the_mixer_obeys_the_laws(name):
    mixer, (params, _) = MIXERS[name], drawn(name, 0)

    def mix(x, real=None):
        position = np.arange(len(x)) if real is None else np.where(real, np.cumsum(real) - 1, -1)
        tokens = Tokens(jnp.asarray(position, jnp.int32), jnp.zeros(len(x), jnp.int32))
        return mixer.apply(params, jnp.asarray(x), tokens)

    def step(state, x):
        position, held = state
        held, y = mixer.step(params, held, jnp.asarray(x), Tokens.arange(len(x), position))
        return (position + len(x), held), y

    laws.check(
        mix,
        d=D,
        causal=True,
        step=step,
        init_state=lambda: (0, mixer.init_state(params, 1, jnp.float64)),
        padded=mix,
        grad=lambda x, d_y: jax.vjp(mix, jnp.asarray(x))[1](jnp.asarray(d_y))[0],
        search=laws.Search(lengths=(1, 2, 5), examples=8),
    ).raise_if_broken()


@each_mixer
@few
@given(seed=seeds, cut=st.integers(1, T - 1))
def test_padding_anywhere_in_a_chunk_changes_neither_state_nor_other_outputs(name, seed, cut):
    mixer, (params, x) = MIXERS[name], drawn(name, seed)
    real, tokens = padded_tokens(seed)
    empty, state, pieces = mixer.init_state(params, 1, jnp.float64), mixer.init_state(params, 1, jnp.float64), []
    for part in (slice(0, cut), slice(cut, T)):
        state, y = mixer.step(params, state, x[part], jax.tree.map(lambda z, part=part: z[part], tokens))
        pieces.append(y)
    expected_state, expected = mixer.step(params, empty, x[real], Tokens.arange(int(real.sum())))
    assert_close(state, expected_state, FORMULA)
    assert_close(jnp.concatenate(pieces)[real], expected, FORMULA)
    assert_close(mixer.apply(params, x, tokens)[real], expected, FORMULA)


@each_mixer
def test_a_chunk_of_padding_keeps_the_state_bit_for_bit(name):
    mixer, (params, x) = MIXERS[name], drawn(name, 1)
    state, _ = mixer.step(params, mixer.init_state(params, 1, jnp.float64), x, Tokens.arange(T))
    after, _ = mixer.step(params, state, 5 * x + 1, padded_tokens(0, share=0)[1])
    jax.tree.map(np.testing.assert_array_equal, after, state)


@each_mixer
@few
@given(seed=seeds)
def test_a_batch_equals_one_by_one(name, seed):
    mixer, (params, x) = MIXERS[name], drawn(name, seed, 2, 3)
    one_by_one = jnp.stack([jnp.stack([mixer.apply(params, one, Tokens.arange(T)) for one in row]) for row in x])
    assert_close(mixer.apply(params, x, Tokens.arange(T)), one_by_one, FORMULA)


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


@each_mixer
def test_the_output_has_the_dtype_of_the_input_and_the_state_single_precision_at_least(name):
    params, x = drawn(name, 2)
    expected = MIXERS[name].apply(params, x, Tokens.arange(T))
    for dtype, kept in ((jnp.bfloat16, jnp.float32), (jnp.float32, jnp.float32), (jnp.float64, jnp.float64)):
        rounded = jax.tree.map(lambda w, dtype=dtype: w.astype(dtype), params)
        state = MIXERS[name].init_state(rounded, 1)
        state, y = MIXERS[name].step(rounded, state, x.astype(dtype), Tokens.arange(T))
        assert {leaf.dtype for leaf in state} == {jnp.dtype(kept)}
        assert y.dtype == MIXERS[name].apply(rounded, x.astype(dtype), Tokens.arange(T)).dtype == dtype
        assert_close(y, expected, max(LAYER, FORMULA * (dtype == jnp.float64)), dtype)


@each_mixer
def test_padding_and_a_row_of_it_alone_have_finite_gradients(name):
    params, x = drawn(name, 3)
    for share in (0.0, 0.5):
        _, tokens = padded_tokens(3, share)

        def total(params, x, tokens=tokens):
            return MIXERS[name].apply(params, x, tokens).sum()

        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(total, argnums=(0, 1))(params, x)))


def test_initial_gates_keep_from_a_fifth_to_nearly_all_of_the_state():
    params = init_gated_delta(jax.random.key(0), 7, g=1000, k=2, v=3, convolution=2)
    kept = jnp.exp(-jnp.exp(params.log_rate) * jax.nn.softplus(params.b_a))
    assert 0.2 < kept.min() < 0.5
    assert 0.99 < kept.max() < 1
    assert params.delta.convolution.shape == (2, 1000, 7)
