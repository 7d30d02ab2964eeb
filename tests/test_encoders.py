"""Encoders: equal to the ones by hand and to PyTorch's, and what a reader of texts of unequal lengths promises."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.dropout import dropout
from minilm.models import encoders
from minilm.models.encoders import Config, recurrent, words
from minilm.reference.models import encoders as reference
from tests.strategies import seeds
from tests.tolerances import DIFFERENCE, FORMULA, assert_close

B, T, M = 3, 5, 2
LENGTHS = np.array([5, 2, 0])
GRU = Config(vocab_size=11, tokens_per_place=M, d_model=3, cell="gru", n_layers=2, d_hidden=4)
LSTM = replace(GRU, cell="lstm", tokens_per_place=1, n_layers=1)
ELMAN = replace(GRU, cell="elman", bidirectional=False)
CASES = {"two gru layers": recurrent(GRU), "lstm": recurrent(LSTM), "elman": recurrent(ELMAN), "words": words(GRU)}
CONFIGS = {"two gru layers": GRU, "lstm": LSTM, "elman": ELMAN, "words": GRU}
each_encoder = pytest.mark.parametrize("name", CASES)


def example(name, seed=0):
    """Float64 parameters of which nothing is zero, the tokens of three texts, and a gradient that comes from above."""
    rng, encoder = np.random.default_rng(seed), CASES[name]

    def moved(leaf):
        return jnp.asarray(leaf + 0.5 * rng.standard_normal(leaf.shape), jnp.float64)

    params = jax.tree.map(moved, encoder.init(jax.random.key(seed)))
    shape = (B, T) if CONFIGS[name].tokens_per_place == 1 else (B, T, M)
    tokens = rng.integers(0, 11, shape).astype(np.int32)
    return params, tokens, rng.standard_normal((B, T, encoder.width))


def pulled_back(encoder, params, tokens, length, d_h, key=None):
    """What the encoder says, and the gradient of its parameters."""

    @jax.jit
    def both(params, tokens, length, d_h):
        h, pull = jax.vjp(lambda params: encoder.apply(params, tokens, length, key), params)
        return h, pull(d_h)[0]

    return both(params, jnp.asarray(tokens), jnp.asarray(length), d_h)


def by_hand(name, params, tokens, length, d_h, **dropped):
    params = jax.tree.map(np.asarray, params)
    h, saved = reference.apply(params, tokens, length, CONFIGS[name].cell, **dropped)
    return h, reference.apply_backward(saved, d_h)


@each_encoder
def test_what_it_says_and_the_gradient_of_every_parameter_equal_those_by_hand(name):
    params, tokens, d_h = example(name)
    actual = pulled_back(CASES[name], params, tokens, LENGTHS, d_h)
    expected = by_hand(name, params, tokens, LENGTHS, d_h)
    assert jax.tree.structure(actual[1]) == jax.tree.structure(expected[1])
    assert actual[0].shape == (B, T, CASES[name].width)
    assert_close(actual, expected, FORMULA)


@pytest.mark.parametrize("build", [recurrent, words])
def test_dropout_falls_on_the_inputs_of_each_layer_and_only_with_a_key(build):
    config, key, rate = replace(GRU, dropout=0.5), jax.random.key(7), 0.5
    name = "words" if build is words else "two gru layers"
    params, tokens, d_h = example(name)
    keys = [key] if build is words else jax.random.split(key, 2)
    widths = (M * 3,) if build is words else (M * 3, 2 * 4)
    kept = [dropout(jnp.ones((B, T, i)), rate, k) != 0 for k, i in zip(keys, widths, strict=True)]
    actual = pulled_back(build(config), params, tokens, LENGTHS, d_h, key)
    assert_close(actual, by_hand(name, params, tokens, LENGTHS, d_h, rate=rate, kept=kept), FORMULA)
    silent = pulled_back(build(config), params, tokens, LENGTHS, d_h)
    assert_close(silent, by_hand(name, params, tokens, LENGTHS, d_h), FORMULA)


@each_encoder
def test_the_gradient_by_hand_equals_central_differences(name):
    params, tokens, d_h = example(name, seed=1)
    params, rng, h = jax.tree.map(np.asarray, params), np.random.default_rng(1), 1e-5
    kept = [rng.random((B, T, i)) < 0.5 for i in ((M * 3, 8) if name == "two gru layers" else (M * 3,))]
    dropped = {"rate": 0.5, "kept": kept} if name in ("two gru layers", "words") else {}
    direction = jax.tree.map(lambda p: rng.standard_normal(p.shape), params)

    def along(h):
        moved = jax.tree.map(lambda p, v: p + h * v, params, direction)
        return np.vdot(reference.apply(moved, tokens, LENGTHS, CONFIGS[name].cell, **dropped)[0], d_h)

    gradient = jax.tree.leaves(by_hand(name, params, tokens, LENGTHS, d_h, **dropped)[1])
    slope = sum(np.vdot(*pair) for pair in zip(gradient, jax.tree.leaves(direction), strict=True))
    assert_close((along(h) - along(-h)) / (2 * h), slope, DIFFERENCE)


def test_two_layers_of_lstms_in_both_directions_are_pytorchs():
    torch = pytest.importorskip("torch")
    config = replace(LSTM, n_layers=2)
    encoder, rng, lengths = recurrent(config), np.random.default_rng(0), np.array([5, 2, 4])
    _, tokens, d_h = example("lstm")
    params = jax.tree.map(
        lambda leaf: jnp.asarray(leaf + rng.standard_normal(leaf.shape), jnp.float64), encoder.init(jax.random.key(0))
    )
    embedding = torch.nn.Embedding(11, 3).double()
    network = torch.nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True).double()
    theirs = [embedding.weight, *network.parameters()]

    def ours(params):
        cells = [cell for layer in params.layers for cell in layer]
        return [params.embedding, *(np.asarray(w).T for cell in cells for w in cell)]

    for their, our in zip(theirs, ours(params), strict=True):
        their.data = torch.tensor(np.ascontiguousarray(our))
    x = embedding(torch.tensor(tokens, dtype=torch.long))
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(network(packed)[0], batch_first=True)
    (expected * torch.tensor(d_h)).sum().backward()

    h, gradient = pulled_back(encoder, params, tokens, lengths, d_h)
    assert_close(h, expected.detach().numpy(), FORMULA)
    assert_close(ours(gradient), [p.grad.numpy() for p in theirs], FORMULA)


@settings(max_examples=5)
@given(seed=seeds)
def test_padding_changes_nothing_whatever_stands_there(seed):
    encoder = CASES["two gru layers"]
    params, tokens, d_h = example("two gru layers", seed % 3)
    inside = (np.arange(T) < LENGTHS[:, None])[..., None]
    others = np.where(inside, tokens, np.random.default_rng(seed).integers(0, 11, tokens.shape)).astype(np.int32)
    (h, gradient), (same, same_gradient) = (
        PULL(params, tokens, d_h) for tokens, d_h in ((tokens, d_h), (others, np.where(inside, d_h, 1e4)))
    )
    np.testing.assert_array_equal(h, same)
    assert not h[~inside[..., 0]].any()
    jax.tree.map(np.testing.assert_array_equal, gradient, same_gradient)
    cut = encoder.apply(params, jnp.asarray(tokens[1, :2]), jnp.asarray(2))
    assert_close(h[1, :2], cut, FORMULA)


@jax.jit
def PULL(params, tokens, d_h):  # noqa: N802
    encoder = CASES["two gru layers"]
    h, pull = jax.vjp(lambda params: encoder.apply(params, tokens, jnp.asarray(LENGTHS)), params)
    return h, pull(d_h)[0]


@each_encoder
def test_leading_axes_are_texts_of_their_own(name):
    params, tokens, _ = example(name)
    encode, lengths = jax.jit(CASES[name].apply), np.array([5, 2, 4])
    together = encode(params, jnp.stack([tokens, tokens[::-1]]), jnp.stack([lengths, lengths[::-1]]))
    one_by_one = jnp.stack([encode(params, row, length) for row, length in zip(tokens, lengths, strict=True)])
    assert_close(together, jnp.stack([one_by_one, one_by_one[::-1]]), FORMULA)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("two gru layers", [True, True, True, True, True]),
        ("elman", [False, False, True, True, True]),
        ("words", [False, False, True, False, False]),
    ],
)
def test_in_both_directions_every_place_hears_of_a_token_in_one_all_later_ones_do_and_alone_none(name, told):
    params, tokens, _ = example(name)
    other = tokens.copy()
    other[0, 2] = (tokens[0, 2] + 1) % 11
    encode = jax.jit(CASES[name].apply)
    before, after = (encode(params, jnp.asarray(x), jnp.asarray(LENGTHS)) for x in (tokens, other))
    assert (before != after).any(-1)[0].tolist() == told
    assert not (before != after)[1:].any()


@given(st.sampled_from(["vocab_size", "tokens_per_place", "d_model", "n_layers", "d_hidden"]))
def test_sizes_below_one_are_refused_in_a_sentence(size):
    with pytest.raises(ValueError, match=f"encoder's {size} must be 1 or more, and is 0"):
        Config(**{size: 0})


def test_a_cell_that_is_not_there_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="no recurrent cell 'gruu': choose one of elman, gru, lstm"):
        Config(cell="gruu")


def test_one_configuration_is_one_record_so_that_nothing_is_compiled_twice():
    assert encoders.recurrent(replace(GRU)) is CASES["two gru layers"]
    assert encoders.words(replace(GRU)) is CASES["words"]
