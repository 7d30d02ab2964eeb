"""Words: normalising twice is once, splitting loses no letter, numbers lead back to words, Zipf's law is recovered."""

import itertools
import json
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.data import words as words_module
from minilm.data.corpora import documents
from minilm.data.segmentation import LongestMatch, characters
from minilm.data.vocabulary import Vocabulary, draw_zipf, rank_frequency, zipf_exponent
from minilm.data.words import (
    ENGLISH_STOP_WORDS,
    caseless,
    compatible,
    in_order,
    normalise,
    single_spaces,
    without_accents,
    without_stop_words,
    words,
    words_and_marks,
)
from tests.tolerances import FORMULA, SAMPLING, assert_close

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
WORD = st.text("abcdé研究", min_size=1, max_size=3)
EVERY_CHARACTER = "\n".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)

# ── normalisation ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("step", [compatible, caseless, without_accents, single_spaces, normalise])
def test_normalising_every_character_twice_is_normalising_it_once(step):
    once = step(EVERY_CHARACTER)
    assert step(once) == once


@given(TEXT)
def test_normalising_a_text_twice_is_normalising_it_once(text):
    for step in (normalise, in_order(normalise, without_accents), in_order(compatible, single_spaces)):
        assert step(step(text)) == step(text)


def test_what_is_normalised_has_the_compatible_form_and_what_is_folded_has_not():
    once = normalise(EVERY_CHARACTER)
    assert compatible(once) == once
    folded = caseless(compatible(EVERY_CHARACTER))
    assert compatible(folded) != folded


@given(TEXT, st.text(st.characters(max_codepoint=0x17F, exclude_characters="ŉıſİµ")))
def test_what_differs_in_case_or_encoding_alone_is_one_word(text, european):
    assert normalise(unicodedata.normalize("NFD", text)) == normalise(unicodedata.normalize("NFC", text))
    assert normalise(european.upper()) == normalise(european.lower())


def test_accents_go_and_the_marks_that_are_letters_stay():
    assert without_accents("àéîõüçñåøž Ёй") == "aeiouca"[:5] + "cnaøz Еи"
    for text in ("ไทย กำลัง", "हिन्दी", "ですが", "한국어", "עִבְרִית"):
        assert without_accents(text) == unicodedata.normalize("NFC", text)


# ── splitting ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(TEXT)
def test_words_hold_each_letter_and_digit_once_and_in_order(text):
    assert [c for c in "".join(words(text)) if c.isalnum()] == [c for c in text if is_letter_or_number(c)]
    assert Counter("".join(words_and_marks(text))) == Counter("".join(text.split()))
    assert [w for w in words_and_marks(text) if is_letter_or_number(w[0])] == words(text)


def is_letter_or_number(c):
    return unicodedata.category(c)[0] in "LN"


@given(st.lists(TEXT))
def test_words_that_are_joined_by_spaces_are_the_same_words(texts):
    found = words(" ".join(texts))
    assert words(" ".join(found)) == found == list(itertools.chain.from_iterable(map(words, texts)))


def test_stop_words_are_of_closed_classes_and_no_negation():
    listed = [word for text in words_module._CLOSED_CLASSES.values() for word in text.split()]
    assert len(listed) == len(set(listed)) == len(ENGLISH_STOP_WORDS)
    assert all(words(word) == [word] == [normalise(word)] for word in listed)
    assert not ENGLISH_STOP_WORDS & {"no", "not", "nor", "never", "none", "nothing", "isn't", "don't", "good", "film"}
    assert without_stop_words(["To", "be", "or", "not"]) == ["not"]
    assert without_stop_words(["a", "b"], frozenset("b")) == ["a"]


# ── vocabulary ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.lists(WORD)), st.integers(1, 3), st.integers(3, 9) | st.none(), st.booleans())
def test_a_vocabulary_holds_the_most_frequent_and_counts_every_word(texts, min_count, size, padded):
    special = ("<pad>",) * padded
    vocabulary = Vocabulary.count(texts, size, min_count, special)
    counted = Counter(itertools.chain.from_iterable(texts))
    kept = vocabulary.words[1 + padded :]
    assert vocabulary.words[: 1 + padded] == ("<unk>", *special)
    assert vocabulary.counts.sum() == counted.total()
    assert [counted[word] for word in kept] == vocabulary.counts[1 + padded :].tolist()
    assert list(kept) == sorted(kept, key=lambda word: (-counted[word], word))
    left_out = [count for word, count in counted.items() if word not in kept]
    full = size is not None and len(vocabulary) == size
    assert all(count < min_count or (full and count <= counted[kept[-1]]) for count in left_out if kept or not full)
    assert size is None or len(vocabulary) <= size
    known = [word for text in texts for word in text if word in kept]
    assert vocabulary.coverage == (len(known) / counted.total() if counted else 1.0)
    assert vocabulary.decode(vocabulary.encode(known)) == known
    assert vocabulary.encode(["<unk>", "never seen"]).tolist() == [0, 0]
    assert vocabulary.encode([]).shape == (0,)


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"])))), st.integers(1, 2))
def test_a_vocabulary_is_read_as_it_was_saved(tmp_path_factory, texts, min_count):
    path = tmp_path_factory.getbasetemp() / "vocabulary.json"
    vocabulary = Vocabulary.count(texts, min_count=min_count)
    vocabulary.save(path)
    read = Vocabulary.load(path)
    assert read.words == vocabulary.words
    assert (read.counts == vocabulary.counts).all()


def test_the_unknown_of_a_text_is_counted_as_unknown():
    vocabulary = Vocabulary.count([["<unk>", "a", "<unk>", "b", "a"]], size=2)
    assert (vocabulary.words, vocabulary.counts.tolist()) == (("<unk>", "a"), [3, 2])


def test_what_is_no_vocabulary_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / "vocabulary.json"
    with pytest.raises(FileNotFoundError, match=r"There is no vocabulary at .*: `Vocabulary.save` writes one"):
        Vocabulary.load(path)
    good = {"words": ["<unk>", "a"], "counts": [0, 1]}
    for bad, sentence in [
        ("{", "is no vocabulary as"),
        ("[]", "is no vocabulary as"),
        (json.dumps({**good, "counts": [1]}), "2 words, 2 of them different, and 1 counts"),
        (json.dumps({**good, "words": ["a", "a"]}), "2 words, 1 of them different"),
        (json.dumps({**good, "words": [1, 2]}), "its words must be strings and its counts whole numbers"),
        (json.dumps({**good, "counts": [0, -1]}), "its counts whole numbers from 0 on"),
        (json.dumps({**good, "counts": [0, 1.5]}), "its counts whole numbers from 0 on"),
        (json.dumps({**good, "counts": [0, 2**70]}), "is no vocabulary as"),
    ]:
        path.write_text(bad)
        with pytest.raises(ValueError, match=sentence):
            Vocabulary.load(path)
    with pytest.raises(TypeError, match="must be a sequence of words, and here is a string, 'to be'"):
        Vocabulary.count(["to be"])
    with pytest.raises(TypeError, match="give a sequence of words, and not a string"):
        Vocabulary.count([["a"]]).encode("a")
    with pytest.raises(ValueError, match="no room for <unk>, <pad>: give 2 or more"):
        Vocabulary.count([["a"]], size=1, special=("<pad>",))
    with pytest.raises(ValueError, match="must differ from each other"):
        Vocabulary.count([["a"]], special=("<unk>",))
    for i in (-1, 2):
        with pytest.raises(ValueError, match=f"There is no word {i}: the vocabulary's 2 words"):
            Vocabulary.count([["a"]]).decode([i])


# ── Zipf's law ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.floats(0, 4), st.integers(2, 300), st.randoms(use_true_random=False))
def test_the_exponent_of_exact_frequencies_is_found_in_any_order(s, n, random):
    counts = [*(1e3 / np.arange(1, n + 1) ** s).tolist(), 0.0, 0.0]
    random.shuffle(counts)
    assert_close(1 + zipf_exponent(np.array(counts)), 1 + s, FORMULA)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=20))
def test_no_other_exponent_makes_the_text_likelier(counts):
    rank, frequency = rank_frequency(np.array(counts))

    def log_likelihood(s):
        return -s * frequency @ np.log(rank) - frequency.sum() * np.log((rank**-s).sum())

    s = zipf_exponent(np.array(counts))
    assert all(log_likelihood(s) >= log_likelihood(s + step) for step in (-0.3, -0.01, 0.01, 0.3))


def test_the_exponent_of_drawn_words_is_near_that_they_were_drawn_with():
    rank = np.arange(1, 5001)
    for s in (0.8, 1.2):
        p = rank**-s / (rank**-s).sum()
        counts = np.random.default_rng(3).multinomial(100_000, p)
        error = abs(zipf_exponent(counts) - s)
        assert error < SAMPLING
        rank_seen, frequency = rank_frequency(counts)
        line = -np.polyfit(np.log(rank_seen), np.log(frequency), 1)[0]
        assert abs(line - s) > 2 * error  # the steps of the tail bend a line of least squares


def test_zipfs_law_needs_two_words():
    assert zipf_exponent(np.array([5, 5, 5])) < SAMPLING
    with pytest.raises(ValueError, match="there are 1 here that occur: give at least two"):
        zipf_exponent(np.array([5, 0]))


def test_the_words_of_the_default_corpus_follow_zipfs_law():
    texts = [words(normalise(text)) for text, _ in zip(documents("prose"), range(120), strict=False)]
    vocabulary = Vocabulary.count(texts)
    assert vocabulary.words[1] == "the"
    assert 0.85 < zipf_exponent(vocabulary.counts[1:]) < 1.05
    assert Vocabulary.count(texts, size=1000).coverage > 0.8


# ── Chinese ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(WORD), st.text("abcdé研究 "))
def test_at_each_place_stands_the_longest_word_or_one_character(dictionary, text):
    found = LongestMatch(dictionary)(text)
    assert "".join(found) == text.replace(" ", "")
    place = 0
    for word in found:
        while text[place] == " ":
            place += 1
        stretch = text[place:].split(" ")[0]
        assert len(word) == max([len(w) for w in dictionary if stretch.startswith(w)], default=1)
        place += len(word)


def test_without_longer_words_the_words_are_the_characters():
    text = "研究生命 起源。"
    assert LongestMatch([])(text) == LongestMatch(list("研究"))(text) == characters(text) == list("研究生命起源。")
    with pytest.raises(TypeError, match="A dictionary is a list of words, and here is a string, '研究'"):
        LongestMatch("研究")


def test_the_counts_are_drawn_over_their_ranks_beside_the_law(tmp_path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    drawn = []
    monkeypatch.setattr(plt, "close", lambda figure: drawn.extend(figure.axes[0].lines))
    counts = np.round(1e6 / np.arange(1, 50) ** 1.2)[::-1]
    draw_zipf({"made up": counts}, tmp_path / "zipf.png")
    points, law = drawn
    np.testing.assert_array_equal(points.get_ydata(), counts[::-1])
    assert points.get_label() == "made up, s = 1.20"
    assert np.abs(law.get_ydata() / points.get_ydata() - 1).max() < 0.01
    assert (tmp_path / "zipf.png").read_bytes().startswith(b"\x89PNG")
