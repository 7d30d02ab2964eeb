"""What scores of classes are: equal to scikit-learn's to the last digit; and what a loss is in bits."""

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import metrics
from tests.tolerances import FORMULA, REDUCTION, assert_close

AVERAGES = {"micro": metrics.micro_scores, "macro": metrics.macro_scores, "weighted": metrics.weighted_scores}
N = 5
many = settings(max_examples=60)
labels = st.integers(0, N - 1)
labelled = st.lists(st.tuples(labels, labels), min_size=1, max_size=12).map(
    lambda pairs: tuple(zip(*pairs, strict=True))
)
undefined_as = st.sampled_from([0.0, 1.0, math.nan])


def same(actual, expected):
    """Bit for bit, unknown where unknown."""
    np.testing.assert_array_equal(np.asarray(actual, float), np.asarray(expected, float))


# ── classes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@many
@given(labelled)
def test_accuracy_and_confusion_matrix_are_those_of_scikit_learn(pairs):
    assert metrics.accuracy(*pairs) == sklearn.metrics.accuracy_score(*pairs)
    same(metrics.confusion_matrix(*pairs, N), sklearn.metrics.confusion_matrix(*pairs, labels=range(N)))


@many
@given(labelled, undefined_as)
def test_scores_of_each_class_are_those_of_scikit_learn(pairs, undefined):
    actual = metrics.per_class_scores(metrics.class_counts(*pairs, N), undefined)
    expected = sklearn.metrics.precision_recall_fscore_support(*pairs, labels=range(N), zero_division=undefined)
    for ours, theirs in zip(actual, expected, strict=True):
        same(ours, theirs)


@pytest.mark.parametrize("average", AVERAGES)
@many
@given(labelled, undefined_as)
def test_averaged_scores_are_those_of_scikit_learn(average, pairs, undefined):
    actual = AVERAGES[average](metrics.class_counts(*pairs, N), undefined)
    expected = sklearn.metrics.precision_recall_fscore_support(
        *pairs, labels=range(N), average=average, zero_division=undefined
    )
    same(actual[:3], expected[:3])
    assert actual.support == len(pairs[0])


@given(labelled)
def test_with_one_label_each_the_micro_average_is_the_accuracy_and_so_is_the_weighted_recall(pairs):
    counts = metrics.class_counts(*pairs, N)
    accuracy = metrics.accuracy(*pairs)
    micro = metrics.micro_scores(counts)
    assert_close([micro.precision, micro.recall, micro.f1], [accuracy] * 3, REDUCTION)
    assert_close(metrics.weighted_scores(counts).recall, accuracy, REDUCTION)


@given(labelled, labelled)
def test_counts_of_two_parts_add_up_to_those_of_the_whole(first, second):
    parts = [metrics.class_counts(*pairs, N) for pairs in (first, second)]
    whole = metrics.class_counts(*(a + b for a, b in zip(first, second, strict=True)), N)
    for a, b, total in zip(*parts, whole, strict=True):
        same(a + b, total)


@pytest.mark.parametrize("undefined", [0.0, 1.0, math.nan])
def test_zero_by_zero_counts_as_told_and_unknown_is_left_out_of_an_average(undefined):
    counts = metrics.class_counts([0, 0, 1], [0, 2, 0], 4)  # 1 never predicted, 2 never there, 3 neither
    scores = metrics.per_class_scores(counts, undefined)
    same(scores.precision, [1 / 2, undefined, 0, undefined])
    same(scores.recall, [1 / 2, 0, undefined, undefined])
    same(scores.f1, [1 / 2, 0, 0, undefined])
    known = [value for value in scores.f1 if not math.isnan(value)]
    assert metrics.macro_scores(counts, undefined).f1 == sum(known) / len(known)


def test_zero_by_zero_counts_as_zero_unless_told_otherwise():
    counts = metrics.class_counts([0, 0], [0, 0], 2)
    same(metrics.per_class_scores(counts)[:3], [[1, 0]] * 3)
    same(metrics.macro_scores(counts)[:3], [1 / 2] * 3)
    for average in AVERAGES.values():
        same(average(metrics.class_counts([], [], 2)), [0] * 4)


def test_precision_is_of_what_was_predicted_and_recall_of_what_is_there():
    counts = metrics.Counts(correct=np.array([1, 0]), predicted=np.array([2, 0]), actual=np.array([3, 1]))
    assert metrics.micro_scores(counts) == (1 / 2, 1 / 4, 2 / 6, 4)
    same(metrics.per_class_scores(counts).f1, [2 / 5, 0])


@pytest.mark.parametrize("undefined", [0.0, 1.0, math.nan])
@pytest.mark.parametrize("average", AVERAGES)
def test_the_scores_of_nothing_are_what_zero_by_zero_counts_as(average, undefined):
    nothing = metrics.class_counts([], [], 3)
    none = metrics.Counts(*(np.zeros(0, int) for _ in range(3)))
    for counts in (nothing, none):
        same(AVERAGES[average](counts, undefined), [undefined] * 3 + [0])


def test_labels_may_stand_in_any_shape():
    targets, predictions = np.array([[0, 1, 2], [2, 1, 0]]), np.array([[0, 1, 1], [2, 0, 0]])
    assert metrics.accuracy(targets, predictions) == 4 / 6
    same(metrics.confusion_matrix(targets, predictions, 3), [[2, 0, 0], [1, 1, 0], [0, 1, 1]])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: metrics.accuracy([0, 1], [0]), r"shapes \(2,\) of targets and \(1,\) of predictions"),
        (lambda: metrics.accuracy([], []), "at least one prediction"),
        (lambda: metrics.class_counts([0, 3], [0, 1], 3), "classes from 0 to 2, got 3"),
        (lambda: metrics.class_counts([0, 1], [0, -1], 3), "classes from 0 to 2, got -1"),
        (lambda: metrics.class_counts([0.0, 1.0], [0, 1], 3), "classes as integers, got float64"),
    ],
)
def test_labels_that_cannot_be_counted_are_refused_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


# ── likelihood ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 500), st.integers(1, 40))
def test_a_uniform_guess_has_the_perplexity_of_its_choices_and_the_bits_of_their_logarithm(choices, n):
    nats = n * math.log(choices)
    assert_close(metrics.perplexity(nats, n), choices, FORMULA)
    assert_close(metrics.bits_per_byte(nats, n), math.log2(choices), FORMULA)
    assert_close(metrics.bits_per_character(nats, n), math.log2(choices), FORMULA)


@given(st.text(min_size=1), st.floats(0, 1e6))
def test_bits_per_character_are_bits_per_byte_times_the_bytes_of_a_character(text, nats):
    n_bytes = len(text.encode(errors="replace"))
    per_byte, per_character = metrics.bits_per_byte(nats, n_bytes), metrics.bits_per_character(nats, len(text))
    assert_close(per_character, per_byte * n_bytes / len(text), REDUCTION)


def test_a_perplexity_beyond_all_floats_is_infinite_and_that_of_a_broken_model_unknown():
    assert metrics.perplexity(1e6, 10) == math.inf
    assert metrics.perplexity(0.0, 3) == 1
    assert math.isnan(metrics.perplexity(math.nan, 3))


@pytest.mark.parametrize("measure", [metrics.perplexity, metrics.bits_per_byte, metrics.bits_per_character])
@pytest.mark.parametrize("count", [0, -1])
def test_a_loss_on_nothing_is_refused_in_a_sentence(measure, count):
    with pytest.raises(ValueError, match=f"at least one .* got {count}"):
        measure(1.0, count)
