"""What edits are: the fewest of all ways, each tried, and NLTK's and jiwer's."""

from functools import cache

import jiwer
import nltk
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import metrics

many = settings(max_examples=60)
strings = st.text("abc", max_size=7)


def brute_force_distance(reference, hypothesis):
    """The definition: the cheapest of all ways, each tried."""

    @cache
    def distance(i, j):
        if i == 0 or j == 0:
            return i + j
        substituted = distance(i - 1, j - 1) + (reference[i - 1] != hypothesis[j - 1])
        return min(substituted, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(reference), len(hypothesis))


@many
@given(strings, strings)
def test_edit_distance_is_the_cheapest_of_all_ways_and_that_of_nltk(reference, hypothesis):
    distance = metrics.edit_distance(reference, hypothesis)
    assert distance == brute_force_distance(reference, hypothesis) == nltk.edit_distance(reference, hypothesis)
    assert distance == metrics.edit_distance(np.array([*map(ord, reference)]), np.array([*map(ord, hypothesis)]))


@many
@given(strings, strings)
def test_an_alignment_passes_every_element_once_in_order_and_costs_the_distance(reference, hypothesis):
    pairs = metrics.alignment(reference, hypothesis)
    assert [i for i, _ in pairs if i is not None] == list(range(len(reference)))
    assert [j for _, j in pairs if j is not None] == list(range(len(hypothesis)))
    assert (None, None) not in pairs
    counts = metrics.edits(reference, hypothesis)
    cost = sum(i is None or j is None or reference[i] != hypothesis[j] for i, j in pairs)
    assert cost == metrics.edit_distance(reference, hypothesis)
    assert cost == counts.substitutions + counts.insertions + counts.deletions
    assert counts.matches + counts.substitutions + counts.deletions == len(reference)
    assert counts.matches + counts.substitutions + counts.insertions == len(hypothesis)


@given(strings, strings, strings)
def test_edit_distance_is_a_metric(a, b, c):
    d = metrics.edit_distance
    assert d(a, b) == d(b, a)
    assert d(a, c) <= d(a, b) + d(b, c)
    assert (d(a, b) == 0) == (a == b)


def test_where_ways_are_as_cheap_a_pair_goes_before_a_deletion_and_a_deletion_before_an_insertion():
    assert metrics.alignment("ab", "b") == [(0, None), (1, 0)]
    assert metrics.alignment("aa", "a") == [(0, None), (1, 0)]
    assert metrics.alignment("ab", "ba") == [(0, 0), (1, 1)]
    assert metrics.alignment("abc", "ca") == [(0, None), (1, 0), (2, 1)]
    assert metrics.edits("abcd", "xab") == metrics.Edits(matches=2, substitutions=0, insertions=1, deletions=2)


sentences = st.lists(st.sampled_from(["to", "be", "or", "not"]), min_size=1, max_size=5).map(" ".join)
transcripts = st.lists(st.tuples(sentences, sentences), min_size=1, max_size=4).map(
    lambda p: [*map(list, zip(*p, strict=True))]
)


@many
@given(transcripts)
def test_word_and_character_error_rates_are_those_of_jiwer(corpus):
    assert metrics.word_error_rate(*corpus) == jiwer.wer(*corpus)
    assert metrics.character_error_rate(*corpus) == jiwer.cer(*corpus)


@many
@given(transcripts)
def test_the_error_rate_of_tokens_counts_all_edits_beside_all_references_as_nltk_and_jiwer_do(corpus):
    references, hypotheses = ([sentence.split() for sentence in side] for side in corpus)
    edits = sum(nltk.edit_distance(*pair) for pair in zip(references, hypotheses, strict=True))
    rate = metrics.token_error_rate(references, hypotheses)
    assert rate == edits / sum(map(len, references)) == jiwer.wer(*corpus)


@given(st.lists(st.tuples(strings, strings), min_size=1, max_size=5))
def test_exact_match_is_the_share_of_pairs_without_an_edit(pairs):
    references, hypotheses = ([list(row) for row in side] for side in zip(*pairs, strict=True))
    untouched = [metrics.edit_distance(*pair) == 0 for pair in pairs]
    assert metrics.exact_match(references, hypotheses) == sum(untouched) / len(pairs)
    arrays = [np.array([*map(ord, reference)]) for reference, _ in pairs]
    assert metrics.exact_match(arrays, [[*map(ord, h)] for h in hypotheses]) == sum(untouched) / len(pairs)


@given(st.lists(strings, min_size=1, max_size=4), strings)
def test_no_right_answer_is_closer_than_the_closest(references, hypothesis):
    distances = [metrics.edit_distance(reference, hypothesis) for reference in references]
    assert metrics.closest(references, hypothesis) == references[distances.index(min(distances))]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: metrics.token_error_rate(["a", "b"], ["a"]), "got 1 for 2"),
        (lambda: metrics.word_error_rate(["", " "], ["a", "b"]), "at least one token"),
        (lambda: metrics.character_error_rate("abc", "abd"), "lists of sequences, got one string"),
        (lambda: metrics.exact_match([], []), "at least one sequence"),
        (lambda: metrics.closest([], "a"), "at least one right answer"),
    ],
)
def test_sequences_that_cannot_be_compared_are_refused_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
