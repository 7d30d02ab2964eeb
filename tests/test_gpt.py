"""GPT-2: equal to the whole model by hand, and what a decoder promises."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.data.batching import Batch
from minilm.models import gpt
from minilm.precision import cast_weights, is_weight
from minilm.reference.models import gpt as reference
from tests.strategies import seeds, shaken
from tests.tolerances import DIFFERENCE, FORMULA, LAYER, MODEL, RECURSION, assert_close

B, T = 3, 5
apply, step = jax.jit(gpt.apply), jax.jit(gpt.step)
loss_and_gradient = jax.jit(jax.value_and_grad(gpt.loss, has_aux=True))
CONFIG = gpt.Config(vocab_size=11, context_length=7, n_layers=2, n_heads=2, d_model=6)
SHALLOW = replace(CONFIG, n_layers=1)


def example(seed=0, config=CONFIG, spread=0.3):
    """Float64 parameters of which nothing is zero, and a batch with an ignored position."""
    rng = np.random.default_rng(seed)
    params = shaken(jax.jit(gpt.init)(jax.random.key(seed), config), rng, spread)
    tokens = rng.integers(0, config.vocab_size, (B, T + 1)).astype(np.int32)
    weights = np.ones((B, T), np.float32)
    weights[0, -1] = 0
    return params, Batch._make(map(jnp.asarray, (tokens[:, :-1], tokens[:, 1:], weights)))


def untied(params):
    return params._replace(unembedding=2 * params.embedding[::-1])


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


@pytest.mark.parametrize("tie", [lambda params: params, untied], ids=["tied", "untied"])
def test_the_gradient_of_every_parameter_equals_the_one_by_hand(tie):
    params, batch = example()
    params = tie(params)
    (value, metrics), gradient = loss_and_gradient(params, batch, config=CONFIG)
    out, saved = reference.loss(as_numpy(params), as_numpy(batch))
    expected = reference.loss_backward(saved)
    assert_close((value, metrics), out, FORMULA)
    assert jax.tree.structure(expected) == jax.tree.structure(gradient)
    assert_close(gradient, expected, FORMULA)


def test_by_hand_too_leading_axes_are_sequences_of_their_own():
    params, batch = map(as_numpy, example(config=SHALLOW))
    assert_close(reference.apply(params, batch.tokens[1])[0], reference.apply(params, batch.tokens)[0][1], FORMULA)


def test_the_gradient_by_hand_equals_central_differences():
    params, batch = map(as_numpy, example(1))
    _, saved = reference.loss(params, batch)
    rng, h = np.random.default_rng(1), 1e-5
    direction = jax.tree.map(lambda p: rng.standard_normal(p.shape), params)

    def along(h):
        return reference.loss(jax.tree.map(lambda p, v: p + h * v, params, direction), batch)[0][0]

    slope = sum(
        np.vdot(*pair)
        for pair in zip(jax.tree.leaves(reference.loss_backward(saved)), jax.tree.leaves(direction), strict=True)
    )
    assert_close((along(h) - along(-h)) / (2 * h), slope, DIFFERENCE)


def test_fifty_steps_of_training_equal_those_by_hand():
    """AdamW under a warm-up, with clipped gradients and decay of the fields `w_*` alone, a new batch at every step."""
    peak, warmup, decay, largest = 0.03, 10, 0.1, 1.0
    params, _ = example(2)
    batches = [example(seed)[1] for seed in range(50)]
    _, by_hand = reference.train(as_numpy(params), map(as_numpy, batches), peak, warmup, decay, largest)
    mask = jax.tree.map_with_path(lambda path, _: is_weight(path), params)
    optimizer = optax.chain(
        optax.clip_by_global_norm(largest),
        optax.adamw(optax.linear_schedule(0.0, peak, warmup), weight_decay=decay, mask=mask),
    )

    @jax.jit
    def step(params, state, batch):
        (value, _), gradient = jax.value_and_grad(gpt.loss, has_aux=True)(params, batch, config=CONFIG)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, values = optimizer.init(params), []
    for batch in batches:
        params, state, value = step(params, state, batch)
        values.append(value)
    assert_close(values, by_hand, RECURSION)
    assert np.mean(by_hand[-10:]) < np.mean(by_hand[:10])


@settings(max_examples=8)
@given(seed=seeds, cuts=st.sets(st.integers(1, T - 1)))
def test_decoding_in_any_split_equals_apply(seed, cuts):
    params, batch = example(seed % 5)
    tokens = batch.tokens[seed % B]
    state, logits = gpt.init_state(params, CONFIG.context_length, config=CONFIG), []
    for chunk in np.split(np.arange(T), sorted(cuts)):
        state, out = step(params, state, tokens[chunk], jnp.asarray(chunk, jnp.int32), config=CONFIG)
        logits.append(out)
    assert_close(jnp.concatenate(logits), apply(params, tokens, config=CONFIG), FORMULA)


def test_every_prefix_is_a_text_of_its_own():
    params, batch = example()
    tokens = batch.tokens[0]
    whole = apply(params, tokens, config=CONFIG)
    for length in range(1, T + 1):
        assert_close(apply(params, tokens[:length], config=CONFIG), whole[:length], FORMULA)


def test_padding_leaves_the_caches_and_the_other_logits_alone():
    params, batch = example()
    tokens, position = batch.tokens[0, :3], jnp.arange(3, dtype=jnp.int32)
    padded = jnp.append(tokens, 0), jnp.append(position, -1)
    empty = gpt.init_state(params, CONFIG.context_length, config=CONFIG)
    state, logits = step(params, empty, tokens, position, config=CONFIG)
    padded_state, padded_logits = step(params, empty, *padded, config=CONFIG)
    assert_close(padded_logits[:3], logits, FORMULA)
    assert_close(padded_state, state, FORMULA)


@settings(max_examples=10)
@given(seed=seeds, place=st.integers(1, T - 1))
def test_no_logit_depends_on_a_later_token(seed, place):
    params, batch = example(seed % 5)
    rng = np.random.default_rng(seed)
    future = jnp.asarray(rng.integers(0, CONFIG.vocab_size, (B, T)), jnp.int32)
    other = jnp.where(jnp.arange(T) < place, batch.tokens, future)
    before, after = (apply(params, tokens, config=CONFIG)[:, :place] for tokens in (batch.tokens, other))
    np.testing.assert_array_equal(before, after)


def test_no_gradient_flows_from_a_logit_to_a_later_position():
    params, batch = example()

    def logit(position_embedding):
        return apply(params._replace(position_embedding=position_embedding), batch.tokens, config=CONFIG)[0, 2].sum()

    gradient = jax.grad(logit)(params.position_embedding)
    assert gradient[:3].all()
    assert not gradient[3:].any()


def test_dropout_acts_only_with_a_key_and_is_a_function_of_it():
    params, batch = example(config=SHALLOW)
    config = replace(SHALLOW, dropout=0.5)
    plain, without, one, same, other = (
        jax.jit(gpt.loss)(params, batch, config=c, key=key)[0]
        for c, key in ((SHALLOW, None), (config, None), *((config, jax.random.key(seed)) for seed in (1, 1, 2)))
    )
    assert without == plain
    assert one == same
    assert len({float(one), float(other), float(plain)}) == 3


def test_every_dropout_of_the_model_has_a_key_of_its_own():
    """One key used twice would drop the same entries of two branches: so no two may be equal."""
    config = replace(CONFIG, dropout=0.5)
    drawn = []

    def spy(x, rate, key):
        drawn.append(tuple(np.asarray(jax.random.key_data(key))))
        return x

    params, batch = example()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt, "dropout", spy)
        gpt.apply(params, jnp.asarray(batch.tokens), config=config, key=jax.random.key(0))
    assert len(set(drawn)) == len(drawn) == 1 + 2 * config.n_layers


def test_rematerialisation_changes_no_loss_and_no_gradient():
    params, batch = example(config=SHALLOW)
    kept, recomputed = (
        loss_and_gradient(params, batch, config=replace(SHALLOW, dropout=0.25, remat=remat), key=jax.random.key(3))
        for remat in (False, True)
    )
    assert_close(recomputed, kept, LAYER)


@pytest.fixture(scope="module")
def losses():
    """Adam on one batch, from GPT-2's own initial weights."""
    config = gpt.Config(vocab_size=503, context_length=8, n_layers=2, n_heads=2, d_model=32)
    tokens = jax.random.randint(jax.random.key(1), (4, 9), 0, config.vocab_size)
    batch = Batch._make((tokens[:, :-1], tokens[:, 1:], jnp.ones((4, 8))))
    params, optimizer = jax.jit(gpt.init)(jax.random.key(0), config), optax.adam(0.01)

    def step(carry, _):
        params, state = carry
        (value, _), gradient = jax.value_and_grad(gpt.loss, has_aux=True)(params, batch, config=config)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    _, losses = jax.jit(lambda carry: jax.lax.scan(step, carry, length=100))((params, optimizer.init(params)))
    return np.asarray(losses)


def test_the_loss_begins_near_ln_n(losses):
    assert abs(losses[0] / np.log(503) - 1) < 0.05


def test_gpt_learns_one_batch_by_heart(losses):
    assert losses[-1] < 0.01


def test_the_smallest_release_of_gpt_2_has_124_439_808_parameters():
    shapes = jax.eval_shape(lambda key: gpt.init(key, gpt.Config()), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 124_439_808


def test_bfloat16_weights_leave_the_residual_stream_the_loss_and_the_gradients_in_float32():
    params, batch = example(config=SHALLOW)
    params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    rounded = cast_weights(params, jnp.bfloat16)
    streams = []
    norm = gpt.layer_norm

    def spy(params, x):
        streams.append(x.dtype)
        return norm(params, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt, "layer_norm", spy)
        assert gpt.apply(rounded, jnp.asarray(batch.tokens), config=SHALLOW).dtype == jnp.float32
    assert streams == [jnp.float32] * (1 + 2 * SHALLOW.n_layers)

    def loss(params):
        return gpt.loss(cast_weights(params, jnp.bfloat16), batch, config=SHALLOW)

    (value, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves((value, metrics, gradient))} == {jnp.dtype(jnp.float32)}
    assert_close(value, jax.jit(gpt.loss)(params, batch, config=SHALLOW)[0], MODEL, jnp.bfloat16)


def test_leading_axes_are_sequences_of_their_own():
    params, batch = example(config=SHALLOW)
    stacked = jnp.stack([batch.tokens, batch.tokens[::-1]])
    one_by_one = jnp.stack([jnp.stack([apply(params, row, config=SHALLOW) for row in rows]) for rows in stacked])
    assert_close(apply(params, stacked, config=SHALLOW), one_by_one, FORMULA)
