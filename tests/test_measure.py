"""What benchmarks save: a record for each processor, of which none is lost by another, nor by a file that is broken."""

import pytest

from benchmarks import measure


@pytest.fixture
def results(monkeypatch, tmp_path):
    """A folder of results, and a function that says which processor this is."""
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(measure, "_cpu_name", lambda: "one")
    return tmp_path


def test_a_processor_replaces_what_it_measured_before_and_leaves_what_another_did(results, monkeypatch):
    measure.write("speed", [{"ms": 1}], "first")
    monkeypatch.setattr(measure, "_cpu_name", lambda: "another")
    measure.write("speed", [{"ms": 2}], "second")
    measure.write("speed", [{"ms": 3}], "third")
    saved = [(one["environment"]["cpu"], one["command"], one["rows"]) for one in measure.records("speed")]
    assert saved == [("one", "first", [{"ms": 1}]), ("another", "third", [{"ms": 3}])]
    assert measure.rows_here("speed") == [{"ms": 3}]
    assert [path.name for path in results.iterdir()] == ["speed.json"]


@pytest.mark.parametrize("broken", ["", '[{"rows": [', '{"rows": []}', '[{"rows": []}]', "[1]"])
def test_a_file_that_cannot_be_read_is_moved_aside_and_what_was_measured_is_saved(broken, results, capsys):
    (results / "speed.json").write_text(broken)
    measure.write("speed", [{"ms": 1}], "again")
    assert measure.rows_here("speed") == [{"ms": 1}]
    assert (results / "speed.json.unread").read_text() == broken
    assert "speed.json holds no records that can be read; it is speed.json.unread now." in capsys.readouterr().out


def test_of_a_benchmark_that_never_ran_there_is_nothing(results):
    assert measure.records("speed") == measure.rows_here("speed") == []


def test_each_allocator_has_a_process_of_its_own_and_what_it_prints_last_is_read(tmp_path, monkeypatch):
    told = "import json, os, sys\nprint('a line that is no result')\nprint(json.dumps([os.getpid(), *sys.argv[1:]]))\n"
    (tmp_path / "told.py").write_text(told)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = measure.by_allocator("told", "--rounds", "3")
    assert {name: words for name, (_, *words) in found.items()} == {
        name: ["--rounds", "3", "--allocator", name] for name in ("plain", "tuned")
    }
    assert len({process for process, *_ in found.values()}) == 2


@pytest.mark.parametrize("tunable", [True, False])
def test_what_cannot_be_tuned_is_not_measured_as_tuned(tunable, monkeypatch):
    asked = []
    monkeypatch.setattr(measure, "pin", lambda: asked.append("pin"))
    monkeypatch.setattr("minilm.allocator.tune", lambda: asked.append("tune") or tunable)
    assert measure.pin_and_tune("plain") is True
    assert asked == ["pin"]
    assert measure.pin_and_tune("tuned") is tunable
    assert asked == ["pin", "pin", "tune"]
