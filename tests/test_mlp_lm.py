"""Bengio's neural n-gram: equal to the whole model by hand, and blind beyond its history."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.data.batching import Batch
from minilm.models import mlp_lm
from minilm.reference.models import mlp_lm as reference
from tests.strategies import seeds, shaken
from tests.tolerances import DIFFERENCE, FORMULA, LAYER, assert_close

B, T, M = 2, 7, 3
CONFIG = mlp_lm.Config(vocab_size=11, context_length=9, history=M, d_model=4, d_hidden=5, direct=True)
apply, step = jax.jit(mlp_lm.apply), jax.jit(mlp_lm.step)


def example(seed=0, direct=True):
    """Float64 parameters of which nothing is zero, and a batch with an ignored position."""
    rng = np.random.default_rng(seed)
    config = mlp_lm.Config(11, 9, M, 4, 5, direct)
    params = shaken(jax.jit(mlp_lm.init)(jax.random.key(seed), config), rng, 0.3)
    tokens = jnp.asarray(rng.integers(0, 11, (B, T + 1)), jnp.int32)
    return params, Batch(tokens[:, :-1], tokens[:, 1:], jnp.ones((B, T)).at[0, -1].set(0)), config


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


@pytest.mark.parametrize("direct", [True, False])
def test_the_gradient_of_every_parameter_equals_the_one_by_hand(direct):
    params, batch, config = example(direct=direct)
    out, gradient = jax.jit(jax.value_and_grad(mlp_lm.loss, has_aux=True))(params, batch, config=config)
    expected, saved = reference.loss(as_numpy(params), as_numpy(batch))
    assert_close(out, expected, FORMULA)
    by_hand = reference.loss_backward(saved)
    assert jax.tree.structure(by_hand) == jax.tree.structure(gradient)
    assert_close(gradient, by_hand, FORMULA)


def test_the_gradient_by_hand_equals_central_differences():
    params, batch = map(as_numpy, example(1)[:2])
    _, saved = reference.loss(params, batch)
    rng, h = np.random.default_rng(1), 1e-5
    direction = jax.tree.map(lambda p: rng.standard_normal(p.shape), params)

    def along(h):
        return reference.loss(jax.tree.map(lambda p, v: p + h * v, params, direction), batch)[0][0]

    slopes = jax.tree.map(np.vdot, reference.loss_backward(saved), direction)
    assert_close((along(h) - along(-h)) / (2 * h), sum(jax.tree.leaves(slopes)), DIFFERENCE)


@given(seed=seeds, cuts=st.sets(st.integers(1, T - 1)), size=st.integers(T + M - 1, T + M + 2))
def test_decoding_in_any_split_equals_apply(seed, cuts, size):
    params, batch, config = example(seed % 5)
    tokens = batch.tokens[seed % B]
    state, logits = mlp_lm.init_state(params, size, config=config), []
    for chunk in np.split(np.arange(T), sorted(cuts)):
        state, out = step(params, state, tokens[chunk], jnp.asarray(chunk, jnp.int32), config=config)
        logits.append(out)
    assert_close(jnp.concatenate(logits), apply(params, tokens, config=config), FORMULA)


def test_a_text_longer_than_the_state_is_read_on():
    """As many slots as the history needs, and the oldest is written over."""
    params, batch, config = example()
    state, logits = mlp_lm.init_state(params, M, config=config), []
    for place in range(T):
        at = jnp.array([place], jnp.int32)
        state, out = step(params, state, batch.tokens[0, at], at, config=config)
        logits.append(out)
    assert_close(jnp.concatenate(logits), apply(params, batch.tokens[0], config=config), FORMULA)


def test_padding_leaves_the_state_and_the_other_logits_alone():
    params, batch, config = example()
    tokens, position = batch.tokens[0, :4], jnp.arange(4, dtype=jnp.int32)
    state, logits = step(params, mlp_lm.init_state(params, 9, config=config), tokens, position, config=config)
    padded = jnp.append(tokens, 3), jnp.append(position, -1)
    padded_state, padded_logits = step(params, mlp_lm.init_state(params, 9, config=config), *padded, config=config)
    assert_close(padded_logits[:4], logits, FORMULA)
    np.testing.assert_array_equal(padded_state, state)


@settings(max_examples=20)
@given(seed=seeds, place=st.integers(0, T - 1))
def test_a_token_is_seen_from_its_own_place_to_the_end_of_the_history_and_nowhere_else(seed, place):
    params, batch, config = example(seed % 5)
    tokens = batch.tokens[0]
    other = tokens.at[place].set((tokens[place] + 1) % config.vocab_size)
    changed = (apply(params, tokens, config=config) != apply(params, other, config=config)).any(-1)
    np.testing.assert_array_equal(changed, (np.arange(T) >= place) & (np.arange(T) < place + M))


def test_the_loss_begins_at_ln_n_and_one_batch_is_learnt_by_heart():
    config = mlp_lm.Config(vocab_size=101, history=3, d_model=8, d_hidden=32)
    tokens = jax.random.randint(jax.random.key(1), (4, 9), 0, config.vocab_size)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], jnp.ones((4, 8)))
    params, optimizer = mlp_lm.init(jax.random.key(0), config), optax.adam(0.02)

    def step(carry, _):
        params, state = carry
        (value, _), gradient = jax.value_and_grad(mlp_lm.loss, has_aux=True)(params, batch, config=config)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    _, losses = jax.jit(lambda carry: jax.lax.scan(step, carry, length=100))((params, optimizer.init(params)))
    assert_close(losses[0], np.log(101), LAYER, jnp.float32)
    assert losses[-1] < 0.01


def test_leading_axes_are_sequences_of_their_own():
    params, batch, config = example()
    stacked = jnp.stack([batch.tokens, batch.tokens[::-1]])
    one_by_one = jnp.stack([jnp.stack([apply(params, row, config=config) for row in rows]) for rows in stacked])
    assert_close(apply(params, stacked, config=config), one_by_one, FORMULA)


def test_without_a_hidden_layer_that_speaks_it_is_a_sum_of_one_table_for_each_place():
    """The shortcut alone: every token of the history adds a row of scores that depends on how long ago it came."""
    params, batch, config = example()
    params = params._replace(output=jax.tree.map(jnp.zeros_like, params.output))
    tables = jnp.einsum("nd,jdm->jnm", params.embedding, params.w_direct.reshape(M, -1, config.vocab_size))
    t = T - 1
    expected = sum(tables[M - 1 - ago, batch.tokens[0, t - ago]] for ago in range(M))
    assert_close(apply(params, batch.tokens[0], config=config)[t], expected, FORMULA)
