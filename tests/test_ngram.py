"""Counting by sorting against counting by dictionaries, and what every language model owes."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.models import ngram
from tests.tolerances import FORMULA, assert_close

V = 7
texts = st.lists(st.integers(0, V - 2), min_size=6, max_size=60).map(np.array)  # token 6 is never seen
contexts = st.lists(st.integers(0, V - 1), max_size=6).map(lambda ids: np.array(ids, int))
sequences = st.lists(st.integers(0, V - 1), min_size=1, max_size=20).map(np.array)
orders = st.sampled_from([1, 2, 3, 5])
KINDS = {
    "add-k": lambda tokens, order: ngram.add_k(tokens, order, V, 0.3),
    "backoff": lambda tokens, order: ngram.backoff(tokens, order, V),
    "Kneser-Ney": lambda tokens, order: ngram.kneser_ney(tokens, order, V),
    "Kneser-Ney, given discounts": lambda tokens, order: ngram.kneser_ney(tokens, order, V, (0.1, 0.9, 0.5, 0.4, 0.2)),
    "modified Kneser-Ney": lambda tokens, order: ngram.modified_kneser_ney(tokens, order, V),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
cheap = settings(max_examples=40)  # nothing is compiled


@every_kind
@cheap
@given(texts, orders, contexts)
def test_probabilities_sum_to_one_after_any_context(kind, tokens, order, context):
    p = ngram.distribution(KINDS[kind](tokens, order), context)
    assert (p > 0).all()
    assert_close(p.sum(), 1.0, FORMULA)


@every_kind
@cheap
@given(texts, orders, sequences)
def test_counting_by_sorting_equals_counting_by_dictionaries(kind, tokens, order, sequence):
    by_hand = ByDictionaries(tokens.tolist(), order, kind)
    expected = [math.log(by_hand.probability(w, tuple(sequence[:i].tolist()))) for i, w in enumerate(sequence.tolist())]
    assert_close(ngram.log_probability(KINDS[kind](tokens, order), sequence), np.array(expected), FORMULA)


@every_kind
@cheap
@given(texts, orders, sequences)
def test_a_sequence_has_the_probabilities_of_its_distributions(kind, tokens, order, sequence):
    model = KINDS[kind](tokens, order)
    expected = [np.log(ngram.distribution(model, sequence[:i])[w]) for i, w in enumerate(sequence)]
    assert_close(ngram.log_probability(model, sequence), np.array(expected), FORMULA)
    assert_close(ngram.perplexity(model, sequence), np.exp(-np.mean(expected)), FORMULA)


@every_kind
@given(texts, st.integers(0, 2**31 - 1))
def test_renaming_tokens_renames_their_probabilities(kind, tokens, seed):
    names = np.random.default_rng(seed).permutation(V)
    original, renamed = KINDS[kind](tokens, 3), KINDS[kind](names[tokens], 3)
    assert_close(ngram.log_probability(renamed, names[tokens]), ngram.log_probability(original, tokens), FORMULA)


@settings(max_examples=5)
@given(st.integers(0, 2**31 - 1), st.sampled_from([2, 3]), st.sampled_from([0.1, 0.75]))
def test_kneser_ney_has_the_perplexity_of_nltk_at_the_same_discount(seed, order, discount):
    lm = pytest.importorskip("nltk.lm")
    everygrams = pytest.importorskip("nltk.util").everygrams
    rng = np.random.default_rng(seed)
    train, test = rng.choice(V, 120, p=np.arange(1, V + 1) / 28), rng.choice(V, 30)
    theirs = lm.KneserNeyInterpolated(order, discount=discount)
    vocabulary = lm.Vocabulary(list(map(str, range(V))), unk_cutoff=1)
    theirs.fit([everygrams(list(map(str, train)), max_len=order)], vocabulary)
    ours = ngram.kneser_ney(train, order, V, (0.0, *[discount] * (order - 1)))  # NLTK's unigrams have no discount
    grams = [tuple(map(str, test[max(0, i - order + 1) : i + 1])) for i in range(len(test))]
    assert_close(ngram.perplexity(ours, test), theirs.perplexity(grams), FORMULA)


def test_a_text_of_every_count_has_three_discounts_and_a_small_one_has_one():
    counts = np.array([1] * 20 + [2] * 8 + [3] * 4 + [4] * 2 + [9])
    Y = 20 / (20 + 2 * 8)
    expected = [0, 1 - 2 * Y * 8 / 20, 2 - 3 * Y * 4 / 8, 3 - 4 * Y * 2 / 4]
    assert_close(ngram._discounts(counts), np.array(expected), FORMULA)
    assert_close(ngram._discounts(counts[:28]), np.array([0, *[20.5 / 37] * 3]), FORMULA)


def test_backing_off_ends_where_every_token_was_seen():
    tokens = np.array([0, 0, 1, 0, 1, 1, 0])
    assert_close(ngram.distribution(ngram.backoff(tokens, 2, 2), tokens[:1]), np.array([1 / 3, 2 / 3]), FORMULA)


def test_what_is_generated_was_seen_where_nothing_is_left_for_what_was_not():
    text = np.frombuffer(b"the cat sat on the mat and the rat sat on the cat", np.uint8)
    model = ngram.kneser_ney(text, 3, 256, discounts=(0.0, 0.0, 0.0))
    written = ngram.generate(model, text[:2], 40, np.random.default_rng(0))
    seen = {tuple(text[i : i + 3]) for i in range(len(text) - 2)}
    whole = np.concatenate([text[:2], written])
    assert len(written) == 40
    assert all(tuple(whole[i : i + 3]) in seen for i in range(40))
    assert (ngram.generate(model, text[:2], 40, np.random.default_rng(0)) == written).all()


@every_kind
@pytest.mark.parametrize("length", range(6))
def test_what_is_generated_hears_all_of_its_history(kind, length):
    rng = np.random.default_rng(3)
    model, prompt = KINDS[kind](rng.integers(0, V, 400), 5), rng.integers(0, V, length)
    drawn = [ngram.generate(model, prompt, 1, np.random.default_rng(seed))[0] for seed in range(40)]
    p = ngram.distribution(model, prompt)
    assert drawn == [np.random.default_rng(seed).choice(V, p=p / p.sum()) for seed in range(40)]


def test_ids_out_of_range_and_texts_too_short_are_named():
    with pytest.raises(ValueError, match="must lie between 0 and 6, but run from 3 to 7"):
        ngram.kneser_ney(np.array([3, 7]), 1, V)
    with pytest.raises(ValueError, match="as many tokens or more"):
        ngram.backoff(np.array([3, 5]), 3, V)
    with pytest.raises(ValueError, match="k must be greater than 0"):
        ngram.add_k(np.array([3, 5]), 2, V, 0.0)
    for discounts in [(0.5,), (0.5, 1.5), (-0.1, 0.5)]:
        with pytest.raises(ValueError, match="between 0 and 1 is needed for each of 2 orders"):
            ngram.kneser_ney(np.array([3, 5]), 2, V, discounts)


@every_kind
def test_the_bytes_of_a_text_are_tokens(kind):
    fit, text = KINDS[kind], bytes([1, 2, 3, 1, 2, 4])
    tokens = np.frombuffer(text, np.uint8)
    assert ngram.perplexity(fit(text, 2), text) == ngram.perplexity(fit(tokens, 2), tokens)


class ByDictionaries:
    """The same models straight from their formulas: tuples, dictionaries and sets."""

    def __init__(self, tokens, order, kind):
        self.kind, self.counts = kind, {}  # by order, then by n-gram
        for k in range(1, order + 1):
            occurrences = [tuple(tokens[i : i + k]) for i in range(len(tokens) - k + 1)]
            self.counts[k] = Counter(occurrences)
            if "Kneser" in kind and k < order:
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
        if self.kind == "add-k":
            if k < len(self.counts):
                return 1 / V
            return (followers.get(w, 0) + 0.3) / (sum(followers.values()) + 0.3 * V)
        if not followers:
            return self.probability(w, history, k - 1)
        total = sum(followers.values())
        D = {v: self.discount(c, k) for v, c in followers.items()}
        if self.kind == "backoff":
            unseen = 1 - sum(self.probability(v, history, k - 1) for v in followers)
            if w in followers:
                return (followers[w] - D[w]) / total
            return sum(D.values()) / total / unseen * self.probability(w, history, k - 1)
        kept = max(followers.get(w, 0) - D.get(w, 0), 0)
        return kept / total + sum(D.values()) / total * self.probability(w, history, k - 1)

    def discount(self, c, k):
        if "given" in self.kind:
            return (0.1, 0.9, 0.5, 0.4, 0.2)[k - 1]
        n = [sum(c == times for c in self.counts[k].values()) for times in range(5)]
        if "modified" in self.kind and all(n[1:]):
            Y, j = n[1] / (n[1] + 2 * n[2]), min(c, 3)
            return min(max(j - (j + 1) * Y * n[j + 1] / n[j], 0), j)
        D = (n[1] + 0.5) / (n[1] + 2 * n[2] + 1)
        return min(D, c)
