"""RWKV-6: its forms are one, the bonus is the current token's alone, and its mixer sees the token before."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.linear_attention.gated import gated_chunked, gated_parallel
from minilm.layers.linear_attention.rwkv import rwkv6_chunked, rwkv6_mixer, rwkv6_parallel, rwkv6_step
from minilm.layers.linear_attention.state_mixer import token_shift_mixer
from minilm.shapes import Mixer, Tokens
from tests.mixers import assert_lawful, drawn_params, numbered
from tests.records.linear_attention_gated import drawn_log_decays
from tests.strategies import seeds
from tests.tolerances import FORMULA, assert_close

G, T, K, V = 2, 11, 3, 4
few = settings(max_examples=5)


def draw(seed, t=T, dtype=jnp.float64):
    """State, r, k, v, decays of which some keep and some forget everything, and u."""
    rng = np.random.default_rng(seed)
    state, r, k, v, u = (rng.standard_normal(s) for s in ((G, K, V), (G, t, K), (G, t, K), (G, t, V), (G, K)))
    return [jnp.asarray(x, dtype) for x in (state, r, k, v, drawn_log_decays(rng, (G, t, K)), u)]


def token_by_token(state, *inputs):
    *inputs, u = inputs
    outputs = []
    for t in range(inputs[0].shape[1]):
        state, o = rwkv6_step(state, *(x[:, t] for x in inputs), u)
        outputs.append(o)
    return state, jnp.stack(outputs, axis=1)


@few
@given(seed=seeds, chunk=st.sampled_from([1, 8, T, 2 * T]))
def test_step_by_step_equals_chunks_of_any_size(seed, chunk):
    arguments = draw(seed)
    assert_close(rwkv6_chunked(*arguments, chunk=chunk), token_by_token(*arguments), FORMULA)


@few
@given(seed=seeds, chunk=st.sampled_from([1, 8, T]))
def test_all_pairs_equal_chunks_from_an_empty_state(seed, chunk):
    state, *inputs = draw(seed)
    assert_close(rwkv6_parallel(*inputs), rwkv6_chunked(0 * state, *inputs, chunk=chunk)[1], FORMULA)


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


@partial(jax.jit, static_argnums=0)
def value_and_gradients(form, arguments):
    out, vjp = jax.vjp(form, *arguments)
    return out, vjp(jax.tree.map(jnp.ones_like, out))


@pytest.mark.parametrize(
    "form", [partial(rwkv6_chunked, chunk=4), token_by_token, lambda state, *inputs: rwkv6_parallel(*inputs)]
)
@pytest.mark.parametrize("log_decay", [0.0, -90.0, -np.inf])
def test_values_and_gradients_are_finite_in_float32_at_every_gate(form, log_decay):
    *others, gates, u = draw(0, t=6, dtype=jnp.float32)
    arguments = (*others, jnp.full_like(gates, log_decay).at[:, 3].set(-0.5), u)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(value_and_gradients(form, arguments)))


def test_the_mixer_keeps_what_mixers_promise_with_sizes_that_all_differ():
    assert_lawful(rwkv6_mixer(g=2, k=3, v=4), 5, documents=False)


def test_each_head_of_the_mixer_is_normalised_by_itself():
    """What one head writes, however loud, leaves what the other adds to the output as it was."""
    mixer = rwkv6_mixer(g=2, k=3, v=4)
    params = drawn_params(mixer, 5)
    params = params._replace(w_o=params.w_o.at[0].set(0.0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 5)))
    louder = params._replace(w_v=params.w_v.at[:, 0].multiply(100.0))
    assert_close(mixer.apply(louder, x, Tokens.arange(6)), mixer.apply(params, x, Tokens.arange(6)), FORMULA)


def test_a_shifted_mixer_reads_each_token_beside_the_last_real_one_before_it():
    spy = Mixer(
        init=lambda key, d: jnp.ones(d),
        apply=lambda params, pairs, tokens: pairs,
        init_state=lambda params, size, dtype=None: (),
        step=lambda params, state, pairs, tokens: (state, pairs),
    )
    mixer = token_shift_mixer(spy, width=len)
    x, real = jnp.array([[1.0], [9.0], [2.0], [9.0], [9.0], [3.0]]), np.array([True, False, True, False, False, True])
    pairs = mixer.apply(jnp.ones(1), x, numbered(real))
    assert pairs[real].tolist() == [[1.0, 0.0], [2.0, 1.0], [3.0, 2.0]]
    state = mixer.init_state(jnp.ones(1), 1)
    state, first = mixer.step(jnp.ones(1), state, x[:2], numbered(real[:2]))
    state, rest = mixer.step(jnp.ones(1), state, x[2:], numbered(real[2:]))
    assert state.x.tolist() == [3.0]
    assert jnp.concatenate([first, rest]).tolist() == pairs.tolist()


def test_initial_weights_keep_the_variance_of_their_inputs_and_rates_differ_by_dimension():
    params = rwkv6_mixer(g=20, k=30, v=40).init(jax.random.key(0), 50)
    inputs = dict.fromkeys(("w_r", "w_k", "w_v", "w_decay_in", "w_gate"), 50) | {"w_o": 20 * 40}
    for name, width in inputs.items():
        assert abs(getattr(params, name).std() * np.sqrt(width) - 1) < 0.1, name
    assert (params.w_decay_in.shape, params.w_decay_out.shape) == ((50, 64), (64, 20, 30))
    assert (jnp.diff(params.b_decay, axis=1) > 0).all()
    assert ((params.shift >= 0) & (params.shift <= 1)).all()
