"""Thinning, windows, noise and Huffman's tree: each against its definition, word by word."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.data import windows
from tests.strategies import seeds
from tests.tolerances import CHI_SQUARE, FORMULA, SAMPLING, assert_close

CONFIG = SimpleNamespace(window=3, stretch=4, stretches=2, subsample=1e-2, negatives=5, shared=7)
cheap = settings(max_examples=40)  # nothing is compiled
counts_of_words = st.lists(st.integers(1, 40), min_size=2, max_size=7).map(np.array)


def a_text(seed, length=200, n=12):
    rng = np.random.default_rng(seed)
    tokens = rng.choice(n, length, p=np.arange(1, n + 1) / (n * (n + 1) / 2))
    return windows.Text(tokens, np.sort(rng.integers(0, 9, length)), np.bincount(tokens, minlength=n))


def all_batches(text, tree=None, seed=0, epoch=0, config=CONFIG):
    """An epoch's arrays, one step after the other."""
    parts = [arrays for *_, arrays in windows.batches(text, config, tree, seed, epoch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@cheap
@given(counts_of_words)
def test_no_way_in_the_tree_is_the_beginning_of_another(counts):
    tree = windows.huffman(counts)
    ways = [tuple(signs[signs != 0]) for signs in tree.signs]
    assert len(set(ways)) == len(counts)
    assert not [1 for a, b in itertools.permutations(ways, 2) if b[: len(a)] == a]


@cheap
@given(counts_of_words)
def test_ways_that_begin_alike_pass_the_same_forks(counts):
    fork_after = {}
    for nodes, signs in zip(*windows.huffman(counts), strict=True):
        assert (signs != 0).tolist() == sorted((signs != 0).tolist(), reverse=True)
        for i in range(np.count_nonzero(signs)):
            assert fork_after.setdefault(tuple(signs[:i]), nodes[i]) == nodes[i]
    assert sorted(fork_after.values()) == list(range(len(counts) - 1))


@settings(max_examples=15)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6).map(sorted))
def test_no_tree_has_a_shorter_mean_way(counts):
    def least(weights):  # by trying every pair to be joined
        if len(weights) == 1:
            return 0
        pairs = itertools.combinations(range(len(weights)), 2)
        return min(
            weights[i]
            + weights[j]
            + least((*(w for k, w in enumerate(weights) if k not in (i, j)), weights[i] + weights[j]))
            for i, j in set(pairs)
        )

    lengths = np.count_nonzero(windows.huffman(np.array(counts)).signs, axis=1)
    assert np.dot(lengths, counts) == least(tuple(counts))


def test_a_tree_of_one_word_is_refused():
    with pytest.raises(ValueError, match="two words or more, but there are 1"):
        windows.huffman(np.array([3]))


@given(seeds)
def test_neighbours_stand_in_the_same_document_within_the_window_and_are_never_the_word_itself(seed):
    text = a_text(seed)._replace(tokens=np.arange(200), counts=np.ones(200, int))  # each word tells where it stands
    config = SimpleNamespace(**{**vars(CONFIG), "subsample": 1.0})
    found = all_batches(text, config=config, epoch=seed % 5)
    radius, seen = {}, set()
    for step, b, t in np.ndindex(found["near"].shape[:3]):
        word = int(found["output"][step, b, t, 0])
        near = found["context"][step, b][found["near"][step, b, t]]
        if len(near):
            seen.add(word)
            radius[word] = int(np.abs(near - word).max())
            assert (text.document[near] == text.document[word]).all()
            reached = range(max(0, word - radius[word]), min(200, word + radius[word] + 1))
            assert sorted(near) == [s for s in reached if s != word and text.document[s] == text.document[word]]
    assert seen == {w for w in range(200) if np.count_nonzero(text.document == text.document[w]) > 1}
    assert set(radius.values()) == {1, 2, 3}


def test_the_window_is_drawn_evenly():
    text = windows.Text(np.arange(9000), np.zeros(9000, int), np.ones(9000, int))
    near = all_batches(text, config=SimpleNamespace(**{**vars(CONFIG), "subsample": 1.0}))["near"]
    radius = near.sum(-1).ravel()[3:8997] // 2
    assert abs(np.bincount(radius, minlength=4)[1:] / len(radius) - 1 / 3).max() < SAMPLING


@given(seeds)
def test_noise_is_drawn_by_the_counts_to_the_power_of_three_quarters(seed):
    text = windows.Text(np.zeros(9, int), np.zeros(9, int), np.array([8000, 900, 90, 10]))
    config = SimpleNamespace(**{**vars(CONFIG), "shared": 99})
    drawn = np.bincount(all_batches(text, config=config, seed=seed)["noise"].ravel(), minlength=4)
    expected = text.counts**0.75 / np.sum(text.counts**0.75) * drawn.sum()
    assert np.mean((drawn - expected) ** 2 / expected) < CHI_SQUARE


def test_frequent_words_are_thinned_as_often_as_the_formula_says():
    counts = np.array([8000, 900, 90, 10])
    p = windows.keep_probability(counts, 1e-2)
    f = counts / 9000
    assert_close(p, np.minimum(1, (np.sqrt(f / 1e-2) + 1) * 1e-2 / f), FORMULA)  # as word2vec.c writes it
    text = windows.Text(np.repeat(np.arange(4), counts), np.zeros(9000, int), counts)
    found = all_batches(text)
    kept = np.bincount(found["output"][found["near"].any(-1)].ravel(), minlength=4)
    assert abs(kept / counts - p)[:2].max() < SAMPLING
    assert kept[3] == 10


def test_an_epoch_is_a_function_of_the_seed_and_its_number():
    text = a_text(1)
    first, again, later, other = (all_batches(text, seed=s, epoch=e) for s, e in ((5, 2), (5, 2), (5, 3), (6, 2)))
    assert all((first[name] == again[name]).all() for name in first)
    for changed in (later, other):
        assert any(first[name].shape != changed[name].shape or (first[name] != changed[name]).any() for name in first)


@given(seeds)
def test_with_a_tree_the_outputs_are_the_way_to_the_word_and_there_is_no_noise(seed):
    text = a_text(seed)
    tree = windows.huffman(text.counts)
    plain = all_batches(text, seed=seed)
    hierarchical = all_batches(text, tree, seed=seed)
    assert hierarchical["noise"].size == 0
    assert (hierarchical["context"] == plain["context"]).all()
    assert (hierarchical["output"] == tree.nodes[plain["output"][..., 0]]).all()
    assert (hierarchical["sign"] == tree.signs[plain["output"][..., 0]]).all()


def test_each_drawn_word_counts_for_its_share_of_the_negatives():
    assert set(all_batches(a_text(0))["noise_weight"].tolist()) == {np.float32(5 / 7)}


def test_the_progress_of_an_epoch_begins_at_zero_and_ends_at_one():
    shares = [(begun, ended) for begun, ended, _ in windows.batches(a_text(0, 3000), CONFIG, None, 0, 0)]
    assert shares[0][0] == 0
    assert shares[-1][1] == 1
    assert [begun for begun, _ in shares[1:]] == [ended for _, ended in shares[:-1]]


def test_numbers_without_a_count_and_texts_without_a_frequent_word_are_refused():
    for wrong in (-1, 12):
        text = a_text(0)
        text.tokens[3] = wrong
        with pytest.raises(ValueError, match="counts of 12 words, but the text's numbers run from"):
            next(windows.batches(text, CONFIG, None, 0, 0))
    with pytest.raises(ValueError, match="No word comes 3 times or more"):
        windows.number([["a", "b", "a"]], min_count=3)


@cheap
@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=9), min_size=1), st.integers(1, 3))
def test_numbers_give_back_the_words_that_come_often_enough(documents, least):
    frequent = {w for w in "abcdef" if sum(d.count(w) for d in documents) >= least}
    if not frequent:
        return
    words, text = windows.number(documents, least)
    assert set(words) == frequent
    assert text.counts.tolist() == [sum(d.count(w) for d in documents) for w in words]
    assert sorted(text.counts, reverse=True) == text.counts.tolist()
    for i, document in enumerate(documents):
        kept = [words[t] for t in text.tokens[text.document == i]]
        assert kept == [w for w in document if w in frequent]
