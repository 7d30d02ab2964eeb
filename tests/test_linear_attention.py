"""Linear attention, RetNet and Mamba-2: what they are of softmax attention, and their papers' equations in NumPy."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minilm.layers.attention.core import dot_product_attention
from minilm.layers.linear_attention.feature_maps import elu_plus_one, random_features, taylor_features
from minilm.layers.linear_attention.linear import based_mixer, linear_attention, linear_mixer, performer_mixer
from minilm.layers.linear_attention.mamba import init_mamba2, mamba2_mixer
from minilm.layers.linear_attention.retention import retention_decays, retention_mixer
from minilm.reference.linear_attention import retention as retention_reference
from minilm.shapes import Tokens
from tests.mixers import assert_lawful, drawn_params
from tests.strategies import seeds
from tests.tolerances import FORMULA, REDUCTION, assert_close

D, G, T, K, V = 7, 2, 9, 4, 5
few = settings(max_examples=3)
LINEAR = {
    "linear": linear_mixer(g=G, k=K, v=V, chunk=4),
    "based": based_mixer(g=G, k=K, v=V, chunk=4),
    "performer": performer_mixer(g=G, k=K, v=V, m=6, chunk=4),
}
RETNET = retention_mixer(g=G, k=K, v=V, chunk=4)
MAMBA = mamba2_mixer(g=G, k=K, v=V, width=3, chunk=4)


def draw(seed, spread=1.0):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal(shape) for shape in ((G, T, K), (G, T, K), (G, T, V)))
    return *(jnp.asarray(spread * x) for x in (q, k)), jnp.asarray(v)


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


@pytest.mark.parametrize("name", LINEAR)
@few
@given(seed=seeds)
def test_a_mixer_is_the_quotient_of_sums_over_pairs_of_features(name, seed):
    mixer = LINEAR[name]
    params, x = drawn_params(mixer, D, seed), np.random.default_rng(seed).standard_normal((T, D))
    maps = {"linear": elu_plus_one, "based": taylor_features}
    phi = maps[name] if name in maps else partial(random_features, params.projection)
    heads, y = params.heads if name == "performer" else params, np.zeros((T, D))
    for g in range(G):
        q, k, v = (np.asarray(x @ w) for w in (heads.w_q[:, g, 0], heads.w_k[:, g], heads.w_v[:, g]))
        weights = np.tril(np.asarray(phi(jnp.asarray(q)) @ phi(jnp.asarray(k)).T))
        y += weights @ v / weights.sum(1, keepdims=True) @ np.asarray(heads.w_o[g, 0])
    assert_close(jax.jit(mixer.apply)(params, jnp.asarray(x), Tokens.arange(T)), y, FORMULA)


def test_a_query_without_a_key_gets_nothing_and_a_finite_gradient():
    q, k, v = draw(0)
    k = jnp.exp(k).at[:, :3].set(0.0)
    o, pullback = jax.vjp(from_nothing, jnp.exp(q), k, v)
    assert not o[:, :3].any()
    assert o[:, 3:].all()
    assert all(np.isfinite(leaf).all() for leaf in pullback(jnp.ones_like(o)))


def test_performers_directions_are_drawn_and_stay_as_they_are():
    mixer = performer_mixer(g=G, k=K, v=V)
    params = drawn_params(mixer, D, dtype=jnp.float32)
    assert params.projection.shape == (math.ceil(K * math.log(K)), K)
    assert mixer.init_state(params, 1).shape == (G, len(params.projection), V + 1)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((T, D)))
    gradient = jax.jit(jax.grad(lambda params: mixer.apply(params, x, Tokens.arange(T)).sum()))(params)
    assert not gradient.projection.any()
    assert gradient.heads.w_q.any()


# ── retention ────────────────────────────────────────────────────────────────────────────────────────────────────────


@few
@given(seed=seeds)
def test_retnet_is_the_papers_parallel_form(seed):
    params, x = drawn_params(RETNET, D, seed), np.random.default_rng(seed).standard_normal((T, D))
    p, n = jax.tree.map(np.asarray, params), np.arange(T)
    angles = n[:, None] * 10000.0 ** (-2 * np.arange(K // 2) / K)
    distance, y = n[:, None] - n, np.zeros((T, D))
    for g in range(G):
        q, k = (x @ w for w in (p.heads.w_q[:, g, 0], p.heads.w_k[:, g]))
        q, k = ((z[:, : K // 2] + 1j * z[:, K // 2 :]) * np.exp(1j * angles) for z in (q, k))  # planes, turned
        decay = np.where(distance >= 0, (1 - 2.0 ** (-5 - g)) ** np.maximum(distance, 0), 0)
        o = ((q @ k.conj().T).real / math.sqrt(K) * decay) @ (x @ p.heads.w_v[:, g])
        o = o / np.sqrt((o**2).mean(1, keepdims=True) + 1e-6) * p.norm.scale
        y += (silu(x @ p.w_gate[:, g]) * o) @ p.heads.w_o[g, 0]
    assert_close(jax.jit(RETNET.apply)(params, jnp.asarray(x), Tokens.arange(T)), y, FORMULA)


def test_the_logarithms_of_retnets_decays_are_those_of_the_reference_and_halve_from_head_to_head():
    expected = retention_reference.retention_decays(9)
    assert_close(retention_decays(9), expected, FORMULA)
    assert_close(np.exp(retention_decays(9)), 1 - 2.0 ** -np.arange(5, 14), REDUCTION)


# ── Mamba-2 ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@few
@given(seed=seeds)
def test_mamba_2_is_the_papers_recurrence(seed):
    params, u = drawn_params(MAMBA, D, seed), np.random.default_rng(seed).standard_normal((T, D))
    p, y = jax.tree.map(np.asarray, params), np.zeros((T, D))
    channels = np.concatenate([u @ p.w_x.reshape(D, -1), u @ p.w_b, u @ p.w_c], axis=1)
    state = np.zeros((G, K, V))
    for t in range(T):
        seen = sum(p.convolution[m] * channels[t - m] for m in range(3) if m <= t)
        x, b, c = np.split(silu(seen), [G * V, G * V + K])
        heads = np.zeros((G, V))
        for g, x_g in enumerate(x.reshape(G, V)):
            step = math.log1p(math.exp(u[t] @ p.w_step[:, g] + p.b_step[g]))
            state[g] = math.exp(-step * math.exp(p.rate[g])) * state[g] + np.outer(b, step * x_g)
            heads[g] = c @ state[g] + p.skip[g] * x_g
        gated = heads.ravel() * silu(u[t] @ p.w_gate.reshape(D, -1))
        y[t] = gated / math.sqrt((gated**2).mean() + 1e-6) * p.norm.scale @ p.w_o.reshape(-1, D)
    assert_close(jax.jit(MAMBA.apply)(params, jnp.asarray(u), Tokens.arange(T)), y, FORMULA)


def test_mamba_2_begins_with_the_papers_rates_and_steps():
    params = init_mamba2(jax.random.key(0), 50, g=1000, k=K, v=2)
    steps, rates = jax.nn.softplus(params.b_step), jnp.exp(params.rate)
    assert 0.0009 < steps.min() < 0.0012
    assert 0.09 < steps.max() < 0.101
    assert 1 <= rates.min() < 1.1
    assert 15.9 < rates.max() <= 16
    assert (params.skip == 1).all()
    for name, fan in (("w_x", 50), ("w_b", 50), ("w_c", 50), ("w_gate", 50), ("w_step", 50), ("w_o", 2000)):
        assert abs(getattr(params, name).std() * math.sqrt(fan) - 1) < 0.15, name


@pytest.mark.parametrize("mixer", [LINEAR["based"], RETNET, MAMBA], ids=["based", "retnet", "mamba-2"])
def test_a_mixer_of_sizes_that_all_differ_keeps_what_mixers_promise(mixer):
    assert_lawful(mixer, D, documents=False)


def silu(x):
    return x / (1 + np.exp(-x))
