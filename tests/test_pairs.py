"""Pairs of texts: what is padded is what it was, and an epoch is every pair, in an order that a seed decides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.data.pairs import PairBatches, pad

rows = st.lists(st.integers(1, 9), max_size=6)
pairs = st.lists(st.tuples(rows, rows), min_size=1, max_size=12)


@given(pairs, st.integers(10, 12))
def test_padding_keeps_every_token_and_a_boundary_stands_on_both_sides_of_a_target(pairs, boundary):
    sources, targets = zip(*pairs, strict=True)
    batch = pad(sources, targets, boundary, s=8, t=7)
    for row, (source, target) in enumerate(pairs):
        n = len(target)
        assert batch.source[row].tolist() == source + [0] * (8 - len(source))
        assert batch.source_length[row] == len(source)
        assert batch.inputs[row].tolist() == [boundary, *target, *[0] * (6 - n)]
        assert batch.targets[row].tolist() == [*target, boundary, *[0] * (6 - n)]
        assert batch.weights[row].tolist() == [1] * (n + 1) + [0] * (6 - n)


@given(pairs, st.integers(1, 5), st.integers(0, 99))
def test_an_epoch_is_every_pair(pairs, batch_size, seed):
    """Numbered by a first token of their own, all come, and again in a next epoch."""
    sources = [[100 + i, *source] for i, (source, _) in enumerate(pairs)]
    batches = PairBatches(sources, [target for _, target in pairs], (2, 4, 9), batch_size, seed)
    for epoch in range(2):
        epoch = [batches.batch(step) for step in range(epoch * batches.n_batches, (epoch + 1) * batches.n_batches)]
        seen = [int(row[0]) for batch in epoch for row in batch.source]
        assert set(seen) == {source[0] for source in sources}
        assert len(seen) == batch_size * batches.n_batches
        for batch in epoch:
            assert batch.source.shape[1] in (2, 4, 9)
            for row, n, target in zip(batch.source, batch.source_length, batch.targets, strict=True):
                i = int(row[0]) - 100
                assert row[:n].tolist() == sources[i]
                assert target[: len(pairs[i][1])].tolist() == pairs[i][1]


def test_a_batch_is_a_function_of_seed_and_step_and_shapes_are_few():
    rng = np.random.default_rng(0)
    sources = [rng.integers(1, 9, n) for n in rng.integers(1, 13, 200)]
    one, same, other = (PairBatches(sources, sources, (4, 8, 13), 16, seed) for seed in (0, 0, 1))
    steps = range(2 * one.n_batches)
    for step in reversed(steps):
        for a, b in zip(one.batch(step), same.batch(step), strict=True):
            np.testing.assert_array_equal(a, b)
    assert {one.batch(step).source.shape[1] for step in steps} == {4, 8, 13}
    assert len({one.batch(step).source.shape + one.batch(step).inputs.shape for step in steps}) == 3
    assert any(one.batch(step).source.shape != other.batch(step).source.shape for step in steps)
    first, second = (
        np.concatenate([b.source.ravel() for b in map(one.batch, part)]) for part in (steps[:5], steps[-5:])
    )
    assert first.shape != second.shape or (first != second).any()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"widths": (2, 3)}, "The longest pair needs a width of 4, and the last is 3"),
        ({"targets": [[1]]}, "expected a target for each source, and at least one, got 1 for 2"),
        ({"sources": [], "targets": []}, "and at least one, got 0 for 0"),
    ],
)
def test_pairs_that_do_not_fit_are_refused_in_a_sentence(change, sentence):
    arguments = {"sources": [[1], [1, 2, 3, 4]], "targets": [[1], [2]], "widths": (4,), "batch_size": 2} | change
    with pytest.raises(ValueError, match=sentence):
        PairBatches(**arguments)


def test_a_row_longer_than_its_width_is_refused():
    with pytest.raises(ValueError, match="at most 2 tokens, got one of 3"):
        pad([[1]], [[1, 2, 3]], t=3)
    with pytest.raises(ValueError, match="expected a target for each source, got 1 for 0"):
        pad([], [[1]])


@pytest.mark.parametrize(("widths", "batch_size"), [((), 2), ((4, 2), 2), ((0, 4), 2), ((2, 4), 0)])
def test_widths_that_do_not_rise_and_empty_batches_are_refused(widths, batch_size):
    with pytest.raises(ValueError, match="Widths must rise from 1 or more and a batch hold 1 pair or more"):
        PairBatches([[1]], [[1]], widths=widths, batch_size=batch_size)
