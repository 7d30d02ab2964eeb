"""Classifiers: equal to the whole model by hand over every pooling and encoder, and blind to padding and company."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.models import classifier, encoders
from minilm.models.classifier import Batch, Config
from minilm.reference.models import classifier as reference
from tests.strategies import seeds, shaken
from tests.tolerances import DIFFERENCE, FORMULA, LAYER, SAMPLING, assert_close

B, T, N, C = 3, 5, 11, 4
LENGTHS = jnp.array([5, 2, 0])
READER = encoders.Config(vocab_size=N, d_model=3, cell="gru", d_hidden=2)
PAIRS = replace(READER, tokens_per_place=2)
CASES = {
    "max": Config(encoders.recurrent(READER), C, "max"),
    "attention": Config(encoders.recurrent(READER), C, "attention"),
    "last": Config(encoders.recurrent(replace(READER, cell="elman", bidirectional=False)), C, "last"),
    "mean": Config(encoders.words(PAIRS), C, "mean"),
}
each_case = pytest.mark.parametrize("name", CASES)
apply = jax.jit(classifier.apply)


def example(name, seed=0):
    """Float64 parameters of which nothing is zero, and three texts, the last without a place; one weighs less."""
    rng, config = np.random.default_rng(seed), CASES[name]
    params = shaken(jax.jit(classifier.init)(jax.random.key(seed), config), rng)
    shape = (B, T, 2) if name == "mean" else (B, T)
    tokens, labels = rng.integers(0, N, shape).astype(np.int32), rng.integers(0, C, B).astype(np.int32)
    return params, jax.tree.map(jnp.asarray, Batch(tokens, LENGTHS, labels, np.array([1.0, 0.5, 1.0])))


def by_hand(name, params, batch):
    cell = "elman" if name == "last" else "gru"
    params, batch = jax.tree.map(np.asarray, (params, batch))
    out, saved = reference.loss(params, batch, CASES[name].pool, cell)
    return out, reference.loss_backward(saved)


@each_case
def test_the_gradient_of_every_parameter_equals_the_one_by_hand(name):
    params, batch = example(name)
    actual = jax.jit(jax.value_and_grad(classifier.loss, has_aux=True))(params, batch, config=CASES[name])
    expected = by_hand(name, params, batch)
    assert jax.tree.structure(actual[1]) == jax.tree.structure(expected[1])
    assert_close(actual, expected, FORMULA)


@each_case
def test_the_gradient_by_hand_equals_central_differences(name):
    params, batch = example(name, 1)
    params, batch = jax.tree.map(np.asarray, (params, batch))
    rng, h = np.random.default_rng(1), 1e-5
    direction = jax.tree.map(lambda p: rng.standard_normal(p.shape), params)
    ahead, behind = (
        by_hand(name, jax.tree.map(lambda p, v, s=s: p + s * v, params, direction), batch)[0][0] for s in (h, -h)
    )
    slopes = jax.tree.map(np.vdot, by_hand(name, params, batch)[1], direction)
    assert_close((ahead - behind) / (2 * h), sum(jax.tree.leaves(slopes)), DIFFERENCE)


@each_case
@settings(max_examples=5)
@given(seed=seeds)
def test_what_stands_behind_a_text_and_beside_it_changes_nothing(name, seed):
    params, batch = example(name, seed % 7)
    rng = np.random.default_rng(seed)
    inside = (np.arange(T) < LENGTHS[:, None]).reshape(B, T, *[1] * (batch.tokens.ndim - 2))
    other = np.where(inside, batch.tokens, rng.integers(0, N, batch.tokens.shape)).astype(np.int32)
    logits = apply(params, batch.tokens, LENGTHS, config=CASES[name])
    assert_close(apply(params, other, LENGTHS, config=CASES[name]), logits, FORMULA)
    alone = [apply(params, batch.tokens[row], LENGTHS[row], config=CASES[name]) for row in range(B)]
    assert_close(jnp.stack(alone), logits, FORMULA)


@each_case
def test_a_text_without_a_place_has_the_scores_of_the_bias(name):
    params, batch = example(name)
    assert_close(apply(params, batch.tokens, LENGTHS, config=CASES[name])[2], params.output.b, FORMULA)


@given(order=st.permutations(range(T)))
def test_a_bag_of_words_has_no_order_and_a_recurrent_network_has(order):
    params, batch = example("mean")
    tokens, order = batch.tokens[0], np.array(order)
    shuffled, kept = (apply(params, text, T, config=CASES["mean"]) for text in (tokens[order], tokens))
    assert_close(shuffled, kept, FORMULA)


def test_a_recurrent_network_knows_the_order():
    params, _ = example("max")
    forth, back = (apply(params, text, T, config=CASES["max"]) for text in (jnp.arange(T), jnp.arange(T)[::-1]))
    assert (forth != back).any()


def test_attention_adds_up_to_one_within_the_text_and_makes_the_logits():
    params, batch = example("attention")
    config = CASES["attention"]
    w = classifier.attention(params, batch.tokens, LENGTHS, config=config)
    assert_close(w.sum(-1), jnp.array([1.0, 1.0, 0.0]), FORMULA)
    assert not w[1, 2:].any()
    h = config.encoder.apply(params.encoder, batch.tokens, LENGTHS)
    y = jnp.einsum("bt,bte->be", w, h)
    expected = y @ params.output.w + params.output.b
    assert_close(apply(params, batch.tokens, LENGTHS, config=config), expected, FORMULA)
    with pytest.raises(ValueError, match="pools by max, and has no attention to show"):
        classifier.attention(example("max")[0], batch.tokens, LENGTHS, config=CASES["max"])


def test_dropout_acts_only_with_a_key_on_what_was_pooled_and_keeps_the_mean():
    params, batch = example("max")
    config = replace(CASES["max"], dropout=0.5)
    plain = apply(params, batch.tokens, LENGTHS, config=CASES["max"])
    np.testing.assert_array_equal(apply(params, batch.tokens, LENGTHS, config=config), plain)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.jit(
        jax.vmap(lambda key: classifier.apply(params, batch.tokens, LENGTHS, config=config, key=key)),
    )(keys)
    assert (drawn[0] != plain)[:2].any()
    np.testing.assert_array_equal(drawn[:, 2], jnp.broadcast_to(plain[2], drawn[:, 2].shape))
    assert abs(np.mean(drawn - plain)) < SAMPLING


def test_the_encoder_and_the_pooled_draw_by_keys_of_their_own():
    encoder = encoders.words(replace(PAIRS, dropout=0.5))
    params, batch = example("mean")
    config, key = replace(CASES["mean"], encoder=encoder), jax.random.key(5)
    h = encoder.apply(params.encoder, batch.tokens, LENGTHS, jax.random.split(key)[0])
    expected = h[0].mean(0) @ params.output.w + params.output.b
    assert_close(apply(params, batch.tokens, LENGTHS, config=config, key=key)[0], expected, FORMULA)


@pytest.mark.parametrize("name", ["mean", "max"])
def test_the_loss_begins_at_ln_c_and_a_few_texts_are_learnt_by_heart(name):
    config = CASES[name]
    tokens = jax.random.randint(jax.random.key(3), (6, T, 2) if name == "mean" else (6, T), 0, N)
    batch = Batch(tokens, jnp.array([5, 4, 3, 5, 4, 2]), jnp.arange(6) % C, jnp.ones(6))
    params, optimizer = classifier.init(jax.random.key(0), config), optax.adam(0.05)

    def step(carry, _):
        params, state = carry
        (value, _), gradient = jax.value_and_grad(classifier.loss, has_aux=True)(params, batch, config=config)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    _, losses = jax.jit(lambda carry: jax.lax.scan(step, carry, length=200))((params, optimizer.init(params)))
    assert_close(losses[0], np.log(C), LAYER, jnp.float32)
    assert losses[-1] < 0.05


def test_poolings_and_classes_that_do_not_exist_are_refused():
    encoder = encoders.words(READER)
    with pytest.raises(ValueError, match="no pooling 'sum': choose one of mean, max, last, attention"):
        Config(encoder, pool="sum")
    with pytest.raises(ValueError, match="at least 2 classes apart, and n_classes is 1"):
        Config(encoder, n_classes=1)
