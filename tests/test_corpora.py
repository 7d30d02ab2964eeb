"""Corpora: the same documents every time, bad input named in a sentence, and nothing held out that was also read."""

import io
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.baselines import xz_bits_per_byte
from minilm.config import DataConfig
from minilm.data import corpora
from minilm.data import held_out as held_out_module
from minilm.data.corpora import documents
from minilm.data.held_out import _shingles, held_out, near_duplicates
from minilm.data.preparation import prepare
from minilm.data.spool import Spool
from minilm.data.token_file import open_tokens, write_tokens
from minilm.data.tokenizers import BPETokenizer, ByteTokenizer


def essay(seed, n_words=150):
    """Words that no other essay has."""
    letters = np.random.default_rng(seed).choice(list("abcdefghijklmnopqrstuvwxyz"), (n_words, 6))
    return " ".join("".join(word) for word in letters) + ".\n"


@pytest.fixture(scope="module")
def prose():
    return list(documents("prose"))


def test_the_prose_is_english_and_enough_of_it(prose):
    text = "".join(prose)
    assert len(text) > 1_500_000
    assert ">>>" not in text
    letters = sum(c.isascii() and (c.isalpha() or c == " ") for c in text) / len(text)
    assert letters > 0.9
    assert prose[0].startswith("Assert statements are a convenient way")


def test_documents_come_in_the_same_order_every_time(prose, tmp_path):
    assert [text for text, _ in zip(documents("prose"), range(40), strict=False)] == prose[:40]
    for name in ("b", "a", "c/d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert list(documents(str(tmp_path))) == ["a", "b", "c/d"]
    assert list(documents(str(tmp_path / "**" / "[ad]"))) == ["a", "c/d"]


@pytest.mark.parametrize("mark", ["\n\n", "\n"])
def test_a_short_file_too_is_documents_of_which_some_can_be_held_out(tmp_path, mark):
    (tmp_path / "short.txt").write_text(mark.join(essay(i, 30) for i in range(40)))
    read = list(documents(str(tmp_path / "short.txt")))
    assert 10 <= len(read) <= 20
    assert all(len(document) >= 100 and document.endswith(mark) for document in read[:-1])
    assert 0 < held_out(read).sum() < len(read) / 4


def test_code_is_python_source():
    first = next(documents("code"))
    compile(first, "first", "exec")


@given(st.text(st.characters(exclude_characters="\r\x00", exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_pieces_of_any_size_make_up_the_file(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "text"
    path.write_bytes(text.encode())
    block, corpora.BLOCK, stretch, corpora.STRETCH = corpora.BLOCK, 3, corpora.STRETCH, 5
    try:
        assert "".join(documents(str(path))) == text.removeprefix("\ufeff")
    finally:
        corpora.BLOCK, corpora.STRETCH = block, stretch


def test_one_file_is_cut_at_empty_lines_into_documents(tmp_path):
    paragraphs = "\n\n".join(essay(i, 400) for i in range(40))
    path = tmp_path / "book.txt"
    path.write_text(paragraphs)
    cut = list(documents(str(path)))
    assert "".join(cut) == paragraphs
    assert len(cut) > 4
    assert all(text.endswith("\n\n") for text in cut[:-1])


def test_standard_input_and_other_encodings_are_read(monkeypatch):
    text = "你好，世界。\r\n第二行\r"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode("gb18030"))))
    assert list(documents("-", "gb18030")) == ["你好，世界。\n第二行\n"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode("utf-16"))))
    assert list(documents("-", "utf-16")) == ["你好，世界。\n第二行\n"]


def test_bad_input_is_named_in_a_sentence(tmp_path, monkeypatch):
    def refused(contents, error, sentence, encoding="utf-8"):
        path = tmp_path / "input.txt"
        path.write_bytes(contents)
        with pytest.raises(error, match=sentence):
            list(documents(str(path), encoding))

    refused(b"", ValueError, r"input.txt is empty; give a file that holds text")
    refused(b"PK\x03\x04\x00", ValueError, r"input.txt is binary: byte 4 is zero")
    refused("ab漢字".encode("gb18030"), ValueError, r"input.txt is not utf-8: byte 2 .*for example gb18030")
    refused(b"abc\xff\xff", ValueError, r"input.txt is not gb18030: byte 3", "gb18030")
    refused("é".encode()[:1], ValueError, r"input.txt is not utf-8: byte 0 \(unexpected end of data\)")
    where = r"its bytes spell no text in it|byte 1 \(Invalid extended code point '32'\)"  # Python 3.13 says the place
    refused(b"a few words", ValueError, rf"input.txt is not punycode: ({where})\. Name", "punycode")
    refused(b"abc", ValueError, "no encoding of text called 'klingon'", "klingon")
    refused(b"abc", ValueError, "no encoding of text called 'base64'", "base64")
    for nothing in (b"", b" \n\t\n"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(nothing)))
        with pytest.raises(ValueError, match="Standard input is empty, or white space alone; pipe a text into it"):
            list(documents("-"))
    monkeypatch.setattr(corpora, "BLOCK", 4)
    refused(b"abc\xe6\xbc\xa2\xe6(", ValueError, r"input.txt is not utf-8: byte 6")
    with pytest.raises(FileNotFoundError, match=r"no file, folder or match for 'nowhere\*'"):
        list(documents("nowhere*"))
    with pytest.raises(ValueError, match="/dev/null is neither a file nor a folder: give its text by standard input"):
        list(documents("/dev/null"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="name of the corpus is empty"):
        documents("")
    with pytest.raises(FileNotFoundError, match="holds no files"):
        list(documents(str(tmp_path / "empty")))


def test_of_no_documents_none_are_near_duplicates_and_none_can_be_held_out():
    assert near_duplicates([]).tolist() == []
    with pytest.raises(ValueError, match=r"Nothing can be held out: the 0 document\(s\)"):
        held_out([])


def test_near_duplicates_have_one_group_and_others_their_own():
    originals = [essay(i) for i in range(20)]
    copies = [essay(i).upper().replace(" ", "\n") for i in range(5)]
    half = [originals[7][: len(originals[7]) // 2] + essay(99)]
    group = near_duplicates([*originals, *copies, *half])
    assert group[20:25].tolist() == group[:5].tolist()
    assert group[25] == group[7]
    assert len(np.unique(group[:20])) == 20


def test_held_out_text_is_compressed_no_better_by_who_knows_the_training_text():
    texts = [essay(i % 60) + essay(1000 + i) for i in range(120)]  # each document shares its first half with another
    out = held_out(texts, 0.2, seed=1)
    train, validation = (
        "".join(text for text, o in zip(texts, out, strict=True) if o == side).encode() for side in (False, True)
    )
    assert xz_bits_per_byte(validation, given=train) > 0.93 * xz_bits_per_byte(validation)
    leaking = np.arange(120) < 24
    train, validation = (
        "".join(text for text, o in zip(texts, leaking, strict=True) if o == side).encode() for side in (False, True)
    )
    assert xz_bits_per_byte(validation, given=train) < 0.7 * xz_bits_per_byte(validation)


def test_hardly_a_stretch_of_the_held_out_prose_stands_in_the_training_prose(prose):
    out = held_out(prose)
    assert 0.09 < sum(len(text) for text, o in zip(prose, out, strict=True) if o) / sum(map(len, prose)) <= 0.1
    train, validation = (
        np.unique(np.concatenate([_shingles(text) for text, o in zip(prose, out, strict=True) if o == side]))
        for side in (False, True)
    )
    assert np.isin(validation, train).mean() < 0.03


@given(st.integers(0, 2**31 - 1), st.permutations(range(12)))
def test_what_is_held_out_depends_on_content_and_seed_not_on_order(seed, order):
    texts = [essay(i % 9) for i in range(12)]
    out = held_out(texts, 0.3, seed)
    assert out.any()
    assert not out.all()
    assert held_out([texts[i] for i in order], 0.3, seed).tolist() == out[list(order)].tolist()


def test_a_corpus_of_one_document_cannot_be_split():
    with pytest.raises(ValueError, match="Nothing can be held out"):
        held_out([essay(0), essay(0)])
    with pytest.raises(ValueError, match="between 0 and 1, but is 1"):
        held_out(["a", "b"], fraction=1.0)


def test_tokens_on_disk_are_the_documents_between_ends(tmp_path):
    texts = ["one ", "", "trois é<|endoftext|>"]
    for tokenizer in (ByteTokenizer(), BPETokenizer.train(texts, 260)):
        written = write_tokens(texts, tokenizer, tmp_path / "tokens")
        read = open_tokens(tmp_path / "tokens")
        end = [tokenizer.end_of_text]
        expected = end + [i for text in texts for i in tokenizer.encode(text).tolist() + end]
        assert written.tokens.tolist() == read.tokens.tolist() == expected
        assert isinstance(read.tokens, np.memmap)
        assert read[1:] == (len("".join(texts).encode()), 3, tokenizer.vocab_size)


def test_damaged_tokens_are_named_in_a_sentence(tmp_path):
    path = tmp_path / "tokens"
    write_tokens(["some text"], ByteTokenizer(), path)
    contents, about = path.read_bytes(), (tmp_path / "tokens.json").read_text()
    path.write_bytes(contents[:-1])
    with pytest.raises(
        ValueError, match=r"has 21 bytes, but .* promises 11 tokens of 2 bytes: .*\. Restore it, or train"
    ):
        open_tokens(path)
    path.write_bytes(contents)
    (tmp_path / "tokens.json").write_text(about.replace("<u2", "<f2"))
    with pytest.raises(ValueError, match="dtype float16, where"):
        open_tokens(path)
    (tmp_path / "tokens.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no description of tokens .*: restore it, or train anew\.$"):
        open_tokens(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no .*: restore it, or train anew\.$"):
        open_tokens(path)
    with pytest.raises(ValueError, match="no text to write tokens of"):
        write_tokens(["", ""], ByteTokenizer(), path)


@pytest.mark.parametrize(("tokenizer", "table"), [("byte", 0), ("char", 4 * 0x110000), ("bpe", 0)])
def test_a_corpus_may_exceed_memory(tokenizer, table, tmp_path, monkeypatch):
    """Of its words, of which those of a language are few, a tokenizer learns its own by counting them."""
    lexicon = essay(0, 1000).removesuffix(".\n").split()
    drawn = (np.random.default_rng(i).choice(lexicon, 4000) for i in range(100))  # 2.8 MB
    text = "\n\n".join(" ".join(words) + "\n" for words in drawn)
    (tmp_path / "text").write_text(text)
    size = len(text)
    del text
    monkeypatch.setattr(held_out_module, "MOST", 1 << 13)
    monkeypatch.setattr(corpora, "BLOCK", 1 << 16)
    tracemalloc.start()
    corpus = prepare(DataConfig(corpus=str(tmp_path / "text"), tokenizer=tokenizer, vocab_size=300), tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert corpus.train.n_bytes + corpus.validation.n_bytes == size
    assert peak < size / 2 + table


def test_however_thin_the_sample_copies_are_found(monkeypatch):
    monkeypatch.setattr(held_out_module, "MOST", 10)
    group = near_duplicates([essay(i % 9, 300 + 5 * i).upper() + "!" * i for i in range(12)])
    assert group[9:].tolist() == group[:3].tolist()
    assert len(np.unique(group)) == 9


def test_copies_too_short_for_a_shingle_have_one_group():
    assert near_duplicates(["a", "b", "a", "", ""]).tolist() == [0, 1, 0, 3, 3]


def test_what_cannot_be_read_leaves_no_file_open(tmp_path):
    (tmp_path / "text").write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match="is not utf-8: byte 3"):
        prepare(DataConfig(corpus=str(tmp_path / "text")), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


@given(st.lists(st.text()), st.integers(-9, 9))
def test_a_spool_is_the_list_of_its_documents(tmp_path_factory, texts, i):
    with Spool(iter(texts), tmp_path_factory.getbasetemp()) as spool:
        assert list(spool) == texts
        assert len(spool) == len(texts)
        if -len(texts) <= i < len(texts):
            assert spool[i] == texts[i]
        else:
            with pytest.raises(IndexError):
                spool[i]
