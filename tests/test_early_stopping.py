"""A run that stops early says so and why, and what it prints to go on with trains it further."""

import io
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from minilm import checkpoint, cli, run_folder, trainer
from minilm.config import DataConfig
from tests.test_resume import contents
from tests.test_run_folder import QUICK

SCRIPT = [5.0, 4.0, 4.5, 4.2]  # before the first step, and after two, four and six; then nothing but worse
STOPPED = "It stopped early, after step 6 of 20, for the last 2 measurements brought no new best (--patience 2).\n"


@pytest.fixture(autouse=True)
def losses(monkeypatch):
    """What is measured, instead of what would be."""
    script = iter(SCRIPT)
    monkeypatch.setattr(trainer, "make_evaluate", lambda loss: lambda params, batches: (next(script, 9.0) * 10, 10))


@pytest.fixture
def told(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("\n\n".join(f"Paragraph {i} says {i**3} and then {i**5}, as no other does." for i in range(60)))
    data = DataConfig(str(path), tokenizer="byte", held_out=0.2)
    return replace(QUICK, data=data, folder=str(tmp_path / "a run"), patience=2, steps=20, keep=9)


@pytest.fixture
def stopped(told):
    """A run that stopped early, and what it printed."""
    return talking(lambda console: trainer.train(told, console))


def talking(run):
    console = Console(file=io.StringIO(), width=120)
    return run(console), console.file.getvalue()


def resume(run, **changes):
    config = replace(run_folder.read_config(run), **changes)
    return talking(lambda console: trainer.resume(run, config, console=console))


def test_training_stops_early_says_why_and_answers_with_the_best_state(stopped):
    result, printed = stopped
    assert result.step == 6
    assert checkpoint.load_run(result.folder).manifest.step == 2
    assert [path.name[-2:] for path in checkpoint.steps(result.folder)] == ["02", "04", "06"]
    assert f"{STOPPED}The best state was that of step 2; what follows is about it.\n" in printed


@pytest.mark.parametrize(("steps", "reached"), [(20, [10, 18, 20, 34]), (6, [10, 12, 18])])
def test_the_command_that_is_printed_makes_steps_and_waits_as_long_again(steps, reached, told, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_prepare", lambda: None)  # the tests' own process keeps its allocator and caches
    result, printed = talking(lambda console: trainer.train(replace(told, steps=steps), console))
    for step in reached:
        command = shlex.split(re.findall(r"^    (minilm train .*)$", printed, re.MULTILINE)[-1])
        assert cli.main(command[1:]) == 0
        printed = capsys.readouterr().out
        assert checkpoint.steps(result.folder)[-1].name == f"step-{step:08d}"
        assert ("It stopped early" in printed) == (step < run_folder.read_config(result.folder).steps)


def test_asked_to_train_further_with_its_patience_exhausted_a_run_is_refused_and_left_as_it_was(stopped):
    folder, before = stopped[0].folder, contents(stopped[0].folder)
    sentence = r"is at step 6, the last 2 .* under --patience \d it makes no step: give --patience 0.* more than 2\.$"
    for changes in ({"steps": 40}, {"steps": 10}, {"patience": 1}, {"batch_size": 2}):
        with pytest.raises(ValueError, match=sentence):
            resume(folder, **changes)
    assert contents(folder) == before
    for patience, step in ((3, 8), (0, 20)):
        assert resume(folder, patience=patience)[0].step == step


def test_of_a_run_that_never_stopped_early_it_is_not_said(told):
    folder = talking(lambda console: trainer.train(replace(told, steps=6, patience=0), console))[0].folder
    with pytest.raises(ValueError, match=r"is at step 6, the last 2 measurements .*, and under --patience 2 it makes"):
        resume(folder, steps=20, patience=2)


def test_as_it_was_told_a_run_that_stopped_early_and_was_killed_then_says_what_it_has_to_say(told, monkeypatch):
    def die(*_):
        raise SystemError("as if killed")

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "draw_loss", die)
        with pytest.raises(SystemError):
            trainer.train(told, Console(file=io.StringIO()))
    folder = Path(told.folder)
    before = contents(folder)
    for changes in ({}, {"baselines": ("unigram",), "samples": 1, "prompt": "A"}, {"folder": ""}):
        result, printed = resume(folder, **changes)
        assert (result.step, contents(folder)) == (6, before)
        assert STOPPED in printed
