"""Two measurements are compared row by row; and rows that are not as they were written end in a sentence."""

import json
import sys
from types import SimpleNamespace

import pytest

from benchmarks.attention import device_time, record
from tests.test_attention_report import ROWS, bench, on_a_gpu, row


def test_a_comparison_fails_where_the_second_is_slower_or_lost(tmp_path, monkeypatch, capsys):
    files = [tmp_path / name for name in ("same.jsonl", "slow.jsonl", "lost.jsonl", "other.jsonl")]
    slower, lost = row("ssd", 1024, 1.2 * 1.5e-6 * 1024), row("ssd", 1024, 0, status="wrong")
    rest = [each for each in ROWS if (each["candidate"], record.extent(each)) != ("ssd", 1024)]
    for file, rows in zip(files, (ROWS, [slower, *rest], [lost, *rest], [row("other", 8, 1.0)]), strict=True):
        record.write(file, rows)
    same, slow, gone, other = files
    assert bench(monkeypatch, "compare", same, same, "--fail-if-slower", "10%") == 0
    assert bench(monkeypatch, "compare", same, slow, "--fail-if-slower", "25%") == 0
    assert bench(monkeypatch, "compare", same, slow) == 0
    capsys.readouterr()
    assert bench(monkeypatch, "compare", same, slow, "--fail-if-slower", "10%") == 1
    assert "1 of 8 rows is more than 10% slower; the worst is ssd, fwd, 1024 tokens" in capsys.readouterr().out
    assert bench(monkeypatch, "compare", same, gone) == 1
    assert "ssd, fwd, 1024 tokens, float32 had a time, and is wrong now: it is so" in capsys.readouterr().out
    assert bench(monkeypatch, "compare", same, other) == 2
    assert "have no measurement in common" in capsys.readouterr().err


def test_what_the_second_lacks_is_named_and_fails_under_a_limit(tmp_path, monkeypatch, capsys):
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    record.write(whole, ROWS[:3])
    record.write(part, ROWS[:1])
    sentence = f"1024 tokens, float32 had a time, and is not in {part}: measure it again.\n"
    assert bench(monkeypatch, "compare", whole, part) == 0
    shown = capsys.readouterr().out
    assert "\n1 row in both files, 2 in one of them alone\n" in shown
    assert f"\nssd, fwd, {sentence}" in shown
    assert shown.count("had a time, and is not in") == 2
    assert bench(monkeypatch, "compare", whole, part, "--fail-if-slower", "10%") == 1
    assert f"\nssd, fwd, {sentence}" in capsys.readouterr().out
    assert bench(monkeypatch, "compare", part, whole, "--fail-if-slower", "10%") == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cpu": "Another One"}, "An EPYC with 1 thread and on Another One with 1 thread"),
        ({"threads": 3}, "An EPYC with 1 thread and on An EPYC with 3 threads"),
    ],
)
def test_times_of_two_machines_are_not_compared(changes, told, tmp_path, monkeypatch, capsys):
    here = ROWS[0]["environment"] | {"cpu": "An EPYC ", "threads": 1}
    for name, where in (("before", here), ("after", here | changes)):
        record.write(tmp_path / f"{name}.jsonl", [ROWS[0] | {"environment": where}])
    assert bench(monkeypatch, "compare", tmp_path / "before.jsonl", tmp_path / "after.jsonl") == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert f"blockwise, fwd, 1024 tokens, float32 was taken on {told}: measure both on one machine.\n" in error


def test_the_time_of_a_device_may_be_taken_beside_another_processor(tmp_path, monkeypatch, capsys):
    for name, cpu in (("before", "An EPYC"), ("after", "Another One")):
        there = on_a_gpu(ROWS[0], "float32")
        there |= {
            "environment": there["environment"] | {"cpu": cpu},
            "time": there["time"] | {"clock": device_time.NAME},
        }
        record.write(tmp_path / f"{name}.jsonl", [there])
    assert bench(monkeypatch, "compare", tmp_path / "before.jsonl", tmp_path / "after.jsonl") == 0
    assert "  1.00 ×" in capsys.readouterr().out


def test_of_two_measurements_that_read_alike_each_is_compared(tmp_path, monkeypatch, capsys):
    """A core and a mixer of one name, and the same on another device."""
    core, mixer = (row("linear", 1024, 1.0, kind=kind) for kind in ("core", "mixer"))
    slow = row("linear", 1024, 2.0)
    record.write(tmp_path / "before.jsonl", [core, mixer, on_a_gpu(core, "float32")])
    record.write(tmp_path / "after.jsonl", [slow, mixer, on_a_gpu(core, "float32")])
    files = [tmp_path / f"{name}.jsonl" for name in ("before", "after")]
    assert bench(monkeypatch, "compare", *files, "--fail-if-slower", "10%") == 1
    shown = capsys.readouterr().out
    assert "1 of 3 rows is more than 10% slower; the worst is core linear, fwd, 1024 tokens, float32, {" in shown
    assert shown.count("  1.00 ×") == 2


BROKEN = {
    "a time in words": {"time": ROWS[0]["time"] | {"median": "soon"}},
    "versions in words": {"environment": ROWS[0]["environment"] | {"versions": "the newest"}},
    "figures in words": {"flops": "many"},
    "sizes in words": {"sizes": {"length": "long"}},
    "no reason": {"status": "wrong"},
    "a benchmark of another kind": {"benchmark": ["ops"], "sizes": {}},
}
REFUSED = {
    "no number above 0: nan": {"time": ROWS[0]["time"] | {"median": float("nan")}},
    "no number above 0: 1.0, 0.0": {"time": ROWS[0]["time"] | {"median": 1.0, "p20": 0.0}},
    "has a time, and did not pass its check": {"check": ROWS[0]["check"] | {"passed": False}},
    "has a time, and did not pass its check: measure": {"check": {"passed": True, "long": {"passed": False}}},
    "has schema 99, and this program reads 1": {"schema": 99},
}


def broken(folder, changes):
    """A file whose second row is changed, however it is written."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (ROWS[1], ROWS[0] | changes)))
    return folder / "rows.jsonl"


@pytest.mark.parametrize("name", BROKEN)
def test_a_row_that_is_not_as_it_is_written_ends_in_a_sentence(name, tmp_path, monkeypatch, capsys):
    assert bench(monkeypatch, "report", broken(tmp_path, BROKEN[name]), "--format", "html") == 2
    error = capsys.readouterr().err
    assert "it lacks" in error or "is not as --out writes it (" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_row_that_proves_nothing_is_neither_shown_nor_compared(sentence, tmp_path, monkeypatch, capsys):
    rows = broken(tmp_path, REFUSED[sentence])
    for words in (["report", rows], ["compare", rows, rows, "--fail-if-slower", "10%"]):
        assert bench(monkeypatch, *words) == 2
        out, error = capsys.readouterr()
        assert (out, error.count("\n")) == ("", 1)
        assert sentence in error


@pytest.mark.parametrize("line", ["[" * 100_000, "9" * 5000], ids=["deep", "long"])
def test_a_line_that_no_reader_of_json_takes_ends_in_a_sentence_too(line, tmp_path, monkeypatch, capsys):
    (tmp_path / "rows.jsonl").write_text(line)
    assert bench(monkeypatch, "report", tmp_path / "rows.jsonl") == 2
    assert "Line 1 of" in capsys.readouterr().err


def test_nothing_is_measured_whose_file_would_be_a_folder(tmp_path, monkeypatch, capsys):
    for name in ("ops", "decode", "quality"):
        assert bench(monkeypatch, name, "--out", tmp_path) == 2
        assert "is a folder: name a file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ops", "decode", "quality"])
def test_nothing_is_measured_whose_file_could_not_be_written(name, tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.jsonl"
    record.write(file, ROWS)
    assert bench(monkeypatch, name, "--out", file / "rows.jsonl") == 2
    assert f"cannot be written: {file} is no folder" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda place, mode: False)
    assert bench(monkeypatch, name, "--out", tmp_path / "new" / "rows.jsonl") == 2
    assert f"cannot be written: {tmp_path} may only be read" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="asks for Linux's /proc and /sys")
@pytest.mark.parametrize("place", ["/proc/x/y.jsonl", "/sys/y.jsonl"])
@pytest.mark.parametrize("name", ["ops", "decode", "report", "quality"])
def test_a_place_that_only_seems_to_take_files_is_refused_before_anything_is_measured(
    name, place, tmp_path, monkeypatch, capsys
):
    record.write(tmp_path / "rows.jsonl", ROWS)
    words = {"report": [tmp_path / "rows.jsonl"], "quality": []}.get(name, ["--variants", "chess"])
    assert bench(monkeypatch, name, *words, "--out", place) == 2
    assert f"--out: '{place}' cannot be written: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ops", "decode"])
def test_what_cannot_be_written_after_all_is_shown_and_said_in_a_sentence(name, tmp_path, monkeypatch, capsys):
    def full(path, rows):
        raise OSError(28, "No space left on device")

    measured = SimpleNamespace(main=lambda words: record.collected(iter(ROWS), words[-1], lambda row: None))
    monkeypatch.setattr(record, "write", full)
    monkeypatch.setitem(sys.modules, f"benchmarks.attention.{name}", measured)
    assert bench(monkeypatch, name, "--out", tmp_path / "rows.jsonl") == 2
    out, error = capsys.readouterr()
    assert all(each["candidate"] in out for each in ROWS)
    assert "ssd passes blockwise" in out
    assert error == (
        f"minilm bench attention: {tmp_path / 'rows.jsonl'} could not be written (No space left on device), and what "
        "was measured is in the table alone: keep that, or measure again with another --out.\n"
    )


def test_a_picture_that_cannot_be_written_ends_in_a_sentence(tmp_path, monkeypatch, capsys):
    rows = tmp_path / "rows.jsonl"
    record.write(rows, ROWS)
    assert bench(monkeypatch, "report", rows, "--plots", rows / "pictures") == 2
    error = capsys.readouterr().err
    assert error == f"minilm bench attention: {rows / 'pictures'} cannot be used: Not a directory.\n"


@pytest.mark.parametrize("out", ["rows.jsonl", "new.jsonl", "new/folder/rows.jsonl", "link.jsonl"])
def test_a_command_that_measures_nothing_leaves_everything_as_it_was(out, tmp_path, monkeypatch):
    record.write(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "target.jsonl")
    before = sorted(tmp_path.iterdir())
    for name in ("ops", "decode"):
        assert bench(monkeypatch, name, "--variants", "chess", "--out", tmp_path / out) == 2
    assert sorted(tmp_path.iterdir()) == before
    assert record.read(tmp_path / "rows.jsonl") == ROWS
