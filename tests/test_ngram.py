"""Kneser-Ney by sorting against Kneser-Ney by dictionaries, and what every language model owes."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.data.token_file import write_tokens
from minilm.data.tokenizers import ByteTokenizer
from minilm.models import ngram
from tests.tolerances import FORMULA, assert_close

V = 7
texts = st.lists(st.integers(0, V - 2), min_size=6, max_size=60).map(np.array)  # token 6 is never seen
orders = st.sampled_from([1, 2, 3, 5])


@given(texts, orders, st.lists(st.integers(0, V - 1), max_size=6).map(lambda ids: np.array(ids, int)))
def test_probabilities_sum_to_one_after_any_context(tokens, order, context):
    p = ngram.distribution(ngram.fit(tokens, order, V), context)
    assert (p > 0).all()
    assert_close(p.sum(), 1.0, FORMULA)


@given(texts, orders, st.lists(st.integers(0, V - 1), min_size=1, max_size=20).map(np.array))
def test_counting_by_sorting_equals_counting_by_dictionaries(tokens, order, sequence):
    reference = DictionaryKneserNey(tokens.tolist(), order)
    expected = [np.log(reference.probability(w, tuple(sequence[:i].tolist()))) for i, w in enumerate(sequence.tolist())]
    assert_close(ngram.log_probability(ngram.fit(tokens, order, V), sequence), np.array(expected), FORMULA)


@given(texts, orders, st.lists(st.integers(0, V - 1), min_size=1, max_size=9).map(np.array))
def test_a_sequence_has_the_probabilities_of_its_distributions(tokens, order, sequence):
    model = ngram.fit(tokens, order, V)
    expected = [np.log(ngram.distribution(model, sequence[:i])[w]) for i, w in enumerate(sequence)]
    assert_close(ngram.log_probability(model, sequence), np.array(expected), FORMULA)


@given(texts, st.integers(0, 2**31 - 1))
def test_renaming_tokens_renames_their_probabilities(tokens, seed):
    names = np.random.default_rng(seed).permutation(V)
    original, renamed = ngram.fit(tokens, 3, V), ngram.fit(names[tokens], 3, V)
    assert_close(ngram.log_probability(renamed, names[tokens]), ngram.log_probability(original, tokens), FORMULA)


def test_longer_contexts_and_the_right_answer_beat_shorter_ones(tmp_path):
    documents = [f"{a} and {b} are {a + b} in all. " * 5 for a in range(12) for b in range(12)]
    tokenizer = ByteTokenizer()
    train = write_tokens(documents[::2], tokenizer, tmp_path / "train")
    validation = write_tokens(documents[1::2], tokenizer, tmp_path / "validation")
    bits = ngram.baselines(["unigram", "bigram", "5-gram", "xz"], train, validation, tokenizer)
    assert 8 > bits["unigram"] > bits["bigram"] > bits["5-gram"] > 0
    assert bits["xz"] > 0


def test_a_uniform_guess_costs_the_logarithm_of_the_vocabulary(tmp_path):
    tokenizer = ByteTokenizer()
    tokens = write_tokens(["ab", "cde"], tokenizer, tmp_path / "tokens")
    # Five bytes and two ends are targets, and five bytes are divided by.
    assert_close(tokens.bits_per_byte(np.log(256)), 8 * 7 / 5, FORMULA)


def test_unknown_baselines_and_ids_out_of_range_are_named(tmp_path):
    tokenizer = ByteTokenizer()
    tokens = write_tokens(["some text"], tokenizer, tmp_path / "tokens")
    with pytest.raises(ValueError, match="no baseline called 'transformer'"):
        ngram.baselines(["transformer"], tokens, tokens, tokenizer)
    with pytest.raises(ValueError, match="must lie between 0 and 6, but run from 3 to 7"):
        ngram.fit(np.array([3, 7]), 1, V)
    with pytest.raises(ValueError, match="as many tokens or more"):
        ngram.fit(np.array([3, 5]), 3, V)


class DictionaryKneserNey:
    """The same model straight from its formula: tuples, dictionaries and sets."""

    def __init__(self, tokens, order):
        self.counts = {}  # by order, then by n-gram
        for k in range(1, order + 1):
            occurrences = [tuple(tokens[i : i + k]) for i in range(len(tokens) - k + 1)]
            if k == order:
                self.counts[k] = Counter(occurrences)
            else:
                before = defaultdict(set)
                for i in range(len(tokens) - k):
                    before[tuple(tokens[i + 1 : i + 1 + k])].add(tokens[i])
                self.counts[k] = {gram: len(before[gram]) for gram in occurrences}

    def probability(self, w, history, k=None):
        k = min(len(self.counts), len(history) + 1) if k is None else k
        if k == 0:
            return 1 / V
        h = history[len(history) - (k - 1) :]
        followers = {gram[-1]: c for gram, c in self.counts[k].items() if gram[:-1] == h and c > 0}
        lower = self.probability(w, history, k - 1)
        if not followers:
            return lower
        once, twice = (sum(c == times for c in self.counts[k].values()) for times in (1, 2))
        D = (once + 0.5) / (once + 2 * twice + 1)
        total = sum(followers.values())
        return max(followers.get(w, 0) - D, 0) / total + D * len(followers) / total * lower
