"""Encoders: equal to the ones by hand (and in tests/test_tagger.py to PyTorch's), and what padding may not change."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.dropout import dropout
from minilm.models.encoders import Config, recurrent, words
from minilm.reference.models import encoders as reference
from tests.strategies import seeds, shaken
from tests.tolerances import DIFFERENCE, FORMULA, assert_close

B, T, M = 3, 5, 2
LENGTHS = np.array([5, 2, 0])
KEY, RATE = jax.random.key(7), 0.5
LSTM = Config(vocab_size=11, d_model=6, cell="lstm", d_hidden=4)
GRU = replace(LSTM, cell="gru", tokens_per_place=M, bidirectional=False)
DEEP = replace(GRU, n_layers=2, bidirectional=True, dropout=RATE)
CONFIGS = {"lstm": LSTM, "gru, in one direction": GRU, "two layers, dropout": DEEP, "words, dropout": DEEP}
CASES = {name: (words if "words" in name else recurrent)(config) for name, config in CONFIGS.items()}
each_encoder = pytest.mark.parametrize("name", CASES)


def example(name, seed=0):
    """Float64 parameters of which nothing is zero, the tokens of three texts, and a gradient that comes from above."""
    rng, encoder = np.random.default_rng(seed), CASES[name]
    params = shaken(jax.jit(encoder.init)(jax.random.key(seed)), rng)
    shape = (B, T) if CONFIGS[name].tokens_per_place == 1 else (B, T, M)
    return params, rng.integers(0, 11, shape).astype(np.int32), rng.standard_normal((B, T, encoder.width))


@cache
def pulled_back(name):
    """A function to what the encoder says, and the gradient of its parameters."""
    key = KEY if "dropout" in name else None

    def both(params, tokens, length, d_h):
        h, pull = jax.vjp(lambda params: CASES[name].apply(params, tokens, length, key), params)
        return h, pull(d_h)[0]

    return jax.jit(both)


def draws(name):
    """What the layers keep of their inputs with the key: `rate` and `kept` of the reference."""
    if "dropout" not in name:
        return {}
    keys, widths = ([KEY], [M * 6]) if "words" in name else (jax.random.split(KEY), [M * 6, 2 * 4])
    pairs = zip(keys, widths, strict=True)
    return {"rate": RATE, "kept": [np.asarray(dropout(jnp.ones((B, T, i)), RATE, key) != 0) for key, i in pairs]}


def by_hand(name, params, tokens, d_h):
    params = jax.tree.map(np.asarray, params)
    h, saved = reference.apply(params, tokens, LENGTHS, CONFIGS[name].cell, **draws(name))
    return h, reference.apply_backward(saved, d_h)


@each_encoder
def test_what_it_says_and_the_gradient_of_every_parameter_equal_those_by_hand(name):
    params, tokens, d_h = example(name)
    actual, expected = pulled_back(name)(params, tokens, LENGTHS, d_h), by_hand(name, params, tokens, d_h)
    assert jax.tree.structure(actual[1]) == jax.tree.structure(expected[1])
    assert actual[0].shape == (B, T, CASES[name].width)
    assert_close(actual, expected, FORMULA)


@each_encoder
def test_the_gradient_by_hand_equals_central_differences(name):
    params, tokens, d_h = example(name, seed=1)
    params, rng, h = jax.tree.map(np.asarray, params), np.random.default_rng(1), 1e-5
    direction = jax.tree.map(lambda p: rng.standard_normal(p.shape), params)

    def along(h):
        moved = jax.tree.map(lambda p, v: p + h * v, params, direction)
        return np.vdot(by_hand(name, moved, tokens, d_h)[0], d_h)

    gradient = jax.tree.leaves(by_hand(name, params, tokens, d_h)[1])
    slope = sum(np.vdot(*pair) for pair in zip(gradient, jax.tree.leaves(direction), strict=True))
    assert_close((along(h) - along(-h)) / (2 * h), slope, DIFFERENCE)


@settings(max_examples=5)
@given(seed=seeds)
def test_padding_changes_nothing_whatever_stands_there(seed):
    params, tokens, d_h = example("lstm", seed % 3)
    inside = np.arange(T) < LENGTHS[:, None]
    others = np.where(inside, tokens, np.random.default_rng(seed).integers(0, 11, tokens.shape)).astype(np.int32)
    h, gradient = pulled_back("lstm")(params, tokens, LENGTHS, d_h)
    same = pulled_back("lstm")(params, others, LENGTHS, np.where(inside[..., None], d_h, 1e4))
    jax.tree.map(np.testing.assert_array_equal, (h, gradient), same)
    assert not h[~inside].any()


def test_a_text_without_its_padding_and_without_its_neighbours_is_read_alike():
    params, tokens, _ = example("lstm")
    encode = CASES["lstm"].apply
    batch = jnp.stack([tokens, tokens[::-1]]), jnp.stack([LENGTHS, LENGTHS[::-1]])
    together, alone = encode(params, *batch), encode(params, jnp.asarray(tokens[1, :2]), jnp.asarray(2))
    assert_close(together[0, 1, :2], alone, FORMULA)
    assert_close(together[1, 1, :2], alone, FORMULA)
    np.testing.assert_array_equal(together[1], together[0, ::-1])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lstm", [True, True, True, True, True]),
        ("gru, in one direction", [False, False, True, True, True]),
        ("words, dropout", [False, False, True, False, False]),
    ],
)
def test_in_both_directions_every_place_hears_of_a_token_in_one_all_later_ones_do_and_alone_none(name, told):
    params, tokens, d_h = example(name)
    other = tokens.copy()
    other[0, 2] = (tokens[0, 2] + 1) % 11
    before, after = (pulled_back(name)(params, x, LENGTHS, np.ones_like(d_h))[0] for x in (tokens, other))
    assert (before != after).any(-1)[0].tolist() == told
    assert not (before != after)[1:].any()


def test_without_a_key_nothing_is_dropped():
    params, tokens, _ = example("words, dropout")
    text = jnp.asarray(tokens), jnp.asarray(LENGTHS)
    plain = words(replace(DEEP, dropout=0.0)).apply(params, *text)
    np.testing.assert_array_equal(CASES["words, dropout"].apply(params, *text), plain)
    assert (CASES["words, dropout"].apply(params, *text, KEY) != plain).any()


@given(st.sampled_from(["vocab_size", "tokens_per_place", "d_model", "n_layers", "d_hidden"]))
def test_sizes_below_one_are_refused_in_a_sentence(size):
    with pytest.raises(ValueError, match=f"encoder's {size} must be 1 or more, and is 0"):
        Config(**{size: 0})


def test_a_cell_that_is_not_there_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="no recurrent cell 'gruu': choose one of elman, gru, lstm"):
        Config(cell="gruu")


def test_one_configuration_is_one_record_so_that_nothing_is_compiled_twice():
    assert recurrent(replace(LSTM)) is CASES["lstm"]
    assert words(replace(DEEP)) is CASES["words, dropout"]
