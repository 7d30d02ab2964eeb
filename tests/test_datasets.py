"""The table of data sets, and what some of their files become as they are taken."""

import re
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from minilm.data import conversions
from minilm.data.datasets import DATASETS
from tests.test_fetch import sdist


def test_rows_lie_together_and_the_array_is_the_same(tmp_path):
    columns = np.asfortranarray(np.arange(35, dtype=np.float32).reshape(7, 5))
    np.save(tmp_path / "columns.npy", columns)
    conversions.rows_together(tmp_path / "columns.npy", tmp_path / "rows.npy")
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert rows.flags.c_contiguous
    assert rows.dtype == np.float32
    assert (rows == columns).all()


def test_parquet_is_read_by_a_pyarrow_that_is_gone_afterwards(tmp_path, monkeypatch):
    stand_in = (
        "class read_table(list):\n"
        "    def __init__(self, path): self.append(self); self.path = path\n"
        "    def to_pylist(self): return open(self.path, encoding='utf-8').read().split('|')\n"
    )
    where = []

    def run_pip(what, *arguments):
        where.append(Path(arguments[arguments.index("--target") + 1]))
        (where[0] / "pyarrow").mkdir()
        (where[0] / "pyarrow/__init__.py").touch()
        (where[0] / "pyarrow/parquet.py").write_text(stand_in)

    monkeypatch.setattr(conversions, "run_pip", run_pip)
    monkeypatch.setattr(conversions.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "words").write_text("the|naïve|二", encoding="utf-8")
    conversions.lines_of_parquet(tmp_path / "words", tmp_path / "words.txt")
    assert (tmp_path / "words.txt").read_bytes() == "the\nnaïve\n二\n".encode()
    assert not where[0].exists()
    where.clear()
    with pytest.raises(ValueError, match="pyarrow could not read none"):
        conversions.lines_of_parquet(tmp_path / "none", tmp_path / "words.txt")


def test_the_labelled_reviews_of_both_halves_become_rows(tmp_path):
    reviews = {
        "aclImdb/train/pos/3_9.txt": 'Lovely, "really"<br />二'.encode(),
        "aclImdb/test/neg/12_1.txt": b"No.",
        "aclImdb/train/unsup/1_0.txt": b"unlabelled",
        "aclImdb/README": b"about",
    }
    (tmp_path / "archive").write_bytes(sdist(reviews))
    conversions.labelled_reviews(tmp_path / "archive", tmp_path / "reviews.csv")
    rows = (tmp_path / "reviews.csv").read_bytes().decode()
    assert rows == 'text,label,split,stars\r\n"Lovely, ""really""<br />二",1,train,9\r\nNo.,0,test,1\r\n'


def test_the_news_of_both_halves_become_rows_in_plain_text(tmp_path):
    news = {
        "ag_news_csv/train.csv": b'"3","Stocks","World #39;s quot;fall quot;\\today &lt;b&gt;"\n"4","Web","AT amp;T"\n',
        "ag_news_csv/test.csv": b'"2","Cup","A; B"\n',
    }
    (tmp_path / "archive").write_bytes(sdist(news))
    conversions.news_with_topics(tmp_path / "archive", tmp_path / "news.csv")
    rows = (tmp_path / "news.csv").read_bytes().decode().split("\r\n")
    assert rows == [
        "text,label,split",
        '"Stocks World\'s ""fall "" today <b>",Business,train',
        "Web AT &T,Sci/Tech,train",
        "Cup A; B,Sports,test",
        "",
    ]


def test_every_data_set_is_pinned_has_terms_and_stays_in_its_folder():
    for name, dataset in DATASETS.items():
        assert name == dataset.name
        assert re.fullmatch(r"[0-9a-f]{64}", dataset.source.sha256)
        assert len(dataset.about) > 10
        assert len(dataset.terms) > 10
        assert dataset.home.startswith("http")
        assert len({file.name for file in dataset.files}) == len(dataset.files) > 0
        for file in dataset.files:
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
            assert file.size > 0
            path = PurePosixPath(file.name)
            assert not path.is_absolute()
            assert ".." not in path.parts
