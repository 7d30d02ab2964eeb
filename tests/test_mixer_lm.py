"""The decoder over any attention variant: whichever it holds, it reads in pieces what it reads at once, and learns."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import generation
from minilm.data.batching import Batch
from minilm.layers.embedding import unembed
from minilm.layers.normalization import rms_norm
from minilm.models import mixer_lm
from minilm.shapes import Tokens
from tests.strategies import seeds, shaken
from tests.tolerances import FORMULA, SAMPLING, assert_close

N, T = 13, 9
CONFIG = mixer_lm.Config(vocab_size=N, context_length=T, n_layers=2, n_heads=2, d_model=8)
MIXERS = ("window:width=3", "gated-delta-net:chunk=4", "moba:size=2,n=1")
SLOW = {"gated-delta-net:chunk=4": [pytest.mark.slow]}
each = pytest.mark.parametrize(
    "config", [pytest.param(replace(CONFIG, mixer=mixer), id=mixer, marks=SLOW.get(mixer, [])) for mixer in MIXERS]
)
few = settings(max_examples=3)
apply, step, loss = (jax.jit(f, static_argnames="config") for f in (mixer_lm.apply, mixer_lm.step, mixer_lm.loss))


def drawn(config, seed=0):
    """Parameters that have left where they began, and tokens."""
    rng = np.random.default_rng(seed)
    params = shaken(jax.jit(mixer_lm.init)(jax.random.key(0), config), rng, 0.3)
    return params, jnp.asarray(rng.integers(0, N, (3, T)))


def batch(tokens):
    return Batch(tokens[:, :-1], tokens[:, 1:], jnp.ones((len(tokens), T - 1)).at[0, -1].set(0))


@each
@few
@given(seed=seeds, cuts=st.sets(st.integers(1, T - 1)))
def test_decoding_in_any_split_equals_apply(config, seed, cuts):
    """Each piece in a chunk that padding fills up; and all leading axes of `apply` are sequences of their own."""
    params, tokens = drawn(config, seed)
    state, outputs, positions = mixer_lm.init_state(params, T, config=config), [], np.arange(T)
    for piece in np.split(positions, sorted(cuts)):
        padding = np.full(T - len(piece), -1)
        position = jnp.asarray(np.concatenate([padding, piece]), jnp.int32)
        state, logits = step(params, state, tokens[1, position], position, config=config)
        outputs.append(logits[len(padding) :])
    assert_close(jnp.concatenate(outputs), apply(params, tokens, config=config)[1], FORMULA)


@each
def test_it_begins_with_all_tokens_nearly_alike_and_every_parameter_has_a_finite_gradient(config):
    _, tokens = drawn(config)
    params = mixer_lm.init(jax.random.key(0), config)
    gradient = jax.jit(jax.grad(lambda params: mixer_lm.loss(params, batch(tokens), config=config)[0]))
    assert abs(loss(params, batch(tokens), config=config)[0] - math.log(N)) < SAMPLING
    shaken = drawn(config)[0]
    leaves = jax.tree.leaves(gradient(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), shaken)))
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in leaves)


def test_without_feed_forward_a_block_is_its_mixer_alone():
    config = replace(CONFIG, feed_forward=False, n_layers=1, mixer=MIXERS[0])
    params, tokens = drawn(config)
    [block] = params.blocks
    assert (block.feed_forward_norm, block.feed_forward) == (None, None)
    x = params.embedding[tokens]
    x = x + config.made().apply(block.mixer, rms_norm(block.mixer_norm, x), Tokens.arange(T))
    expected = rms_norm(params.norm, x) @ params.embedding.T
    assert_close(apply(params, tokens, config=config), expected, FORMULA)


def test_logits_are_the_features_before_the_embedding():
    params, tokens = drawn(CONFIG)
    features = mixer_lm.features(params, tokens, config=CONFIG)
    assert features.shape == (3, T, CONFIG.d_model)
    assert_close(unembed(params.embedding, features), apply(params, tokens, config=CONFIG), FORMULA)


def test_dropout_acts_with_a_key_alone_and_recomputing_changes_nothing():
    config = replace(CONFIG, dropout=0.5, n_layers=1)
    params, tokens = drawn(config)
    silent = apply(params, tokens, config=config)
    assert_close(silent, apply(params, tokens, config=replace(config, dropout=0.0, remat=True)), FORMULA)
    draws = [mixer_lm.apply(params, tokens, config=config, key=jax.random.key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert all(jnp.abs(a - b).max() > 0 for a, b in ((draws[0], draws[2]), (draws[0], silent)))


def test_generation_with_a_state_is_the_argmax_of_the_whole_text_again_and_again():
    config = replace(CONFIG, mixer=MIXERS[1])
    params, tokens = drawn(config)
    prompts = [tokens[0, :2].tolist(), tokens[1, :5].tolist()]
    written = generation.generate(mixer_lm, params, config, prompts, max_new_tokens=4)
    for prompt, new in zip(prompts, written, strict=True):
        text = list(prompt)
        for _ in range(4):
            filled = jnp.asarray([text + [0] * (T - len(text))] * 3)  # what follows is not seen
            text.append(int(apply(params, filled, config=config)[0, len(text) - 1].argmax()))
        assert text[len(prompt) :] == new.tolist()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mixer": "mah"}, "There is no attention variant 'mah', did you mean '"),
        ({"mixer": "gqa:groups=3"}, "2 query heads cannot be shared out among 3 groups"),
        ({"n_heads": 3}, "3 heads cannot share a width of 8"),
    ],
)
def test_a_mixer_that_cannot_be_is_refused_in_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(CONFIG, **options)
