"""Linear attention, RetNet and Mamba-2: what they are of softmax attention, and their papers' equations in PyTorch."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minilm.layers.attention.core import dot_product_attention
from minilm.layers.linear_attention.feature_maps import taylor_features
from minilm.layers.linear_attention.linear import based_mixer, linear_attention, linear_mixer, performer_mixer
from minilm.layers.linear_attention.mamba import init_mamba2, mamba2_mixer
from minilm.layers.linear_attention.retention import retention_decays, retention_mixer
from minilm.reference.linear_attention import linear as reference
from minilm.reference.linear_attention import retention as retention_reference
from minilm.shapes import Tokens
from tests.mixers import assert_lawful, assert_one_mixer, drawn_params
from tests.strategies import seeds
from tests.tolerances import FORMULA, LAYER, REDUCTION, assert_close
from tests.torch_oracle import assert_same_mixer

D, G, T, K, V = 7, 2, 9, 4, 5
few = settings(max_examples=3)
FAMILY = {"linear": linear_mixer, "based": based_mixer, "performer": partial(performer_mixer, m=6)}
LINEAR = {(name, chunk): mixer(g=G, k=K, v=V, chunk=chunk) for name, mixer in FAMILY.items() for chunk in (1, 8, T)}
RETNET = retention_mixer(g=G, k=K, v=V, chunk=4)
MAMBA = mamba2_mixer(g=G, k=K, v=V, width=3, chunk=4)


def draw(seed, spread=1.0):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal(shape) for shape in ((G, T, K), (G, T, K), (G, T, V)))
    return *(jnp.asarray(spread * x) for x in (q, k)), jnp.asarray(v)


def inputs(seed):
    return np.random.default_rng(seed).standard_normal((T, D))


def from_nothing(q, k, v):
    return linear_attention(jnp.zeros((G, k.shape[-1], V + 1)), q, k, v, chunk=4)[1]


def softmax_attention(q, k, v):
    return dot_product_attention(q[:, None], k, v, jnp.tri(T, dtype=bool))[:, 0]


# ── linear attention ─────────────────────────────────────────────────────────────────────────────────────────────────


@few
@given(seed=seeds)
def test_of_features_whose_products_are_the_exponentials_of_the_scores_it_is_softmax_attention(seed):
    """One feature for each key is enough, where the keys are known: there the query's feature is the exponential."""
    q, k, v = draw(seed)
    features = jnp.exp(jnp.einsum("gtk,gsk->gts", q, k) / math.sqrt(K))
    own = jnp.broadcast_to(jnp.eye(T), (G, T, T))
    assert_close(from_nothing(features, own, v), softmax_attention(q, k, v), FORMULA)


@few
@given(seed=seeds)
def test_of_taylor_features_it_nears_softmax_attention_as_the_cube_of_the_scores(seed):
    def distance(spread):
        q, k, v = draw(seed, spread)
        return jnp.abs(from_nothing(taylor_features(q), taylor_features(k), v) - softmax_attention(q, k, v)).max()

    near, far = distance(0.1), distance(0.2)  # scores four times as large, and their cubes sixty-four times
    assert 0 < 40 * near < far < 100 * near


def torch_features(name, params, x):
    import torch

    if name == "linear":
        return torch.nn.functional.elu(x) + 1
    x = x / K**0.25
    if name == "based":
        return torch.cat([torch.ones_like(x[:1]), x, torch.outer(x, x).flatten() / math.sqrt(2)])
    w = params.projection.detach()
    return torch.exp(w @ x - x @ x / 2) / math.sqrt(len(w))


def torch_linear(name, params, x):
    import torch

    heads, y = params.heads if name == "performer" else params, torch.zeros_like(x)
    for g in range(G):
        s = z = 0.0
        for t in range(T):
            q, k, v = (x[t] @ w for w in (heads.w_q[:, g, 0], heads.w_k[:, g], heads.w_v[:, g]))
            q, k = (torch_features(name, params, a) for a in (q, k))
            s, z = s + torch.outer(k, v), z + k
            y[t] += q @ s / (q @ z) @ heads.w_o[g, 0]
    return y


@pytest.mark.parametrize(
    ("name", "chunk"), [pytest.param(*case, marks=() if case[1] == 8 else pytest.mark.slow) for case in LINEAR]
)
@few
@given(seed=seeds)
def test_in_chunks_of_any_size_a_mixer_and_its_gradients_are_the_papers_recurrence(name, chunk, seed):
    params = drawn_params(LINEAR[name, T], D, seed)
    assert_same_mixer(LINEAR[name, chunk], partial(torch_linear, name), params, inputs(seed), seed)


def test_a_query_without_a_key_gets_nothing_and_a_finite_gradient():
    q, k, v = draw(0)
    k = jnp.exp(k).at[:, :3].set(0.0)
    o, pullback = jax.vjp(from_nothing, jnp.exp(q), k, v)
    assert not o[:, :3].any()
    assert o[:, 3:].all()
    gradients = pullback(jnp.ones_like(o))
    assert all(np.isfinite(leaf).all() for leaf in gradients)
    (_, by_hand), saved = reference.linear_attention(np.zeros((G, K, V + 1)), np.exp(q), np.asarray(k), np.asarray(v))
    _, *d_by_hand = reference.linear_attention_backward(saved, (np.zeros((G, K, V + 1)), np.ones(o.shape)))
    assert_close((o, gradients), (by_hand, tuple(d_by_hand)), FORMULA)


def test_mixers_are_made_of_the_heads_that_they_are_told_and_based_of_narrow_ones():
    told = linear_mixer(g=G, k=K, v=V), performer_mixer(g=G, k=K, v=V, m=6), based_mixer(g=G, v=V)
    for mixer, k, features in zip(told, (K, K, 16), (K, 6, 1 + 16 + 16**2), strict=True):
        params = mixer.init(jax.random.key(0), D)
        heads = getattr(params, "heads", params)
        assert (heads.w_k.shape, heads.w_v.shape) == ((D, G, k), (D, G, V))
        state = mixer.init_state(params, T)
        assert getattr(state, "matrix", state).shape == (G, features, V + 1)
    assert performer_mixer(g=G, k=K, v=V).init(jax.random.key(0), D).projection.shape == (6, K), "⌈4 ln 4⌉"


def test_a_convolution_of_four_is_mamba_2s_unless_told_and_chunks_make_no_difference():
    assert_one_mixer(mamba2_mixer(g=G, k=K, v=V), mamba2_mixer(g=G, k=K, v=V, width=4, chunk=4, fastest=16.0), D)
    assert_one_mixer(retention_mixer(g=G, k=K, v=V), RETNET, D)


def test_performers_directions_are_drawn_and_stay_as_they_are():
    mixer = performer_mixer(g=G, k=K, v=V)
    params = drawn_params(mixer, D, dtype=jnp.float32)
    assert params.projection.shape == (math.ceil(K * math.log(K)), K)
    assert mixer.init_state(params, 1).matrix.shape == (G, len(params.projection), V + 1)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((T, D)))
    gradient = jax.jit(jax.grad(lambda params: mixer.apply(params, x, Tokens.arange(T)).sum()))(params)
    assert not gradient.projection.any()
    assert gradient.heads.w_q.any()


# ── retention ────────────────────────────────────────────────────────────────────────────────────────────────────────


def torch_retnet(p, x):
    """Equation 6, with the norm and the gate of equation 8; planes turn as complex numbers do."""
    import torch
    from torch.nn.functional import rms_norm, silu

    theta, y = 10000.0 ** (-2 * torch.arange(K // 2, dtype=x.dtype) / K), torch.zeros_like(x)
    for g in range(G):
        state = 0.0
        for n in range(T):
            q, k = (x[n] @ w for w in (p.heads.w_q[:, g, 0], p.heads.w_k[:, g]))
            q, k = (torch.complex(*z.chunk(2)) * torch.exp(1j * n * theta) for z in (q, k))
            state = (1 - 2.0 ** (-5 - g)) * state + k.conj()[:, None] * (x[n] @ p.heads.w_v[:, g])
            o = rms_norm((q @ state).real / math.sqrt(K), (V,), p.norm.scale, eps=1e-6)
            y[n] += (silu(x[n] @ p.w_gate[:, g]) * o) @ p.heads.w_o[g, 0]
    return y


@few
@given(seed=seeds)
def test_retnet_and_its_gradients_are_the_papers_recurrence(seed):
    assert_same_mixer(RETNET, torch_retnet, drawn_params(RETNET, D, seed), inputs(seed), seed)


def test_the_logarithms_of_retnets_decays_are_those_of_the_reference_and_halve_from_head_to_head():
    expected = retention_reference.retention_decays(9)
    assert_close(retention_decays(9), expected, FORMULA)
    assert_close(np.exp(retention_decays(9)), 1 - 2.0 ** -np.arange(5, 14), REDUCTION)


# ── Mamba-2 ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def torch_mamba2(p, u):
    import torch
    from torch.nn.functional import rms_norm, silu, softplus

    channels = torch.cat([u @ p.w_x.flatten(1), u @ p.w_b, u @ p.w_c], 1)
    state, outputs = 0.0, []
    for t in range(T):
        seen = sum(p.convolution[m] * channels[t - m] for m in range(3) if m <= t)
        x, b, c = silu(seen).split([G * V, K, K])
        x, step = x.view(G, V), softplus(u[t] @ p.w_step + p.b_step)
        kept = torch.exp(-step * p.rate.exp())[:, None, None]
        state = kept * state + torch.stack([torch.outer(b, step[g] * x[g]) for g in range(G)])
        heads = c @ state + p.skip[:, None] * x
        gated = heads.flatten() * silu(u[t] @ p.w_gate.flatten(1))
        outputs.append(rms_norm(gated, (G * V,), p.norm.scale, eps=1e-6) @ p.w_o.flatten(0, 1))
    return torch.stack(outputs)


@few
@given(seed=seeds)
def test_mamba_2_and_its_gradients_are_the_papers_recurrence(seed):
    assert_same_mixer(MAMBA, torch_mamba2, drawn_params(MAMBA, D, seed), inputs(seed), seed)


def test_mamba_2_forgets_as_float32_says_though_its_weights_are_narrow():
    params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), MAMBA.init(jax.random.key(0), D))
    state = MAMBA.init_state(params, T)._replace(matrix=jnp.ones((G, K, V)))
    state, _ = MAMBA.step(params, state, jnp.zeros((T, D), jnp.bfloat16), Tokens.arange(T))
    rate, b = np.asarray(params.rate, np.float64), np.asarray(params.b_step, np.float64)
    kept = np.exp(-T * np.exp(rate) * np.log1p(np.exp(b)))
    assert_close(state.matrix, np.broadcast_to(kept[:, None, None], (G, K, V)), LAYER, jnp.float32)


def test_mamba_2_begins_with_the_papers_rates_and_steps():
    params = init_mamba2(jax.random.key(0), 50, g=1000, k=K, v=2)
    steps, rates = jax.nn.softplus(params.b_step), jnp.exp(params.rate)
    assert 0.0009 < steps.min() < 0.0012
    assert 0.098 < steps.max() < 0.101
    assert 1 <= rates.min() < 1.1
    assert 15.9 < rates.max() <= 16
    assert (params.skip == 1).all()
    assert init_mamba2(jax.random.key(0), D, g=G, k=K, v=V).convolution.shape == (4, G * V + 2 * K)
    assert (mamba2_mixer(g=9, k=K, v=2, fastest=1.0).init(jax.random.key(0), 50).rate == 0).all()
    for name, fan in (("w_x", 50), ("w_b", 50), ("w_c", 50), ("w_gate", 50), ("w_step", 50), ("w_o", 2000)):
        assert abs(getattr(params, name).std() * math.sqrt(fan) - 1) < 0.15, name


@pytest.mark.parametrize(
    "mixer",
    [LINEAR["based", 8], LINEAR["performer", 8], RETNET, MAMBA],
    ids=["based", "performer", "retnet", "mamba-2"],
)
def test_a_mixer_of_sizes_that_all_differ_keeps_what_mixers_promise(mixer):
    assert_lawful(mixer, D, documents=False)
