"""Linear attention, RetNet and Mamba-2: what they are of softmax attention, and their papers' equations in PyTorch."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minilm.layers.attention.core import dot_product_attention
from minilm.layers.linear_attention.feature_maps import elu_plus_one, taylor_features
from minilm.layers.linear_attention.linear import (
    NOTHING,
    ScaledState,
    based_mixer,
    exponential_attention,
    linear_attention,
    linear_mixer,
    performer_mixer,
)
from minilm.layers.linear_attention.mamba import init_mamba2, mamba2_mixer
from minilm.layers.linear_attention.retention import retention_decays, retention_mixer
from minilm.reference.linear_attention import linear as reference
from minilm.reference.linear_attention import retention as retention_reference
from minilm.shapes import Tokens
from tests.mixers import assert_lawful, drawn_params
from tests.strategies import seeds
from tests.tolerances import FORMULA, LAYER, MODEL, REDUCTION, assert_close
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


@pytest.mark.parametrize("low", [-30.0, -50.0, -60.0, -80.0, -90.0, -110.0])
def test_weights_of_any_smallness_have_a_mean_and_gradients_in_float32(low):
    q, k, v = draw(5)
    state, d_o = jnp.zeros((G, K, V + 1)), jnp.ones_like(v)

    def attended(dtype, *features):
        def attend(q, k):
            return linear_attention(state.astype(dtype), elu_plus_one(q), elu_plus_one(k), v.astype(dtype), chunk=2)[1]

        o, pullback = jax.vjp(attend, *(x.astype(dtype) for x in features))
        assert all(np.isfinite(leaf).all() for leaf in pullback(1e6 * d_o.astype(dtype)))
        return o, pullback(d_o.astype(dtype))

    for features in ((q + low, k), (q, k + low)):
        o, gradients = attended(jnp.float32, *features)
        expected, d_expected = attended(jnp.float64, *features)
        if low >= -80:  # e^-88 is the least number of float32
            assert_close(o, expected, LAYER, jnp.float32)
        if low >= -60:
            assert_close(gradients, d_expected, MODEL, jnp.float32)


def test_features_of_any_size_and_sign_have_one_mean_of_which_the_gradients_are_their_own():
    q, k, v = draw(5)
    q, k, state = jnp.abs(q).at[..., 0].set(0), jnp.abs(k), jnp.zeros((G, K, V + 1))

    def attended(dtype, size):
        features = ((size * q).astype(dtype), (math.exp(-30) * k).astype(dtype))
        attend = lambda q, k: linear_attention(state.astype(dtype), q, k, v.astype(dtype), chunk=2)[1]  # noqa: E731
        o, pullback = jax.vjp(attend, *features)
        d_q, d_k = pullback(jnp.ones_like(o))
        return o, size * d_q, math.exp(-30) * d_k

    expected = attended(jnp.float64, 1.0)
    for size in (1.0, -1.0, math.exp(-60), -math.exp(-60)):
        assert_close(attended(jnp.float32, size), expected, MODEL, jnp.float32)


@few
@given(seed=seeds)
def test_attention_by_exponents_is_linear_attention_of_their_exponentials(seed):
    a, b, v = draw(seed)
    matrix, m = jnp.abs(jnp.asarray(np.random.default_rng(seed).standard_normal((G, K, V + 1)))), jnp.array([-2.0, 3.0])
    after, o = linear_attention(matrix * jnp.exp(m)[:, None, None], jnp.exp(a), jnp.exp(b), v, chunk=2)
    state, same = exponential_attention(ScaledState(matrix, m), a, b, v, chunk=2)
    assert_close((state.matrix * jnp.exp(state.m)[:, None, None], same), (after, o), FORMULA)


@pytest.mark.parametrize("far", [-1000, 1000])
def test_exponents_of_any_size_have_a_mean_and_gradients_in_float32(far):
    a, b, v = (jnp.round(8 * x).astype(jnp.float32) / 8 for x in draw(6))  # which have the room to go far

    def attend(a, b):
        empty = ScaledState(jnp.zeros((G, K, V + 1), jnp.float32), jnp.full(G, NOTHING, jnp.float32))
        return exponential_attention(empty, a, b, v, chunk=2)[1]

    expected, o = (jax.vjp(attend, *given) for given in ((a, b), (a - far, b + far)))
    d_o = jnp.ones_like(v)
    assert_close((o[0], o[1](d_o)), (expected[0], expected[1](d_o)), LAYER, jnp.float32)
    growing = b + 100 * jnp.arange(T, dtype=jnp.float32)[:, None]
    assert_close(attend(a, growing), v, LAYER, jnp.float32)  # each key outweighs those before it


@pytest.mark.parametrize(("aside", "far"), [(0, 3000.0), (0, -3000.0), (4, -3000.0), (4, 0.0), (T, 0.0)])
def test_exponents_of_any_size_and_of_no_key_give_what_they_do_by_hand(aside, far):
    """Keys far away, and the first ones none at all: of those there is nothing, and behind them no trace."""
    a, b, v = draw(7)
    b, empty = (b + far).at[:, :aside].set(-jnp.inf), ScaledState(jnp.zeros((G, K, V + 1)), jnp.full(G, NOTHING))
    (state, o), pullback = jax.vjp(partial(exponential_attention, chunk=2), empty, a - far / 2, b, v)
    given = jax.tree.map(np.asarray, (empty, a - far / 2, b, v))
    (by_hand, expected), saved = reference.exponential_attention(*given)
    d_out = jax.tree.map(np.ones_like, (by_hand, expected))
    assert_close((o, state.matrix), (expected, by_hand.matrix), FORMULA)
    assert_close(state.m, by_hand.m, FORMULA)
    assert_close(
        pullback(jax.tree.map(jnp.asarray, d_out)), reference.exponential_attention_backward(saved, d_out), FORMULA
    )
    assert not o[:, :aside].any()
    assert o[:, aside:].all()


def test_values_that_are_all_zero_have_a_gradient_by_exponents_too():
    a, b, v = draw(11)
    given = ScaledState(jnp.zeros((G, K, V + 1)), jnp.full(G, NOTHING)), a, b, jnp.zeros_like(v)
    _, pullback = jax.vjp(lambda *x: exponential_attention(*x, chunk=2)[1], *given)
    (after, o), saved = reference.exponential_attention(*jax.tree.map(np.asarray, given))
    by_hand = reference.exponential_attention_backward(saved, (jax.tree.map(np.zeros_like, after), np.ones_like(o)))
    assert_close(pullback(jnp.ones_like(v)), by_hand, FORMULA)
    assert by_hand[3].all()


def test_a_state_whose_power_is_that_of_the_largest_key_has_the_gradient_by_hand():
    """As it is where a text goes on: its power is a whole number, and so is that of the keys."""
    a, b, v = draw(8)
    state = ScaledState(jnp.abs(draw(9)[2][:, :K]).repeat(2, -1)[..., : V + 1], jnp.round(b.max((1, 2))))
    out, pullback = jax.vjp(partial(exponential_attention, chunk=2), state, a, b, v)
    expected, saved = reference.exponential_attention(*jax.tree.map(np.asarray, (state, a, b, v)))
    d_out = jax.tree.map(np.ones_like, expected)
    by_hand = reference.exponential_attention_backward(saved, d_out)
    assert_close((out, pullback(jax.tree.map(jnp.asarray, d_out))), (expected, by_hand), FORMULA)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_features_of_sixteen_bits_are_not_rounded_once_more(dtype):
    q, k, v = (jnp.abs(x).astype(dtype) for x in draw(10))
    state, v = jnp.zeros((G, K, V + 1), jnp.float32), v.astype(jnp.float32)
    o, wide = (linear_attention(state, x, k.astype(x.dtype), v, chunk=2)[1] for x in (q, q.astype(jnp.float32)))
    assert_close(o, wide, REDUCTION, jnp.float32)
    scaled, narrow = ScaledState(state, jnp.full(G, NOTHING, jnp.float32)), v.astype(dtype)
    after, o = exponential_attention(scaled, q, k, narrow, chunk=2)
    assert (o.dtype, after.matrix.dtype, after.m.dtype) == (dtype, jnp.float32, jnp.float32)


@pytest.mark.parametrize("scale", [1.0, 4.0, 8.0, 12.0])
def test_a_performer_of_loud_inputs_computes_in_float32_what_it_does_in_float64(scale):
    mixer = performer_mixer(g=2, k=32, v=4, m=64)
    params = mixer.init(jax.random.key(0), 64)
    x = scale * jnp.asarray(np.random.default_rng(0).standard_normal((20, 64)), jnp.float32)
    y, pullback = jax.vjp(lambda params, x: mixer.apply(params, x, Tokens.arange(20)), params, x)
    wide = jax.tree.map(lambda w: w.astype(jnp.float64), (params, x))
    assert_close(y, mixer.apply(*wide, Tokens.arange(20)), MODEL, jnp.float32)  # exponents are squares of the inputs
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(pullback(y)))


def test_mixers_are_made_of_the_heads_that_they_are_told_and_based_of_narrow_ones():
    told = linear_mixer(g=G, k=K, v=V), performer_mixer(g=G, k=K, v=V, m=6), based_mixer(g=G, v=V)
    for mixer, k, features in zip(told, (K, K, 16), (K, 6, 1 + 16 + 16**2), strict=True):
        params = mixer.init(jax.random.key(0), D)
        heads = getattr(params, "heads", params)
        assert (heads.w_k.shape, heads.w_v.shape) == ((D, G, k), (D, G, V))
        state = mixer.init_state(params, T)
        assert getattr(state, "matrix", state).shape == (G, features, V + 1)
    assert performer_mixer(g=G, k=K, v=V).init(jax.random.key(0), D).projection.shape == (6, K), "⌈4 ln 4⌉"


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


def test_mamba_2_begins_with_the_papers_rates_and_steps():
    params = init_mamba2(jax.random.key(0), 50, g=1000, k=K, v=2)
    steps, rates = jax.nn.softplus(params.b_step), jnp.exp(params.rate)
    assert 0.0009 < steps.min() < 0.0012
    assert 0.09 < steps.max() < 0.101
    assert 1 <= rates.min() < 1.1
    assert 15.9 < rates.max() <= 16
    assert (params.skip == 1).all()
    assert (mamba2_mixer(g=9, k=K, v=2, fastest=1.0).init(jax.random.key(0), 50).rate == 0).all()
    for name, fan in (("w_x", 50), ("w_b", 50), ("w_c", 50), ("w_gate", 50), ("w_step", 50), ("w_o", 2000)):
        assert abs(getattr(params, name).std() * math.sqrt(fan) - 1) < 0.15, name


@pytest.mark.parametrize("mixer", [LINEAR["based", 8], RETNET, MAMBA], ids=["based", "retnet", "mamba-2"])
def test_a_mixer_of_sizes_that_all_differ_keeps_what_mixers_promise(mixer):
    assert_lawful(mixer, D, documents=False)
