"""Attention that forgets: nothing with all gates open, all with one shut, and at a constant rate as ALiBi does."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.tree_util import Partial

from minilm.layers.attention.biases import Alibi
from minilm.layers.attention.core import Dense
from minilm.layers.attention.forgetting import (
    ForgetGateParams,
    forgetting_bias,
    forgetting_mixer,
    init_forget_gate,
    init_forgetting,
    log_forget,
)
from minilm.layers.attention.masks import Causal, SameDocument
from minilm.layers.attention.multi_head import multi_head
from minilm.shapes import Tokens
from tests.mixers import assert_lawful, drawn_params
from tests.strategies import seeds
from tests.tolerances import FORMULA, REDUCTION, assert_close

D, G, R, K, V, T = 5, 2, 3, 4, 6, 7
RULE = Causal() & SameDocument()
MIXER = forgetting_mixer(RULE, g=G, r=R, k=K, v=V)
HERE = Tokens.arange(T)
few = settings(max_examples=5)


def draw(seed):
    """q, k, v and the logarithms of gates."""
    rng = np.random.default_rng(seed)
    q, k, v, a = (rng.standard_normal(shape) for shape in ((G, R, T, K), (G, T, K), (G, T, V), (G, R, T)))
    return *map(jnp.asarray, (q, k, v)), jax.nn.log_sigmoid(jnp.asarray(a))


def gate_of(params, b_f):
    """The parameters with every gate's weights at zero."""
    gate = ForgetGateParams(jnp.zeros_like(params.gate.w_f), jnp.full_like(params.gate.b_f, b_f))
    return params._replace(gate=gate)


@few
@given(seed=seeds)
def test_with_its_gates_at_one_it_is_dot_product_attention(seed):
    params, x = drawn_params(MIXER, D, seed), jnp.asarray(np.random.default_rng(seed).standard_normal((2, T, D)))
    y = MIXER.apply(gate_of(params, 1e4), x, HERE)
    np.testing.assert_array_equal(y, multi_head(params.multi_head, x, HERE, Dense(RULE)))


@few
@given(seed=seeds)
def test_gates_of_one_constant_are_alibi(seed):
    q, k, v, _ = draw(seed)
    slopes = jnp.asarray(0.1 + np.random.default_rng(seed).random((G, R)))
    constant = jnp.broadcast_to(-slopes[..., None], (G, R, T))
    forgetting = Dense(Causal(), Partial(forgetting_bias, constant))(q, k, v, HERE, HERE)
    assert_close(forgetting, Dense(Causal(), Alibi(slopes))(q, k, v, HERE, HERE), FORMULA)


@few
@given(seed=seeds)
def test_it_is_the_papers_loop(seed):
    """Plain PyTorch, one query after another: the scores plus a difference of cumulative sums."""
    torch = pytest.importorskip("torch")
    q, k, v, log_f = draw(seed)
    out = Dense(Causal(), Partial(forgetting_bias, log_f))(q, k, v, HERE, HERE)
    q, k, v, log_f = (torch.tensor(np.asarray(a)) for a in (q, k, v, log_f))
    cumulative, expected = torch.cumsum(log_f, -1), torch.zeros(G, R, T, V, dtype=torch.float64)
    for g, r, i in np.ndindex(G, R, T):
        s = k[g, : i + 1] @ q[g, r, i] / math.sqrt(K) + cumulative[g, r, i] - cumulative[g, r, : i + 1]
        expected[g, r, i] = torch.softmax(s, 0) @ v[g, : i + 1]
    assert_close(out, expected.numpy(), FORMULA)


@few
@given(seed=seeds)
def test_a_shut_gate_starts_anew(seed):
    q, k, v, log_f = draw(seed)
    out = Dense(Causal(), Partial(forgetting_bias, log_f.at[:, :, 3].set(-1e4)))(q, k, v, HERE, HERE)
    late = Tokens.arange(T - 3, start=3)
    alone = Dense(Causal(), Partial(forgetting_bias, log_f[:, :, 3:]))(q[:, :, 3:], k[:, 3:], v[:, 3:], late, late)
    assert_close(out[:, :, 3:], alone, FORMULA)


@few
@given(seed=seeds)
def test_padding_makes_nothing_forgotten_and_documents_do_not_make_each_other(seed):
    *_, log_f = draw(seed)
    position, document = np.array([0, -1, 1, 2, 0, -1, 1]), np.array([0, 0, 0, 0, 1, 1, 1])
    tokens = Tokens(jnp.asarray(position), jnp.asarray(document))
    bias = forgetting_bias(log_f, tokens, tokens)
    for number in (0, 1):
        kept = np.flatnonzero((document == number) & (position >= 0))
        where = Tokens.arange(len(kept))
        alone = forgetting_bias(log_f[:, :, kept], where, where)
        assert_close(bias[:, :, kept[:, None], kept], alone, FORMULA)


def test_in_float32_neighbours_at_the_end_of_a_long_text_are_as_exact_as_at_its_start():
    t = 3000
    log_f = -8 * np.random.default_rng(0).random((1, 1, t)).astype(np.float32)
    last = Tokens.arange(2, start=t - 2)
    bias = np.asarray(forgetting_bias(jnp.asarray(log_f), Tokens.arange(t), last)[0, 0])
    assert_close(bias[-1, 0], log_f[0, 0, -1], REDUCTION, jnp.float32)
    f = np.cumsum(log_f[0, 0])
    with pytest.raises(AssertionError, match="off by"):
        assert_close(f[-1] - f[-2], log_f[0, 0, -1], REDUCTION, jnp.float32)


def test_a_step_holds_what_each_key_has_been_forgotten_by_and_no_sum_over_all_that_was_read():
    params, size = jax.tree.map(lambda w: w.astype(jnp.float32), drawn_params(MIXER, D)), 4
    params = gate_of(params, -3.0)
    state = MIXER.init_state(params, size)
    step = jax.jit(MIXER.step)
    for t in range(11):
        state, _ = step(params, state, jnp.ones((1, D), jnp.float32), Tokens.arange(1, start=t))
    one = math.log(1 / (1 + math.exp(3.0)))
    assert_close(state.forgotten, np.broadcast_to(one * np.array([2, 1, 0, 3]), (G, R, size)), REDUCTION, jnp.float32)


def test_saturated_gates_and_queries_without_keys_have_finite_gradients():
    q, k, v, _ = draw(0)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((T, D)))
    gate = ForgetGateParams(1e4 * jnp.ones((D, G, R)), jnp.zeros((G, R)))
    hidden = Tokens(HERE.position.at[2].set(-1), HERE.document)

    def total(gate, x, q, k, v):
        out = Dense(Causal(), Partial(forgetting_bias, log_forget(gate, x)))(q, k, v, hidden, hidden)
        return out.sum(), out

    gradient, out = jax.grad(total, argnums=(0, 1, 2, 3, 4), has_aux=True)(gate, x, q, k, v)
    assert not out[:, :, 2].any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_gate_that_is_nearly_shut_keeps_its_digits_and_its_gradient():
    gate = ForgetGateParams(jnp.ones((1, 1, 1)), jnp.zeros((1, 1)))
    y, slope = jax.value_and_grad(lambda x: log_forget(gate, x)[0, 0, 0])(jnp.array([[-500.0]]))
    assert (y, slope.item()) == (-500.0, 1.0)


def test_initial_gates_are_half_open():
    gate = init_forget_gate(jax.random.key(0), 300, g=20, r=30)
    assert abs(gate.w_f.std() * np.sqrt(300) - 1) < gate.w_f.size**-0.25
    assert not gate.b_f.any()
    sizes = {"g": G, "r": R, "k": K, "v": V}
    assert forgetting_mixer(**sizes, bias=False).init(jax.random.key(0), D).multi_head.b_q is None
    for begun in (forgetting_mixer(**sizes).init(jax.random.key(0), D), init_forgetting(jax.random.key(0), D, **sizes)):
        assert begun.multi_head.b_q.shape == (G, R, K)


def test_the_mixer_keeps_what_mixers_promise_with_sizes_that_all_differ_and_documents_apart():
    assert_lawful(MIXER, D)
