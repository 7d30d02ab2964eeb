"""Tagged texts: what is read, what is refused and where, when two words are one person, which steps spell spans."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.data import tagged
from minilm.data.tagged import KINDS, PLACES, Token
from minilm.metrics.spans import Span, bioes_spans, bioes_tags, lenient_spans

forms = st.text("江泽民在北京，。！/", min_size=1, max_size=4)
lines = st.lists(st.lists(st.builds(Token, forms, st.sampled_from(["nr", "ns", "w"])), max_size=5), max_size=4)


def written(tmp_path, text, encoding="utf-8"):
    (tmp_path / "tagged.txt").write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return tmp_path / "tagged.txt"


@given(texts=lines, end=st.sampled_from(["\n", ""]), encoding=st.sampled_from(["utf-8", "utf-8-sig", "gb18030"]))
def test_what_is_written_is_read_whatever_the_encoding_and_the_last_newline(tmp_path_factory, texts, end, encoding):
    text = "\n".join("  ".join("/".join(token) for token in tokens) for tokens in texts) + end
    path = written(tmp_path_factory.mktemp("tagged"), text, encoding)
    found = tagged.read(path, KINDS, encoding="utf-8" if "utf-8" in encoding else encoding)
    assert found == (texts or [[]]) or (not end and not texts[-1] and found == texts[:-1])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("江/nr\n泽民nr\n", "Line 2 of .* has '泽民nr' where a form, a slash and a tag were expected: mend it"),
        ("/nr", "Line 1 of .* has '/nr' where a form"),
        ("江/", "Line 1 of .* has '江/' where a form"),
        (
            "\n[中央/n 电视台/n]nt",
            r"Line 2 of .* has the tag 'n\]nt' \(in '电视台/n\]nt'\), which is none of .*nr, ns, nt",
        ),
        (
            "江/nr\n\n泽民/nr".encode("gb18030"),
            "line 1: byte 0 is not utf-8. Name the encoding.*gb18030",
        ),
        ("江/nr\n\n".encode() + b"\xff", "line 3: byte 8 is not utf-8"),
    ],
)
def test_a_broken_line_is_refused_in_a_sentence_with_its_number(tmp_path, text, match):
    with pytest.raises(ValueError, match=match):
        tagged.read(written(tmp_path, text), KINDS)


def test_any_tag_is_one_where_none_are_named_and_a_form_may_hold_a_slash(tmp_path):
    assert tagged.read(written(tmp_path, "１/２/m\tx/new\r\n")) == [[Token("１/２", "m"), Token("x", "new")]]


@given(st.lists(st.text("生命短", min_size=1, max_size=4)))
def test_characters_and_their_places_make_up_the_words(words):
    places = {1: "s", 2: "be", 3: "bme", 4: "bmme"}
    characters = [Token(c, p) for word in words for c, p in zip(word, places[len(word)], strict=True)]
    assert {place for _, place in characters} <= PLACES
    assert tagged.words_of(characters) == words


@pytest.mark.parametrize(
    ("run", "names"),
    [
        ("江 泽民", "江泽民"),
        ("江 泽民 李 鹏 乔 石", "江泽民 李鹏 乔石"),
        ("欧阳 修", "欧阳修"),
        ("江", "江"),
        ("小平", "小平"),
        ("卡洛斯 阿拉法特", "卡洛斯 阿拉法特"),
        ("永华 贺 广华", "永华 贺广华"),
        ("焦 秋生 银春", "焦秋生 银春"),
        ("陈 方 安生", "陈方安生"),
        ("陈 方 安生 李 鹏", "陈方 安生 李鹏"),  # the rule sees runs of three alone
        ("李 鹏 江", "李鹏 江"),
    ],
)
def test_a_surname_takes_the_given_name_behind_it(run, names):
    around = [Token("在", "p")], [Token("说", "v")]
    tokens = [*around[0], *(Token(form, "nr") for form in run.split()), *around[1]]
    merged = tagged.merge_names(tokens)
    assert merged == [*around[0], *(Token(name, "nr") for name in names.split()), *around[1]]
    assert tagged.merge_names(tokens[1:-1]) == merged[1:-1]


@given(lines)
def test_merging_changes_neither_the_text_nor_what_is_no_person(texts):
    for tokens in texts:
        merged = tagged.merge_names(tokens)
        assert tagged.text_of(merged) == tagged.text_of(tokens)
        assert [t for t in merged if t.tag != "nr"] == [t for t in tokens if t.tag != "nr"]


@given(lines)
def test_entities_stand_where_their_words_do(texts):
    for tokens in texts:
        text, named = tagged.text_of(tokens), [t for t in tokens if t.tag in tagged.ENTITIES]
        spans = tagged.entity_spans(tokens)
        assert [(text[s.start : s.stop], s.type) for s in spans] == [(t.form, tagged.ENTITIES[t.tag]) for t in named]
    assert tagged.entity_spans([]) == []


@given(lines, st.integers(1, 9))
def test_sentences_are_the_text_end_where_one_ends_and_are_short_unless_a_word_is_long(texts, longest):
    for tokens in texts:
        cut = tagged.sentences(tokens, longest)
        assert [token for sentence in cut for token in sentence] == tokens
        assert all(cut)
        for sentence in cut:
            assert len(tagged.text_of(sentence)) <= longest or len(sentence) == 1
            assert not any(token.form in "。！？；" for token in sentence[:-1])


def test_the_same_text_has_the_same_part_and_the_parts_are_about_even():
    parts = np.bincount([tagged.part_of(f"第{i}行") for i in range(9000)], minlength=10)
    assert len(parts) == 10
    assert parts.min() > 800
    assert tagged.part_of("江泽民") == tagged.part_of("江泽民") < 10
    assert {tagged.part_of(f"{i}", 2) for i in range(20)} == {0, 1}


@given(st.text("新世纪", max_size=5))
def test_each_place_has_its_character_between_its_pairs(text):
    places = tagged.characters_and_pairs(text)
    assert "".join(character for character, _, _ in places) == text
    assert all(left[1] == character == right[0] for character, left, right in places)
    assert all(a[2] == b[1] for a, b in pairwise(places))
    assert not text or (places[0][1][0], places[-1][2][1]) == ("\n", "\n")


TAGS = ["O", *(f"{place}-{kind}" for kind in ("PER", "LOC") for place in "BIES")]


@given(st.lists(st.sampled_from(TAGS), min_size=1, max_size=6))
def test_what_is_allowed_is_what_spells_whole_spans(tags):
    steps, numbers = tagged.allowed_steps(TAGS), [TAGS.index(tag) for tag in tags]
    allowed = steps.start[numbers[0]] and steps.end[numbers[-1]]
    allowed = allowed and steps.transitions[numbers[:-1], numbers[1:]].all()
    assert allowed == (bioes_tags(bioes_spans(tags), len(tags)) == tags)
    if allowed:
        assert bioes_spans(tags) == lenient_spans(tags)


def test_bmes_is_bioes_without_an_outside():
    steps = tagged.allowed_steps([*"BMES"])
    assert steps.transitions.astype(int).tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1]]
    assert (steps.start.tolist(), steps.end.tolist()) == ([True, False, False, True], [False, False, True, True])
    assert bioes_spans([*"BME"]) == [Span(0, 3, "")]
    with pytest.raises(ValueError, match="begin with B, I, M, E, S or O, and here is 'X'"):
        tagged.allowed_steps(["B", "X"])


def test_no_sentence_is_longer_than_asked_but_for_one_word():
    words = ["一", "，", "二三四五六七八九", "甲乙丙", "丁", "，", "壹贰叁肆伍陆柒捌玖拾佰仟"]
    tokens = [Token(form, "n") for form in words]
    cut = tagged.sentences(tokens, 10)
    assert [token for sentence in cut for token in sentence] == tokens
    assert all(len(sentence) == 1 or len(tagged.text_of(sentence)) <= 10 for sentence in cut)
