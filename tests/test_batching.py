"""Batches are a function of (seed, step) in which every window, and every target, has its turn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.data.batching import Batches, ConsecutiveBatches, evaluation_batches, permuted

seeds = st.integers(0, 2**63)


@given(st.integers(1, 300), seeds, st.integers(0, 5))
def test_a_permutation_reaches_every_place_once(size, seed, epoch):
    assert sorted(permuted(i, size, seed, epoch) for i in range(size)) == list(range(size))


@given(st.integers(6, 200), st.integers(1, 5), st.integers(1, 7), seeds)
def test_each_window_is_used_once_an_epoch_also_where_batches_straddle_epochs(length, t, b, seed):
    batches = Batches(np.arange(length), t, b, seed)
    n_epochs = 3
    rows = np.concatenate([batches.batch(step).tokens for step in range(-(-batches.n_windows * n_epochs // b))])
    for epoch in range(n_epochs):
        starts = np.sort(rows[epoch * batches.n_windows : (epoch + 1) * batches.n_windows, 0])
        assert (np.diff(starts) == t).all()
        assert starts[0] >= 0
        assert starts[-1] + t < length


@given(st.integers(6, 200), st.integers(1, 5), st.integers(1, 7), seeds, st.integers(0, 10**9))
def test_a_target_is_the_next_token_and_counts(length, t, b, seed, step):
    tokens = np.random.default_rng(0).permutation(length)
    batch = Batches(tokens, t, b, seed).batch(step)
    assert batch.tokens.shape == batch.targets.shape == batch.weights.shape == (b, t)
    assert batch.tokens.dtype == batch.targets.dtype == np.int32
    following = dict(zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True))
    assert [following[i] for i in batch.tokens.ravel().tolist()] == batch.targets.ravel().tolist()
    assert (batch.weights == 1).all()


@given(seeds, st.integers(0, 10**12))
def test_a_batch_depends_on_seed_and_step_alone(seed, step):
    tokens = np.arange(1000, dtype=np.uint16)
    first = Batches(tokens, 7, 3, seed)
    first.batch(0)
    assert (first.batch(step).tokens == Batches(tokens, 7, 3, seed).batch(step).tokens).all()


def test_another_seed_or_epoch_is_another_order():
    tokens = np.arange(10_001)
    one = np.concatenate([Batches(tokens, 10, 50, seed=0).batch(step).tokens for step in range(40)])[:, 0] // 10
    other = np.concatenate([Batches(tokens, 10, 50, seed=1).batch(step).tokens for step in range(40)])[:, 0] // 10
    assert np.mean(one == other) < 0.01
    assert np.mean(one[:999] == one[999:1998]) < 0.01
    # No window stays near its neighbours: successive windows are a third of the text apart, as in a random order.
    assert abs(np.abs(np.diff(one[:999])).mean() / 999 - 1 / 3) < 0.05


def test_every_epoch_cuts_elsewhere():
    batches = Batches(np.arange(1001), 10, 99, seed=0)
    assert len({int(batches.batch(epoch).tokens[0, 0]) % 10 for epoch in range(120)}) == 10


@given(st.integers(6, 200), st.integers(1, 5), st.integers(1, 7))
def test_evaluation_counts_every_target_once_and_in_order(length, t, b):
    tokens = np.random.default_rng(0).permutation(length)
    batches = list(evaluation_batches(tokens, t, b))
    assert {batch.tokens.shape for batch in batches} == {(b, t)}
    counted = np.concatenate([np.stack([x.tokens, x.targets])[:, x.weights == 1] for x in batches], axis=1)
    assert (counted == np.stack([tokens[:-1], tokens[1:]])).all()
    assert all(((x.weights == 0) | (x.weights == 1)).all() for x in batches)


@pytest.mark.parametrize("length", [0, 1, 8])
def test_a_corpus_shorter_than_a_context_is_refused_in_a_sentence(length):
    with pytest.raises(ValueError, match=rf"has {length} tokens, fewer than the 9 of one context"):
        Batches(np.arange(length), 8, 2)
    with pytest.raises(ValueError, match=rf"has {length} tokens, fewer than the 9 of one context"):
        next(evaluation_batches(np.arange(length), 8, 2))


def test_a_corpus_of_one_context_is_enough():
    assert Batches(np.arange(9), 8, 2).batch(3).tokens.tolist() == [list(range(8))] * 2


def test_wrong_sizes_axes_and_steps_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="must be at least 1, but are 0 and 2"):
        Batches(np.arange(9), 0, 2)
    with pytest.raises(ValueError, match=r"one axis, but have shape \(3, 3\)"):
        Batches(np.zeros((3, 3)), 1, 2)
    with pytest.raises(ValueError, match="step -1 was asked for"):
        Batches(np.arange(9), 2, 2).batch(-1)


# ── consecutive windows ──────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(6, 100), st.integers(1, 5), st.integers(1, 7), st.integers(0, 50))
def test_a_row_goes_on_where_it_stood(length, t, b, step):
    tokens = np.random.default_rng(0).permutation(length)
    batches = ConsecutiveBatches(tokens, t, b)
    now, then = batches.batch(step), batches.batch(step + 1)
    assert (now.targets[:, -1] == then.tokens[:, 0]).all()
    assert (now.targets[:, :-1] == now.tokens[:, 1:]).all()
    assert now.tokens.shape == now.targets.shape == now.weights.shape == (b, t)
    assert now.tokens.dtype == now.targets.dtype == np.int32
    assert (now.weights == 1).all()


@given(st.integers(6, 100), st.integers(1, 5), st.integers(1, 7))
def test_every_row_reads_the_whole_text_as_a_circle(length, t, b):
    batches = ConsecutiveBatches(np.arange(length), t, b)
    rows = np.concatenate([batches.batch(step).tokens for step in range(2 * length // t + 1)], axis=1)
    assert (np.diff(rows) % length == 1).all()
    assert rows.shape[1] >= 2 * length
    assert (rows[:, 0] == np.arange(b) * length // b).all()


@given(st.integers(2, 9), st.integers(1, 5), st.integers(1, 7))
def test_together_the_rows_read_each_token_once_where_windows_divide_the_text(n_windows, t, b):
    length = n_windows * t * b
    batches = ConsecutiveBatches(np.arange(length), t, b)
    targets = np.concatenate([batches.batch(step).targets.ravel() for step in range(n_windows)])
    assert sorted(targets) == list(range(length))


def test_a_consecutive_batch_depends_on_its_step_alone():
    tokens = np.arange(1000, dtype=np.uint16)
    batches = ConsecutiveBatches(tokens, 7, 3)
    batches.batch(5)
    assert (batches.batch(10**9).tokens == ConsecutiveBatches(tokens, 7, 3).batch(10**9).tokens).all()
    with pytest.raises(ValueError, match="step -1 was asked for"):
        batches.batch(-1)
    with pytest.raises(ValueError, match="has 7 tokens, fewer than the 8 of one context"):
        ConsecutiveBatches(np.arange(7), 7, 3)
