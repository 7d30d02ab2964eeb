"""What a training step costs is taken of all rows in turn, on one machine, or not shown."""

import json

import pytest

from benchmarks import measure
from benchmarks.attention import __main__ as command
from benchmarks.attention import quality, quality_cost, quality_views

TINY = "mqar:vocab_size=14,length=12,pairs=3,rows=4,d=8,layers=1,steps=10"


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    """The benchmark without pinning: the rows of its file, and what it prints."""
    monkeypatch.setattr(measure, "pin", lambda core: None)
    monkeypatch.setattr("minilm.allocator.tune", lambda: None)
    file = tmp_path / "quality.jsonl"

    def run(*arguments):
        code = command.main(["quality", *arguments, "--out", str(file)])
        return code, quality.rows_of(file) if file.exists() else [], capsys.readouterr()

    return run


def test_steps_are_timed_in_turn_and_nothing_is_trained_anew(bench):
    told = ["--tasks", TINY, "--every", "10", "--variants", "mha", "tests.test_attention_wrong:leaking"]
    _, before, _ = bench(*told, "--rates", "0.01", "0.1")
    code, after, shown = bench("--cost", "1")
    assert code == 0
    assert [{name: row[name] for name in row if name != "step"} for row in after] == before
    trained, (refused, *_) = ([row for row in after if (row["status"] == "ok") == ok] for ok in (True, False))
    assert "step" not in refused
    first, second = (row["step"] for row in trained)
    assert first == second  # of one program, whatever the rate
    assert 0 < first["median"] < min(row["cpu_seconds"] for row in trained)
    assert f"| {first['median']:.4f} |" in shown.out
    assert f"Steps were timed in turn on {first['cpu']}, {first['date']}, by `--cost`." in shown.out


def test_what_is_known_no_more_ends_in_a_sentence_or_stays_as_it_is(bench, tmp_path, capsys):
    told = ["--tasks", TINY, "--every", "10", "--variants", "mha", "--rates", "0.01"]
    _, (row,), _ = bench(*told)
    file = tmp_path / "quality.jsonl"
    for other in ({"options": row["options"] | {"gone": 1}}, {"task": "gone"}):
        file.write_text(json.dumps(row | other) + "\n")
        code, rows, shown = bench("--cost", "1")
        assert (code, rows) == (0, [row | other])
        assert "Not all steps were timed in one run" not in shown.out  # but it has a time, of its training
    file.write_text(json.dumps(row | {"variant": "no.module:attention"}) + "\n")
    code, rows, shown = bench("--cost", "1")
    assert (code, rows) == (2, [row | {"variant": "no.module:attention"}])
    assert "cannot be timed: no.module:attention was taken for a variant outside of minilm" in shown.err


def test_a_step_that_fails_is_told(bench, monkeypatch):
    bench("--tasks", TINY, "--every", "10", "--variants", "mha", "--rates", "0.01")

    def fail():
        raise RuntimeError("no more\nmemory")

    monkeypatch.setattr(quality_cost, "steps_of", lambda cell: fail)
    code, (row,), shown = bench("--cost", "1")
    assert (code, "step" in row) == (0, False)
    assert shown.err.endswith("A step of mha is not timed: RuntimeError: no more memory\n")


def test_without_a_file_there_is_nothing_to_time(bench):
    code, _, shown = bench("--cost")
    assert code == 2
    assert "to show: name a file of results by --out, or measure some first" in shown.err


def shown(*machines, steps=(None, None)):
    """The table of two variants, trained on two machines, and with their steps timed on others."""
    rows = []
    for variant, cpu, step in zip(("mha", "nope"), machines, steps, strict=True):
        row = {"task": "mqar", "variant": variant, "sizes": {}, "options": {}, "match": None, "matched": None}
        row |= {"steps": 10, "seed": 0, "learning_rate": 0.1, "status": "ok", "accuracy": 0.5, "steps_to_99": None}
        row |= {"transfer": {}, "chance": {"token": 0.1, "value": 0.2}, "within_reach": None, "parameters": 1}
        row |= {"state_bytes": 1, "convolution": "none", "cpu_seconds_a_step": 0.25}
        row |= {"environment": {"cpu": cpu, "date": "2026-01-01", "load": 0.0}}
        rows.append(row | ({"step": {"median": 0.125, "date": "", "load": 0, "git": "", "cpu": step}} if step else {}))
    return quality_views.table(rows)


def test_times_of_several_machines_stand_in_no_table():
    assert "0.2500" in shown("A", "A")
    assert "0.1250" in shown("A", "B", steps=("C", "C"))
    for mixed in (shown("A", "B"), shown("A", "A", steps=("C", "D")), shown("A", "B", steps=("C", None))):
        assert "CPU s a step" not in mixed
        assert "no time is shown: `--cost` takes them in turn" in mixed
