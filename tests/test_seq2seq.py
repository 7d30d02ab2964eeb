"""Sequence to sequence: equal to the whole by hand and to PyTorch's pieces, and what reading and writing promise."""

import itertools
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import beam
from minilm.data.pairs import Batch, pad
from minilm.models import decoders, encoders, scorers, seq2seq
from minilm.reference.models import seq2seq as reference
from minilm.reference.models.seq2seq import Names
from tests.strategies import seeds
from tests.tolerances import DIFFERENCE, FORMULA, assert_close

N, S, T = 7, 5, 4  # target tokens, places of a source, steps
LENGTHS = np.array([4, 1, 5])
apply, align, read = jax.jit(seq2seq.apply), jax.jit(seq2seq.align), jax.jit(seq2seq.read)
step = jax.jit(seq2seq.step)
gradient_of_loss = jax.jit(jax.value_and_grad(seq2seq.loss, has_aux=True))

READER = encoders.Config(vocab_size=11, d_model=4, cell="gru", d_hidden=3)
WRITER = decoders.Config(d_hidden=5, cell="gru")
CONFIG = seq2seq.Config(
    encoders.recurrent(READER), decoders.bahdanau(WRITER, scorers.additive(8)), vocab_size=N, d_model=9
)
ONE_WAY = encoders.recurrent(replace(READER, cell="lstm", bidirectional=False, n_layers=2))
SUTSKEVER = replace(CONFIG, encoder=ONE_WAY, decoder=decoders.sutskever(replace(WRITER, cell="lstm", n_layers=2)))
CHO = replace(CONFIG, decoder=decoders.cho(replace(WRITER, cell="elman")))
LUONG = replace(CONFIG, decoder=decoders.luong(replace(WRITER, cell="lstm", n_layers=2), scorers.local_p(8, reach=3.0)))
VARIANTS = {
    "sutskever": (SUTSKEVER, Names("lstm", "sutskever", "lstm")),
    "cho": (CHO, Names("gru", "cho", "elman")),
    "bahdanau": (
        replace(CONFIG, decoder=decoders.bahdanau(replace(WRITER, cell="lstm", n_layers=2), scorers.additive(8))),
        Names("gru", "bahdanau", "lstm", "additive"),
    ),
    "luong, local-p": (LUONG, Names("gru", "luong", "lstm", "local_p")),
}
MORE = {
    f"{form.__name__}, {name}": (
        replace(CONFIG, decoder=form(replace(WRITER, d_hidden=6, cell=cell, n_layers=2), scorer)),
        Names("gru", form.__name__, cell, name),
    )
    for (name, scorer), (form, cell) in zip(
        {
            "dot": scorers.dot(),
            "general": scorers.general(),
            "concat": scorers.concat(4),
            "location": scorers.location(8),
        }.items(),
        [(decoders.luong, "gru"), (decoders.bahdanau, "gru"), (decoders.bahdanau, "elman"), (decoders.luong, "gru")],
        strict=True,
    )
}

# To compile a gradient takes seconds: two of them are proven at every run of the tests, and all with the slow ones.
FIRST = {name: VARIANTS[name] for name in ("bahdanau", "luong, local-p")}
MORE |= {name: VARIANTS[name] for name in ("sutskever", "cho")}


def example(config, seed=0):
    """Float64 parameters of which nothing is zero; ragged sources with garbage behind, and a target that ends early."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: seq2seq.init(key, config), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(0.6 * rng.standard_normal(leaf.shape)), shapes)
    batch = pad([rng.integers(0, 11, n) for n in LENGTHS], [rng.integers(1, N, n) for n in (3, 1, 2)])
    behind = np.arange(S) >= LENGTHS[:, None]
    source = np.where(behind, rng.integers(0, 11, (3, S)), batch.source).astype(np.int32)
    return params, Batch._make(map(jnp.asarray, batch._replace(source=source)))


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


def assert_equal_by_hand(config, names):
    params, batch = example(config)
    (value, metrics), gradient = gradient_of_loss(params, batch, config=config)
    params, batch = as_numpy((params, batch))
    out, saved = reference.loss(params, batch, names)
    expected = reference.loss_backward(saved)
    assert_close((value, metrics), out, FORMULA)
    assert jax.tree.structure(expected) == jax.tree.structure(gradient)
    assert_close(gradient, expected, FORMULA)


@pytest.mark.parametrize(("config", "names"), FIRST.values(), ids=FIRST)
def test_the_gradient_of_every_parameter_equals_the_one_by_hand(config, names):
    assert_equal_by_hand(config, names)


@pytest.mark.parametrize("form", [decoders.bahdanau, decoders.luong])
def test_a_decoder_of_half_precision_keeps_it(form):
    config = replace(CONFIG, decoder=form(WRITER, scorers.additive(8)))
    params, batch = example(config)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert apply(params, batch.source, batch.source_length, batch.inputs, config=config).dtype == jnp.bfloat16


def test_one_setting_of_a_decoder_is_one_record_however_it_is_written():
    assert decoders.luong(WRITER, scorers.local_p(64)) is decoders.luong(
        scorer=scorers.local_p(reach=3.0), config=WRITER
    )
    assert encoders.recurrent(READER) is encoders.recurrent(config=READER) is not encoders.recurrent(encoders.Config())


@pytest.mark.slow
@pytest.mark.parametrize(("config", "names"), MORE.values(), ids=MORE)
def test_of_any_other_decoder_and_scorer_the_gradient_of_every_parameter_equals_the_one_by_hand(config, names):
    assert_equal_by_hand(config, names)


SHALLOW = CONFIG, Names("gru", "bahdanau", "gru", "additive")  # whose cells carry h alone, in one layer


def test_the_loss_of_a_shallow_decoder_equals_the_one_by_hand():
    params, batch = example(CONFIG)
    out, _ = reference.loss(as_numpy(params), as_numpy(batch), SHALLOW[1])
    assert_close(jax.jit(seq2seq.loss)(params, batch, config=CONFIG), out, FORMULA)


@pytest.mark.parametrize(("config", "names"), [*VARIANTS.values(), SHALLOW], ids=[*VARIANTS, "shallow"])
def test_the_gradient_by_hand_equals_central_differences(config, names):
    params, batch = as_numpy(example(config, seed=1))
    rng, h = np.random.default_rng(1), 1e-5
    direction = jax.tree.map(lambda p: rng.standard_normal(p.shape), params)

    def along(h):
        return reference.loss(jax.tree.map(lambda p, v: p + h * v, params, direction), batch, names)[0][0]

    gradient = jax.tree.leaves(reference.loss_backward(reference.loss(params, batch, names)[1]))
    slope = sum(np.vdot(*pair) for pair in zip(gradient, jax.tree.leaves(direction), strict=True))
    assert_close((along(h) - along(-h)) / (2 * h), slope, DIFFERENCE)


# ── reading and writing ──────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=4)
@given(seed=seeds)
def test_what_stands_behind_a_source_or_a_target_changes_nothing(seed):
    params, batch = example(CONFIG, seed % 3)
    rng = np.random.default_rng(seed)
    (value, metrics), gradient = gradient_of_loss(params, batch, config=CONFIG)

    def other(tokens, n, inside):
        return jnp.where(inside, tokens, rng.integers(0, n, tokens.shape).astype(np.int32))

    inside = np.arange(S) < LENGTHS[:, None]
    counts = batch.weights > 0
    changed = batch._replace(
        source=other(batch.source, 11, inside),
        inputs=other(batch.inputs, N, counts),
        targets=other(batch.targets, N, counts),
    )
    again = gradient_of_loss(params, changed, config=CONFIG)
    jax.tree.map(np.testing.assert_array_equal, again, ((value, metrics), gradient))


def test_what_stands_behind_a_source_is_not_remembered_whatever_the_encoder_says_of_it():
    writer = decoders.luong(replace(WRITER, d_hidden=READER.d_model), scorers.dot())
    config = replace(CONFIG, encoder=encoders.words(READER), decoder=writer)
    params, batch = example(config)
    memory, _ = read(params, batch.source, batch.source_length, config=config)
    inside = np.arange(S) < LENGTHS[:, None]
    np.testing.assert_array_equal(memory.mask, inside)
    np.testing.assert_array_equal((np.asarray(memory.values) != 0).all(-1), inside)
    np.testing.assert_array_equal(memory.summary, memory.values[np.arange(3), LENGTHS - 1])


def test_an_encoder_backwards_is_one_that_is_given_its_sources_backwards():
    params, batch = example(CONFIG)
    reader, length = CONFIG.encoder, batch.source_length
    expected = reader.apply(params.encoder, seq2seq.reverse(batch.source, length), length)
    found = seq2seq.backwards(reader).apply(params.encoder, batch.source, length)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_a_wider_source_changes_nothing():
    params, batch = example(CONFIG)
    wider = jnp.pad(batch.source, ((0, 0), (0, 3)), constant_values=6)
    for f, expected in ((apply, 0), (align, ((0, 0), (0, 0), (0, 3)))):
        one = f(params, batch.source, batch.source_length, batch.inputs, config=CONFIG)
        other = f(params, wider, batch.source_length, batch.inputs, config=CONFIG)
        assert_close(other, jnp.pad(one, expected), FORMULA)


@settings(max_examples=4)
@given(seed=seeds, place=st.integers(1, T - 1))
def test_no_logit_depends_on_a_later_input(seed, place):
    params, batch = example(CONFIG, seed % 3)
    future = np.random.default_rng(seed).integers(0, N, (3, T)).astype(np.int32)
    other = jnp.where(jnp.arange(T) < place, batch.inputs, future)
    before, after = (
        apply(params, batch.source, batch.source_length, inputs, config=CONFIG)[:, :place]
        for inputs in (batch.inputs, other)
    )
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("config", [CONFIG, *(pytest.param(one, marks=pytest.mark.slow) for one in (SUTSKEVER, LUONG))])
def test_step_by_step_equals_all_at_once_and_a_batch_equals_one_by_one(config):
    params, batch = example(config)
    logits = apply(params, batch.source, batch.source_length, batch.inputs, config=config)
    for row in range(3):
        memory, state = read(params, batch.source[row], batch.source_length[row], config=config)
        for t in range(T):
            state, one = step(params, memory, state, batch.inputs[row, t], config=config)
            assert_close(one, logits[row, t], FORMULA)


def test_leading_axes_are_pairs_of_their_own():
    params, (source, length, inputs, *_) = example(CONFIG)
    expected = apply(params, source, length, inputs, config=CONFIG)
    twice = (jnp.stack([x, x[::-1]]) for x in (source, length, inputs))
    assert_close(apply(params, *twice, config=CONFIG), jnp.stack([expected, expected[::-1]]), FORMULA)


def test_alignments_lie_within_the_source_and_sum_to_one():
    params, batch = example(CONFIG)
    weights = align(params, batch.source, batch.source_length, batch.inputs, config=CONFIG)
    assert weights.shape == (3, T, S)
    assert_close(weights.sum(-1), np.ones((3, T)), FORMULA)
    assert (weights[np.broadcast_to((np.arange(S) >= LENGTHS[:, None])[:, None], weights.shape)] == 0).all()
    assert_close(weights[1, :, 0], np.ones(T), FORMULA)
    assert len(np.unique(weights[0], axis=0)) == T
    assert align(*example(CHO)[:1], batch.source, batch.source_length, batch.inputs, config=CHO) is None


def test_a_source_of_nothing_is_read_and_has_finite_gradients():
    params, batch = example(CONFIG)
    empty = batch._replace(source_length=jnp.array([0, 0, 5], batch.source_length.dtype))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient_of_loss(params, empty, config=CONFIG)))


@given(seed=seeds)
def test_reversing_twice_is_nothing_and_padding_stays_where_it_is(seed):
    source = np.random.default_rng(seed).integers(0, 99, (3, S))
    source = jnp.asarray(source)
    once = seq2seq.reverse(source, jnp.asarray(LENGTHS))
    np.testing.assert_array_equal(seq2seq.reverse(once, jnp.asarray(LENGTHS)), source)
    for row, n in enumerate(LENGTHS):
        np.testing.assert_array_equal(once[row], [*source[row, :n][::-1], *source[row, n:]])


def test_dropout_acts_only_with_a_key_and_is_a_function_of_it():
    config = replace(CONFIG, dropout=0.5)
    params, (source, length, inputs, *_) = example(config)
    plain, one, same, other = (
        apply(params, source, length, inputs, config=config, key=key)
        for key in (None, *(jax.random.key(seed) for seed in (1, 1, 2)))
    )
    assert_close(plain, apply(params, source, length, inputs, config=CONFIG), FORMULA)
    np.testing.assert_array_equal(one, same)
    assert (one != other).any(axis=-1).all()
    assert (one != plain).any(axis=-1).all()


# ── what is written ──────────────────────────────────────────────────────────────────────────────────────────────────


def translate(params, batch, **options):
    return beam.translate(seq2seq, params, CONFIG, batch.source, batch.source_length, **options)


def log_p(params, batch, row, tokens):
    """By teacher forcing: the log-probability of one target, without a boundary at its end."""
    padded = jnp.zeros(T, jnp.int32).at[1 : len(tokens)].set(jnp.asarray(tokens[:-1], jnp.int32))
    logits = apply(params, batch.source[row], batch.source_length[row], padded, config=CONFIG)
    return sum(float(jax.nn.log_softmax(logits[t])[token]) for t, token in enumerate(tokens))


def test_greedy_writes_the_likeliest_token_at_every_step():
    params, batch = example(CONFIG, seed=3)
    for row, [found] in enumerate(translate(params, batch, max_new_tokens=T)):
        inputs = jnp.zeros(T, jnp.int32).at[1 : 1 + len(found.tokens)].set(found.tokens[: T - 1])
        logits = apply(params, batch.source[row], batch.source_length[row], inputs, config=CONFIG)
        expected = [*found.tokens, 0][:T]
        assert logits.argmax(-1)[: len(expected)].tolist() == expected


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_as_wide_as_everything_finds_the_best_of_all_translations(penalty):
    params, batch = example(CONFIG, seed=4)
    n = 3
    every = [(*body, 0) for k in range(n) for body in itertools.product(range(1, N), repeat=k)]
    every += list(itertools.product(range(1, N), repeat=n))
    found = translate(params, batch, max_new_tokens=n, beams=len(every), length_penalty=penalty)
    padded = np.array([[*tokens, *[0] * (T - len(tokens))] for tokens in every])
    inputs = jnp.asarray(np.pad(padded, ((0, 0), (1, 0)))[:, :T])
    for row in range(3):
        score = jax.nn.log_softmax(
            jax.jit(jax.vmap(partial(seq2seq.apply, config=CONFIG), (None, None, None, 0)))(
                params, batch.source[row], batch.source_length[row], inputs
            )
        )
        each = np.take_along_axis(np.asarray(score), padded[..., None], -1)[..., 0]
        scores = [each[i, : len(c)].sum() / len(c) ** penalty for i, c in enumerate(every)]
        assert len(found[row]) == len(every)
        assert_close([h.score for h in found[row]], sorted(scores, reverse=True), FORMULA)
        best = every[int(np.argmax(scores))]
        assert found[row][0].tokens.tolist() == [token for token in best if token]


def test_a_translation_does_not_depend_on_what_is_translated_beside_it():
    params, batch = example(CONFIG, seed=5)
    together = translate(params, batch, max_new_tokens=6, beams=3)
    for row in range(3):
        alone = translate(params, Batch._make(x[np.array([row, row, 0])] for x in batch), max_new_tokens=6, beams=3)[0]
        assert [h.tokens.tolist() for h in alone] == [h.tokens.tolist() for h in together[row]]
        assert_close([h.score for h in alone], [h.score for h in together[row]], FORMULA)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"beams": 0}, "beams must be at least 1, and is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, and is 0"),
        ({"source_length": np.array([4, 1, 6])}, "for each of them a length of at most s"),
        ({"source_length": np.array([4, 1])}, "for each of them a length of at most s"),
        ({"source_length": np.array([4, -1, 5])}, "for each of them a length of at most s"),
        ({"source": np.zeros((3, 0), np.int32), "source_length": np.zeros(3, int)}, "for each of them a length of at"),
        ({"boundary": N}, "The boundary must be one of the target's 7 ids, and is 7"),
        ({"source": jnp.full((3, S), 99)}, "scores that are not numbers: is a source's id beyond its vocabulary"),
    ],
)
def test_a_senseless_translation_is_refused_in_a_sentence(change, sentence):
    params, batch = example(CONFIG)
    arguments = {"source": batch.source, "source_length": batch.source_length, "max_new_tokens": 3} | change
    with pytest.raises(ValueError, match=sentence):
        beam.translate(seq2seq, params, CONFIG, **arguments)


@pytest.mark.slow
def test_a_model_begins_near_ln_n_and_learns_one_batch_by_heart():
    _, batch = example(CONFIG)
    writer = decoders.bahdanau(decoders.Config(24), scorers.additive(16))
    config = replace(CONFIG, decoder=writer, vocab_size=503)
    params, optimizer = jax.jit(seq2seq.init)(jax.random.key(0), config), optax.adam(0.02)

    def update(carry, _):
        params, state = carry
        (value, _), gradient = jax.value_and_grad(seq2seq.loss, has_aux=True)(params, batch, config=config)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = jax.jit(lambda carry: jax.lax.scan(update, carry, length=100))(
        (params, optimizer.init(params))
    )
    assert abs(losses[0] / np.log(503) - 1) < 0.05
    assert losses[-1] < 0.05
