"""Texts with labels: read as they were written, told with the line where broken, and equal ones kept together."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.data.labelled import class_names, held_out_by_hash, numbered, read_csv, read_lines
from tests.strategies import seeds

cheap = settings(max_examples=40)  # nothing is compiled
not_blank = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


def written(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "texts.csv"
    path.write_bytes(text.encode(encoding))
    return path


@cheap
@given(st.lists(st.tuples(not_blank, st.sampled_from(["yes", "no", "何"])), min_size=1, max_size=5))
def test_any_texts_come_back_as_they_were_written(tmp_path_factory, rows):
    out = io.StringIO(newline="")
    csv.writer(out).writerows([("id", "text", "label"), *((i, *row) for i, row in enumerate(rows))])
    path = tmp_path_factory.mktemp("csv") / "texts.csv"
    path.write_bytes(out.getvalue().encode())
    assert list(zip(*read_csv(path), strict=True)) == rows


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030", "utf-16"])
def test_a_file_is_read_in_the_encoding_that_is_named(tmp_path, encoding):
    path = written(tmp_path, "评论;类\n很好;正\n", encoding)
    assert read_csv(path, "评论", "类", encoding.removesuffix("-sig"), ";") == (["很好"], ["正"])


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        ("text,kind\na,b\n", "has no column 'label'; its first line names text, kind"),
        ("", "has no column 'text'; its first line names none"),
        ("text,label\n", "has a header and no row below it"),
        ("text,label\na,b\na,b,c\n", "line 3: a row of as many columns as the header was expected, 2 of them"),
        ("text,label\na\n", "line 2: a row of as many columns"),
        ('text,label\n"a,b\n', "this is no CSV"),
        ("text,label\na,b\n  ,b\n", "line 3: the text is empty"),
        ("text,label\na,\n", "line 2: the label is empty"),
    ],
)
def test_a_broken_file_is_told_with_its_line(tmp_path, contents, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_csv(written(tmp_path, contents))


def test_another_encoding_is_told_with_line_and_byte(tmp_path):
    with pytest.raises(ValueError, match=r"line 2: byte 11 is not utf-8. Name the encoding.*gb18030"):
        read_csv(written(tmp_path, "text,label\n很好,正\n", "gb18030"))
    with pytest.raises(ValueError, match="knows no encoding 'gb'"):
        read_csv(written(tmp_path, "text,label\n"), encoding="gb")


def test_a_text_may_be_longer_than_what_csv_takes_by_default(tmp_path):
    long = "x" * 300_000
    assert read_csv(written(tmp_path, f"text,label\n{long},b\n")).texts == [long]


def test_lines_are_texts_and_an_empty_class_is_refused(tmp_path):
    (tmp_path / "good").write_text("fine\n\n  well \n", "utf-8")
    (tmp_path / "bad").write_text(" \n", "utf-8")
    assert read_lines({"+": tmp_path / "good"}) == (["fine", "well"], ["+", "+"])
    with pytest.raises(ValueError, match=r"The class '-' is empty: .*bad holds no line"):
        read_lines({"+": tmp_path / "good", "-": tmp_path / "bad"})


def test_labels_are_numbered_in_their_order_and_strangers_refused():
    classes = class_names(["b", "a", "c", "a"])
    assert classes == ("a", "b", "c")
    assert numbered(["c", "a"], classes).tolist() == [2, 0]
    assert numbered([], classes).dtype == np.int32
    with pytest.raises(ValueError, match="Label 1 is 'd', which is none of the classes a, b, c"):
        numbered(["a", "d"], classes)
    for one in (["a", "a"], []):
        with pytest.raises(ValueError, match="At least two classes are needed"):
            class_names(one)


@cheap
@given(seeds, st.lists(st.text("abc ", max_size=4), max_size=20), st.floats(0.05, 0.95))
def test_equal_texts_fall_on_one_side_wherever_they_stand(seed, texts, share):
    side = held_out_by_hash(texts, share, seed)
    of_text = {}
    for text, held in zip(texts, side, strict=True):
        assert of_text.setdefault(" ".join(text.split()), held) == held
    np.testing.assert_array_equal(held_out_by_hash(texts[::-1], share, seed), side[::-1])


def test_a_share_of_the_texts_is_held_out_and_another_seed_holds_out_others():
    texts = [str(i) for i in range(4000)]
    one, other = (held_out_by_hash(texts, 0.2, seed) for seed in (0, 1))
    assert abs(one.mean() - 0.2) < 0.02
    assert abs((one & other).mean() - 0.04) < 0.01
    assert (one <= held_out_by_hash(texts, 0.3)).all()
    for share in (0.0, 1.0, 1.5):
        with pytest.raises(ValueError, match="must lie between 0 and 1"):
            held_out_by_hash(texts, share)


def test_a_column_named_twice_is_refused_and_only_line_ends_end_a_line(tmp_path):
    with pytest.raises(ValueError, match="two columns of one name: text, text, label"):
        read_csv(written(tmp_path, "text,text,label\na,b,c\n"))
    (tmp_path / "good").write_bytes("one\u2028line\r\nand\x0canother\n".encode())
    assert read_lines({"+": tmp_path / "good"}).texts == ["one\u2028line", "and\x0canother"]
