"""The attention benchmark from the command line: what there is, what is measured, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from minilm.variants import VARIANTS

ROOT = Path(__file__).parent.parent


def ran(*arguments):
    command = [sys.executable, "-m", "benchmarks.attention", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_every_variant_is_listed():
    listed = ran("list").stdout
    assert [name for name in VARIANTS if f"\n{name} " not in f"\n{listed}"] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["opps"], "There is no command 'opps'"),
        (["ops", "--variants", "windo"], "There is no attention variant 'windo', did you mean 'window'?"),
    ],
)
def test_what_cannot_be_understood_is_answered_in_a_sentence(arguments, sentence):
    result = ran(*arguments)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert sentence in result.stderr


@pytest.mark.slow
def test_what_is_measured_was_checked_first_and_compares_with_itself(tmp_path):
    out = tmp_path / "measured.jsonl"
    assert ran("ops", "--cores", "dense,delta", "--lengths", "64,128", "--budget", "2", "--out", out).returncode == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 4
    assert all(row["check"]["passed"] and row["time"]["median"] > 0 for row in rows)
    assert ran("compare", out, out, "--fail-if-slower", "10%").returncode == 0
