"""Texts of unequal lengths in batches: each comes once, nothing is mixed up, and any step stands by itself."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.data.padding import PaddedBatches, padded_sizes

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)
M = 3


def texts_of(lengths):
    """For text i of length n: tokens (n, m), tags (n,) and a label, from which i and the place can be read off."""
    tokens = [100 * i + np.arange(1, n + 1)[:, None] + 50 * np.arange(M) for i, n in enumerate(lengths)]
    return tokens, [row[:, 0] for row in tokens], [7 * i + 1 for i in range(len(lengths))]


def batches_of(lengths, places=60, seed=3):
    return PaddedBatches(texts_of(lengths), padded_sizes(lengths, 3, 4), places, seed)


@given(lengths, st.integers(1, 120), st.integers(0, 9))
def test_each_text_comes_once_an_epoch_whole_and_beside_its_label(lengths, places, seed):
    batches, (tokens, tags, labels) = batches_of(lengths, places, seed), texts_of(lengths)
    for epoch in (0, 1):
        steps = range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch)
        for found in ([batches.batch(step) for step in steps], [*batches.in_order()]):
            numbers = np.concatenate([batch.index for batch in found])
            assert sorted(numbers[numbers >= 0]) == [*range(len(lengths))]
            for batch in found:
                size = batch.columns[0].shape[1]
                assert size in batches.sizes
                assert len(batch.index) == max(1, places // size)
                for row, i in enumerate(batch.index):
                    n = lengths[i] if i >= 0 else 0
                    assert (batch.length[row], batch.weights[row]) == (n, i >= 0)
                    assert batch.columns[2][row] == (labels[i] if i >= 0 else 0)
                    assert not batch.columns[0][row, n:].any()
                    assert not batch.columns[1][row, n:].any()
                    assert batch.place_weights[row].tolist() == [1] * n + [0] * (size - n)
                    if n:
                        np.testing.assert_array_equal(batch.columns[0][row, :n], tokens[i])
                        np.testing.assert_array_equal(batch.columns[1][row, :n], tags[i])


@given(lengths)
def test_a_text_has_the_smallest_size_that_holds_it(lengths):
    batches = batches_of(lengths)
    for batch in batches.in_order():
        size = batch.columns[0].shape[1]
        assert all(min(s for s in batches.sizes if s >= n) == size for n in batch.length[batch.index >= 0])


def test_a_batch_depends_on_seed_and_step_alone_and_epochs_and_seeds_differ():
    lengths = np.random.default_rng(0).integers(1, 40, 200)
    one, other = batches_of(lengths, 400), batches_of(lengths, 400, seed=4)
    order = [one.batch(step).index.tolist() for step in range(2 * one.per_epoch)]
    again = batches_of(lengths, 400)
    assert [again.batch(step).index.tolist() for step in reversed(range(2 * one.per_epoch))] == order[::-1]
    first, second = ({frozenset(rows) for rows in half} for half in (order[: one.per_epoch], order[one.per_epoch :]))
    assert len(first & second) < len(first) / 2  # other texts come together, not the same batches in another order
    assert order[: one.per_epoch] != [other.batch(step).index.tolist() for step in range(one.per_epoch)]
    sizes = [one.batch(step).columns[0].shape[1] for step in range(one.per_epoch)]
    assert sizes != sorted(sizes)  # neither short texts first nor long ones


@given(lengths)
def test_results_come_back_in_the_order_of_the_texts(lengths):
    batches, (tokens, _, labels) = batches_of(lengths), texts_of(lengths)
    assert batches.each_text(lambda batch: batch.columns[2]) == labels
    rows = batches.each_text(lambda batch: batch.columns[0])
    for row, text in zip(rows, tokens, strict=True):
        np.testing.assert_array_equal(row[: len(text)], text)


@given(lengths, st.integers(1, 4), st.sampled_from([1, 8]))
def test_no_other_sizes_have_fewer_places(lengths, count, multiple):
    def places(sizes):
        return sum(min(size for size in sizes if size >= n) for n in lengths)

    found = padded_sizes(lengths, count, multiple)
    assert len(found) <= count
    assert all(size % multiple == 0 for size in found)
    candidates = sorted({-(-n // multiple) * multiple for n in lengths})
    largest = candidates.pop()
    few = candidates[:: max(1, len(candidates) // 6)]  # all choices among a few
    choices = [(*rest, largest) for k in range(min(count - 1, len(few)) + 1) for rest in combinations(few, k)]
    assert places(found) == min(places(found), *map(places, choices), places((largest,)))
    assert found[-1] == largest


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        (([np.arange(3), np.arange(0)], [1, 2]), "Text 1 has a length of 0, and sizes are from 1 to 8: leave empty"),
        (([np.arange(3), np.arange(9)], [1, 2]), "Text 1 has a length of 9, and sizes are from 1 to 8"),
        (([np.arange(3)], [np.arange(2)]), "Text 0 has a length of 3 in column 0, and of 2 in column 1"),
        (([np.arange(3)], [1, 2]), r"columns of \[1, 2\] texts"),
        (([1, 2],), "the first its tokens"),
        (([],), r"columns of \[0\] texts"),
        ((), r"columns of \[\] texts"),
    ],
)
def test_texts_that_do_not_fit_are_refused_in_a_sentence(columns, match):
    with pytest.raises(ValueError, match=match):
        PaddedBatches(columns, sizes=(4, 8), places=16)


def test_settings_that_make_no_sense_are_refused_in_a_sentence():
    texts = ([np.arange(3)],)
    for sizes, places in (((), 8), ((8, 4), 8), ((4, 4), 8), ((0, 4), 8), ((4,), 0)):
        with pytest.raises(ValueError, match="must be 1 or more, and sizes rise"):
            PaddedBatches(texts, sizes, places)
    with pytest.raises(ValueError, match="but step -1 was asked for"):
        PaddedBatches(texts, (4,), 8).batch(-1)
    for lengths in ([], [3, 0], np.array([[3]])):
        with pytest.raises(ValueError, match="each of length 1 or more; lengths of shape"):
            padded_sizes(lengths)
    with pytest.raises(ValueError, match="at least one size"):
        padded_sizes([3], count=0)


def test_arrays_of_other_axes_and_what_is_no_integer_are_refused():
    pairs, labels = [np.zeros((2, 3), np.int32), np.zeros((2, 3), np.int32)], [0, 1]
    cases = [
        ([pairs[0], np.zeros(2, np.int32)], labels, r"an array of shape \(2,\) in column 0"),
        (pairs, [0, 0.7], "Text 1 has in column 1 what is no integer"),
        (pairs, [0, 2**33 + 5], "Text 1 has in column 1 what is no integer"),
        (pairs, [np.zeros(2, np.int32), 1], r"an array of shape \(\) in column 1"),
    ]
    for texts, more, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            PaddedBatches((texts, more), sizes=(4,), places=8)
