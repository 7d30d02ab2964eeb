"""The tagger: equal to the one by hand, to PyTorch's, to all paths tried one by one, and blind to padding."""

from dataclasses import replace
from functools import cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings

from minilm import tagging
from minilm.layers.crf import init_crf
from minilm.layers.linear import LinearParams
from minilm.metrics.spans import Span
from minilm.models import encoders, tagger
from minilm.reference import crf as by_hand
from minilm.reference.models import tagger as reference
from tests.strategies import seeds, shaken
from tests.tolerances import DIFFERENCE, FORMULA, assert_close

B, T, M, C = 3, 5, 2, 4
LENGTHS = np.array([5, 2, 0])
PAIRS = encoders.Config(vocab_size=11, tokens_per_place=M, d_model=3, cell="gru", d_hidden=6)
SINGLE = replace(PAIRS, tokens_per_place=1, cell="lstm")
CONFIGS = {
    "gru, crf": tagger.Config(encoders.recurrent(PAIRS), C),
    "lstm, softmax": tagger.Config(encoders.recurrent(SINGLE), C, crf=False),
    "words, crf": tagger.Config(encoders.words(PAIRS), C),
    "words, softmax": tagger.Config(encoders.words(PAIRS), C, crf=False),
}
each_model = pytest.mark.parametrize("name", CONFIGS)
each_head = pytest.mark.parametrize("name", ["words, crf", "words, softmax"])
CELL = {"gru, crf": "gru", "lstm, softmax": "lstm"}


def example(name, seed=0):
    """Float64 parameters of which nothing is zero, and a batch: junk in its padding, and one place that counts half."""
    rng, config = np.random.default_rng(seed), CONFIGS[name]
    params = shaken(jax.jit(tagger.init)(jax.random.key(seed), config), rng, 0.7)
    tokens = rng.integers(0, 11, (B, T) if name == "lstm, softmax" else (B, T, M)).astype(np.int32)
    tags, weights = rng.integers(0, C, (B, T)), np.ones((B, T))
    weights[0, 3] = 0.5
    inside = np.arange(T) < LENGTHS[:, None]
    return params, tagger.Batch(tokens, LENGTHS, np.where(inside, tags, -1), np.where(inside, weights, 0))


@cache
def gradient_of_loss(name):
    """`(params, batch) -> ((loss, metrics), gradient)`."""
    return jax.jit(jax.value_and_grad(partial(tagger.loss, config=CONFIGS[name]), has_aux=True))


@cache
def decode(name):
    """`(params, tokens, length) -> tags`."""
    return jax.jit(partial(tagger.decode, config=CONFIGS[name]))


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


# ── what it is ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_by_hand_every_tag_of_a_best_path_is_counted_and_texts_of_no_weight_have_no_loss():
    crf = jax.tree.map(np.zeros_like, as_numpy(init_crf(C)))
    tags = np.array([[1, 2, 0], [2, 2, -1]])
    batch = tagger.Batch(np.zeros((2, 3), int), np.array([3, 2]), tags, np.array([[1.0, 1.0, 0.5], [1.0, 1.0, 0.0]]))
    (loss, metrics), _ = reference.path_loss(crf, 20.0 * (tags[..., None] == np.arange(C)), batch)
    assert (metrics.token_count, metrics.correct_count) == (4.5, 4.5)
    nothing, _ = reference.path_loss(crf, np.zeros((2, 3, C)), batch._replace(weights=np.zeros((2, 3))))
    assert (loss > 0, nothing[0]) == (True, 0)


@each_model
def test_the_loss_its_metrics_and_the_gradient_of_every_parameter_equal_those_by_hand(name):
    params, batch = example(name)
    (value, metrics), gradient = gradient_of_loss(name)(params, batch)
    out, saved = reference.loss(as_numpy(params), batch, CELL.get(name, ""))
    expected = reference.loss_backward(saved)
    assert jax.tree.structure(gradient) == jax.tree.structure(expected)
    assert (gradient.crf is None) == ("softmax" in name)
    assert_close((value, metrics), out, FORMULA)
    assert_close(gradient, expected, FORMULA)


@each_model
def test_the_gradient_by_hand_equals_central_differences(name):
    params, batch = example(name, seed=1)
    params, rng, h = as_numpy(params), np.random.default_rng(1), 1e-5
    direction = jax.tree.map(lambda p: rng.standard_normal(p.shape), params)

    def along(h):
        moved = jax.tree.map(lambda p, v: p + h * v, params, direction)
        return reference.loss(moved, batch, CELL.get(name, ""))[0][0]

    gradient = jax.tree.leaves(reference.loss_backward(reference.loss(params, batch, CELL.get(name, ""))[1]))
    slope = sum(np.vdot(*pair) for pair in zip(gradient, jax.tree.leaves(direction), strict=True))
    assert_close((along(h) - along(-h)) / (2 * h), slope, DIFFERENCE)


@settings(max_examples=5)
@given(seed=seeds)
def test_a_path_has_its_share_of_all_paths_and_the_best_of_all_is_chosen(seed):
    params, batch = example("words, crf", seed % 7)
    emissions = as_numpy(reference.apply(as_numpy(params), batch.tokens, batch.length)[0])
    T_, b, f = as_numpy(params.crf)
    nats, best = 0.0, np.full((B, T), -1)
    for text, n in enumerate(LENGTHS[:2]):
        scores = {
            y: b[y[0]] + f[y[-1]] + sum(emissions[text, range(n), y]) + sum(T_[y[:-1], y[1:]])
            for y in product(range(C), repeat=int(n))
        }
        log_p = scores[tuple(batch.tags[text, :n])] - np.log(np.sum(np.exp([*scores.values()])))
        nats -= batch.weights[text].sum() / n * log_p
        best[text, :n] = max(scores, key=scores.get)
    (value, metrics), _ = gradient_of_loss("words, crf")(params, batch)
    assert_close((value, metrics.loss_sum), (nats / 6.5, nats), FORMULA)
    np.testing.assert_array_equal(decode("words, crf")(params, batch.tokens, batch.length), best)
    assert metrics.correct_count == (batch.weights * (best == batch.tags)).sum()


def test_lstms_in_both_directions_below_a_softmax_are_pytorchs():
    torch = pytest.importorskip("torch")
    params, batch = example("lstm, softmax")
    lengths = np.array([5, 2, 4])  # PyTorch knows no empty text
    batch = batch._replace(length=lengths, tags=np.abs(batch.tags), weights=1.0 * (np.arange(T) < lengths[:, None]))
    embedding, network = torch.nn.Embedding(11, 3), torch.nn.LSTM(3, 6, bidirectional=True, batch_first=True)
    output = torch.nn.Linear(12, C)
    theirs = [p for module in (embedding, network, output) for p in module.double().parameters()]

    def ours(params):
        cells = [np.asarray(w).T for layer in params.encoder.layers for cell in layer for w in cell]
        return [params.encoder.embedding, *cells, np.asarray(params.output.w).T, params.output.b]

    for their, our in zip(theirs, ours(params), strict=True):
        their.data = torch.tensor(np.ascontiguousarray(our))
    x = embedding(torch.tensor(batch.tokens, dtype=torch.long))
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    h, _ = torch.nn.utils.rnn.pad_packed_sequence(network(packed)[0], batch_first=True)
    targets = torch.tensor(np.where(batch.weights == 1, batch.tags, -100))
    expected = torch.nn.functional.cross_entropy(output(h).flatten(0, 1), targets.flatten())
    expected.backward()

    (value, _), gradient = gradient_of_loss("lstm, softmax")(params, batch)
    assert_close(value, expected.item(), FORMULA)
    assert_close(ours(gradient), [p.grad.numpy() for p in theirs], FORMULA)


def test_a_crf_that_knows_no_neighbours_is_the_softmax():
    params, batch = example("words, crf")
    zero = init_crf(C, dtype=jnp.float64)
    batch = batch._replace(weights=1.0 * (batch.weights > 0))  # half a place is half a token, or a part of a path
    (value, metrics), gradient = gradient_of_loss("words, crf")(params._replace(crf=zero), batch)
    alone = params._replace(crf=None)
    out, expected = gradient_of_loss("words, softmax")(alone, batch)
    assert_close((value, metrics), out, FORMULA)
    assert_close(gradient._replace(crf=None), expected, FORMULA)
    tags = decode("words, crf")(params._replace(crf=zero), batch.tokens, batch.length)
    np.testing.assert_array_equal(tags, decode("words, softmax")(alone, batch.tokens, batch.length))


@each_head
def test_marginals_are_the_mean_of_all_paths_and_of_no_place_in_the_padding(name):
    params, batch = example(name)
    crf = init_crf(C, dtype=jnp.float64) if params.crf is None else params.crf
    emissions = reference.apply(as_numpy(params), batch.tokens, batch.length)[0]
    expected = [by_hand.crf_marginals(as_numpy(crf), e, n)[0] for e, n in zip(emissions, LENGTHS, strict=True)]
    text = jnp.asarray(batch.tokens), jnp.asarray(batch.length)
    assert_close(tagger.marginals(params, *text, config=CONFIGS[name]), np.stack(expected), FORMULA)


@given(seeds)
def test_what_is_forbidden_is_never_chosen_and_leaves_every_gradient_finite(seed):
    params, batch = example("words, crf", seed % 7)
    allowed = np.random.default_rng(seed).random((C, C)) < 0.4
    start, end = np.arange(C) != 1, np.arange(C) != 2
    allowed[0, 3] = allowed[3, 0] = allowed[0, 0] = True  # a path of any length is left
    crf = tagger.forbid(params.crf, *map(jnp.asarray, (start, allowed, end)))
    params = params._replace(crf=crf)
    tags = np.asarray(decode("words, crf")(params, batch.tokens, batch.length))
    for path in (tags[0], tags[1, :2]):
        assert start[path[0]]
        assert end[path[-1]]
        assert allowed[path[:-1], path[1:]].all()
    (value, metrics), gradient = gradient_of_loss("words, crf")(params, batch._replace(tags=tags))
    assert np.isfinite(value)
    assert metrics.correct_count == metrics.token_count
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert not gradient.crf.transitions[~allowed].any()


# ── what a batch is ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["gru, crf", "words, softmax"])
def test_padding_changes_nothing_whatever_stands_there(name):
    params, batch = example(name)
    rng, inside = np.random.default_rng(3), np.arange(T) < LENGTHS[:, None]
    others = rng.integers(0, 11, batch.tokens.shape).astype(np.int32)
    junk = tagger.Batch(
        tokens=np.where(inside.reshape(B, T, *[1] * (batch.tokens.ndim - 2)), batch.tokens, others),
        length=LENGTHS,
        tags=np.where(inside, batch.tags, 99),
        weights=np.where(inside, batch.weights, 7.0),
    )
    found, expected = (gradient_of_loss(name)(params, b) for b in (junk, batch))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    tags = decode(name)(params, junk.tokens, junk.length)
    np.testing.assert_array_equal(tags, decode(name)(params, batch.tokens, batch.length))
    np.testing.assert_array_equal(tags == -1, ~inside)


@each_head
def test_a_batch_is_its_texts_one_by_one_each_as_heavy_as_its_places(name):
    params, batch = example(name)
    (_, metrics), gradient = gradient_of_loss(name)(params, batch)
    singly = [gradient_of_loss(name)(params, jax.tree.map(lambda leaf, i=i: leaf[i], batch)) for i in range(B)]
    assert_close(metrics, jax.tree.map(lambda *parts: sum(parts), *(m for (_, m), _ in singly)), FORMULA)
    shares = [m.token_count / metrics.token_count for (_, m), _ in singly]
    mean = jax.tree.map(lambda *parts: sum(s * p for s, p in zip(shares, parts, strict=True)), *(g for _, g in singly))
    assert_close(gradient, mean, FORMULA)


@each_head
def test_a_text_of_no_weight_is_not_looked_at(name):
    params, batch = example(name)
    ignored = batch._replace(weights=batch.weights * [[1], [0], [0]])
    junk = ignored._replace(tags=np.where(np.arange(B)[:, None] == 1, 99, batch.tags))
    found, expected = (gradient_of_loss(name)(params, b) for b in (junk, ignored))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert found[0][1].token_count == 4.5
    (value, _), gradient = gradient_of_loss(name)(params, batch._replace(weights=0 * batch.weights))
    assert value == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_dropout_acts_on_what_the_encoder_says_and_only_with_a_key():
    params, batch = example("words, softmax")
    config = replace(CONFIGS["words, softmax"], dropout=0.5)
    reads_all = params._replace(output=LinearParams(w=jnp.eye(6), b=jnp.zeros(6)))
    text = jnp.asarray(batch.tokens), jnp.asarray(batch.length)
    plain, one, same = (tagger.apply(reads_all, *text, config=config, key=k) for k in (None, *2 * [jax.random.key(1)]))
    np.testing.assert_array_equal(one, same)
    assert ((one == 0) | (one == 2 * plain)).all()
    assert 0.2 < (one == 0).mean() < 0.8


# ── as a model among models ──────────────────────────────────────────────────────────────────────────────────────────


def test_its_crf_learns_what_no_token_tells_and_its_tags_spell_the_spans():
    """Brackets open and close; whether what stands between is in a span or not, neighbours alone can say."""
    rng, names = np.random.default_rng(0), ["O", "B-X", "I-X", "E-X"]
    brackets = [np.flatnonzero(rng.random(n) < 0.4) for n in rng.integers(2, 7, 40)]
    pairs = [list(zip(of_one[::2].tolist(), of_one[1::2].tolist(), strict=False)) for of_one in brackets]
    spans = [[Span(a, b + 1, "X") for a, b in of_one] for of_one in pairs]
    texts = [np.isin(np.arange(6), of_one).astype(int) for of_one in pairs]
    batches = tagging.span_batches(texts, spans, names, sizes=(6,), places=120)
    encoder = encoders.words(encoders.Config(vocab_size=2, d_model=5))  # which sees one token at a time
    config = tagger.Config(encoder, 4)
    params = tagging.fit(config, batches, optax.adam(0.1), steps=60)
    assert tagging.predict(params, batches, names, config=config) == (spans, 0)


def test_at_first_every_tag_is_as_likely():
    params = tagger.init(jax.random.key(0), CONFIGS["words, softmax"])
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    (value, _), _ = gradient_of_loss("words, softmax")(params, example("words, softmax")[1])
    assert_close(value, np.log(C), FORMULA)


def test_spans_of_a_type_that_no_tag_names_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="need the tags B-Y, E-Y, and there are O, S-X: name them all"):
        tagging.span_batches([np.arange(3)], [[Span(0, 2, "Y")]], ["O", "S-X"], sizes=(4,), places=8)


def test_tags_that_contradict_each_other_are_counted():
    config = replace(CONFIGS["words, softmax"], n_tags=2)
    params = tagger.init(jax.random.key(0), config)._replace(
        output=LinearParams(jnp.zeros((6, 2)), jnp.array([0.0, 1.0]))
    )
    batches = tagging.span_batches([np.zeros((3, M), int)], [[]], ["O", "B-X"], sizes=(3,), places=3)
    assert tagging.predict(params, batches, ["O", "B-X"], config=config) == (
        [[Span(k, k + 1, "X") for k in range(3)]],
        1,
    )


def test_one_tag_alone_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="at least 2 tags apart, and n_tags is 1"):
        tagger.Config(CONFIGS["words, crf"].encoder, 1)


@pytest.mark.parametrize("crf", [True, False])
def test_what_is_not_a_number_in_padding_reaches_no_gradient(crf):
    encoder = encoders.words(encoders.Config(vocab_size=7, d_model=2))
    config = tagger.Config(encoder, 3, crf)
    params = tagger.init(jax.random.key(0), config)
    tokens = jnp.array([[1, 2, -1]])  # no token: its vector is not a number
    batch = tagger.Batch(tokens, jnp.array([2]), jnp.array([[0, 1, 2]]), jnp.array([[1.0, 1.0, 0.0]]))
    gradient = jax.jit(jax.grad(lambda params: tagger.loss(params, batch, config=config)[0]))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_texts_are_predicted_again_without_being_traced_again():
    traced, encoder = [], CONFIGS["words, softmax"].encoder

    def apply(*arguments, **options):
        traced.append(arguments)
        return encoder.apply(*arguments, **options)

    config = replace(CONFIGS["words, softmax"], encoder=encoder._replace(apply=apply), n_tags=2)
    params = tagger.init(jax.random.key(0), config)
    batches = tagging.span_batches([np.zeros((3, M), int)], [[]], ["O", "S-X"], sizes=(3,), places=3)
    first = tagging.predict(params, batches, ["O", "S-X"], config=config)
    assert tagging.predict(params, batches, ["O", "S-X"], config=config) == first
    assert len(traced) == 1
