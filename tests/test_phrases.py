"""Phrases: gensim finds the same, by the same formula, pass by pass."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.data import phrases
from tests.strategies import seeds

cheap = settings(max_examples=25)  # nothing is compiled


def texts_of(seed):
    """Words of which some like to stand together."""
    rng = np.random.default_rng(seed)
    habit = {"a": "b", "c": "d", "b": "c"}
    texts = []
    for length in rng.integers(0, 15, 30):
        text = []
        for word in rng.choice(list("abcdefgh"), length):
            follows = text and text[-1] in habit and rng.random() < 0.5
            text.append(habit[text[-1]] if follows else str(word))
        texts.append(text)
    return texts


@cheap
@given(seeds, st.sampled_from([1.0, 3.0]), st.sampled_from([0.5, 1.0, 2.0]))
def test_gensim_joins_the_same_words_at_the_same_scores(seed, discount, threshold):
    theirs = pytest.importorskip("gensim.models.phrases")
    texts = texts_of(seed)
    model = theirs.Phrases(texts, min_count=discount, threshold=threshold, delimiter="_")
    found = phrases.find(texts, discount, threshold)
    assert {"_".join(pair): score for pair, score in found.items()} == pytest.approx(model.export_phrases())
    assert [phrases.join(text, found) for text in texts] == [model[text] for text in texts]


def test_the_score_is_the_papers_times_the_number_of_words_and_pairs():
    texts = [["a", "b", "c"], ["a", "b"], ["a", "b", "a"]]
    score = phrases.find(texts, discount=1.0, threshold=0.1)["a", "b"]
    assert math.isclose(score, (3 - 1) / (4 * 3) * (3 + 3))


def test_a_pair_across_two_texts_or_no_more_frequent_than_the_discount_is_no_phrase():
    assert phrases.find([["x", "a"], ["b", "y"]] * 9, 5.0, 0.0).keys() == {("x", "a"), ("b", "y")}
    assert not phrases.find([["a", "b"]] * 5, 5.0, -1.0)


def test_words_are_joined_from_left_to_right_and_once():
    found = {("a", "b"): 1.0, ("b", "c"): 2.0}
    assert phrases.join(["a", "b", "c", "a", "b"], found) == ["a_b", "c", "a_b"]
    assert phrases.join(["a", "b"], found, by=" ") == ["a b"]
    assert phrases.join([], found) == []


def test_each_pass_joins_what_the_last_has_joined_at_half_the_threshold():
    texts = [["a", "b", "c"]] * 3 + [["b"], ["x"]]
    once = [phrases.join(text, phrases.find(texts, 1.0, 0.5)) for text in texts]
    assert phrases.passes(texts, 1, 1.0, 0.5) == once
    found = phrases.find(once, 1.0, 0.25)
    assert phrases.passes(texts, 2, 1.0, 0.5) == [phrases.join(text, found) for text in once]
    assert phrases.passes(texts, 2, 1.0, 0.5)[0] == ["a_b_c"]
    assert texts[0] == ["a", "b", "c"]
