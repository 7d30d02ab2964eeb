"""Going on with a run: what is refused, and what ends before its first new checkpoint, leaves the run as it was."""

import errno
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from minilm import checkpoint, cli, run_folder, trainer
from minilm.checkpoint import CheckpointError
from minilm.config import DataConfig, OptimizerConfig
from minilm.data.tokenizers import CharacterTokenizer
from minilm.history import History
from minilm.trainer import NotFiniteError
from tests.test_run_folder import QUICK

TOLD = replace(QUICK, optimization=OptimizerConfig(optimizer="muon", warmup_steps=2), batch_size=4)
FURTHER = {"steps": 8, "architecture": replace(TOLD.architecture, dropout=0.1)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four steps."""
    text = tmp_path_factory.mktemp("text") / "one.txt"
    text.write_text("\n\n".join(f"Paragraph {i} says {i**3} and then {i**5}, as no other does." for i in range(60)))
    folder = tmp_path_factory.mktemp("runs") / "finished"
    data = DataConfig(str(text), tokenizer="byte", held_out=0.2)
    trainer.train(replace(TOLD, data=data, folder=str(folder)), quiet())
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, that may be harmed."""
    shutil.copytree(finished, tmp_path / "runs" / "run")
    return tmp_path / "runs" / "run"


def quiet():
    return Console(file=io.StringIO(), width=120)


def resume(run, **changes):
    return trainer.resume(run, replace(run_folder.read_config(run), **changes), console=quiet())


def contents(run):
    """Every file of a run, but for the measurements and their picture."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in ("history.jsonl", "loss.png")]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def optimization(**changes):
    return {"optimization": replace(TOLD.optimization, **changes)}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (optimization(optimizer="sgdd"), "There is no optimizer 'sgdd'"),
        (optimization(optimizer="adamw"), r"saved under another optimizer: .* Go on with the --optimizer"),
        (
            optimization(learning_rate=1e30, matrix_learning_rate=1e30),
            r"not finite at step 6\. .* `minilm train --resume .*` with a lower --matrix-learning-rate and "
            r"--learning-rate, and the other flags of this time\.$",
        ),
        ({"mesh": "data=64"}, "The mesh data=64 needs 64 devices"),
        ({"architecture": replace(TOLD.architecture, mixer="gla")}, "gpt knows no --mixer: leave it out"),
        ({"samples": 1, "prompt": 13 * "a"}, "--prompt: The prompt has 13 tokens, and the model's context of 12"),
        (
            {"steps": 3},
            "would go on from step 4, and --steps 3 ends before it: give 4 or more, or go back with --from",
        ),
        ({"folder": "elsewhere"}, "goes on where it is, and not in elsewhere: leave --folder out, or copy the run"),
        ({"batch_size": 9, "accumulate": 2}, "9 sequences cannot be cut into 2 equal parts"),
    ],
)
def test_a_resume_that_is_refused_leaves_the_run_as_it_was(changes, sentence, run):
    before = contents(run)
    with pytest.raises((ValueError, NotFiniteError), match=sentence):
        resume(run, **{"steps": 8} | changes)
    assert contents(run) == before
    assert trainer.resume(run, console=quiet()).step == 4


def test_where_no_file_may_be_written_the_run_is_left_as_it_was_and_goes_on_later(run, tmp_path):
    before = contents(run)
    command = [sys.executable, "-m", "minilm.cli", "train", "--resume", str(run), "--steps", "8", "--dropout", "0.1"]
    environment = os.environ | {
        "JAX_ENABLE_X64": "1",
        "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    limited = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *command]
    done = subprocess.run(limited, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "File too large. step-00000004 is intact" in done.stderr
    assert f"`minilm train --resume {run}` and the flags of this time." in done.stderr
    assert contents(run) == before
    assert resume(run, **FURTHER).step == 8


@pytest.mark.parametrize("dies", ["before the config", "behind the config"])
def test_a_run_that_dies_about_its_first_new_checkpoint_goes_on_as_if_it_had_not(dies, run, monkeypatch, tmp_path):
    def die(*_, **__):
        raise SystemError("as if killed")

    whole = tmp_path / "whole"
    shutil.copytree(run, whole)
    resume(whole, **FURTHER)
    before = contents(run)
    with monkeypatch.context() as patched:
        patched.setattr(*((run_folder, "write_model") if dies == "before the config" else (checkpoint, "save")), die)
        with pytest.raises(SystemError):
            resume(run, **FURTHER)
    if dies == "before the config":
        assert contents(run) == before
        resume(run, **FURTHER)
    else:
        assert run_folder.read_config(run).steps == 8
        trainer.resume(run, console=quiet())
    assert contents(run) == contents(whole)


class Interrupted:
    """In the place of `Interruption`: a signal that was there from the beginning."""

    signal: int | None = 15

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_interrupted_before_its_first_new_checkpoint_a_run_remembers_what_it_was_told(run, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "Interruption", Interrupted)
        assert resume(run, **FURTHER).step == 4
    assert trainer.resume(run, console=quiet()).step == 8


@pytest.fixture
def longer(run):
    """A run of twelve steps that kept all its checkpoints."""
    resume(run, steps=12, keep=9)
    return run


def go_back(run, **changes):
    """To step 4, from where on it learns more slowly."""
    told = replace(run_folder.read_config(run), **optimization(learning_rate=1e-4) | changes)
    return trainer.resume(run, told, from_step=4, console=quiet())


def recorded(run, name="loss"):
    return {record["step"]: record[name] for record in History(run / "history.jsonl").records() if name in record}


def assert_one_course(run):
    """Every checkpoint stands in the history, with the loss that it was saved with, and no step stands there twice."""
    steps = [record["step"] for record in History(run / "history.jsonl").records() if "loss" in record]
    assert steps == list(range(1, len(steps) + 1))
    for path in checkpoint.steps(run):
        manifest = checkpoint.read_manifest(path)
        assert recorded(run, "validation_loss")[manifest.step] == manifest.validation


@pytest.mark.parametrize("dies", [(History, "add_measurement"), (run_folder, "write_model"), (os, "fsync")])
def test_a_run_that_went_back_keeps_all_until_its_first_new_checkpoint(dies, longer, monkeypatch):
    def die(*_, **__):
        raise OSError("as if the disk were full")

    before, history = contents(longer), (longer / "history.jsonl").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(*dies, die)
        with pytest.raises((OSError, CheckpointError), match="as if the disk were full"):
            go_back(longer)
    assert contents(longer) == before
    assert (longer / "history.jsonl").read_bytes() == history
    assert trainer.resume(longer, console=quiet()).step == 12
    assert_one_course(longer)
    assert list(recorded(longer)) == list(range(1, 13))


@pytest.mark.parametrize("moment", range(8))
def test_killed_at_any_rename_a_run_that_went_back_has_the_history_of_its_checkpoints(moment, longer, monkeypatch):
    rename, calls = os.replace, iter(range(100))

    def die(*names):
        if next(calls) == moment:
            raise SystemError("as if killed")
        rename(*names)

    # The config, four checkpoints of the course that is left, the history, the new checkpoint; then that of step 8.
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", die)
        with pytest.raises(SystemError):
            go_back(longer)
    last = [12, 12, 12, 12, 12, 4, 4, 6][moment]
    assert checkpoint.find(longer).name == f"step-{last:08d}"
    assert_one_course(longer)
    assert trainer.resume(longer, console=quiet()).step == 12
    assert_one_course(longer)
    assert list(recorded(longer)) == list(range(1, 13))


def test_interrupted_where_the_course_that_it_left_has_a_checkpoint_a_run_saves_its_own(longer, monkeypatch):
    class InterruptedLater(Interrupted):
        asked = 0

        @property
        def signal(self):
            self.asked += 1
            return 15 if self.asked > 1 else None

    monkeypatch.setattr(trainer, "Interruption", InterruptedLater)
    assert go_back(longer, evaluate_every=50).step == 6
    assert [path.name[-2:] for path in checkpoint.steps(longer)] == ["02", "04", "06"]
    assert checkpoint.read_manifest(checkpoint.find(longer)).validation is None
    assert list(recorded(longer)) == [1, 2, 3, 4, 5, 6]


def test_what_a_run_was_trained_with_before_it_was_refused_does_not_keep_it_from_going_on(run):
    once = {"seed": 1 << 32, "patience": -1, "architecture": replace(TOLD.architecture, mixer="gla", d_hidden=7)}
    run_folder.write_config(run, replace(run_folder.read_config(run), **once, **optimization(weight_decay=-0.1)))
    assert resume(run, steps=6).step == 6
    for changes in ({"seed": 1 << 33}, {"patience": -2}, optimization(weight_decay=-0.2)):
        with pytest.raises(ValueError, match="and must be"):
            resume(run, **changes)


def test_interrupted_as_soon_as_it_went_back_a_run_says_from_where_it_goes_on(longer, monkeypatch):
    monkeypatch.setattr(trainer, "Interruption", Interrupted)
    printed = io.StringIO()
    trainer.resume(longer, from_step=4, console=Console(file=printed, width=200))
    assert "step 4 is saved" in printed.getvalue()
    assert f"minilm train --resume {longer} --from-step 4\n" in printed.getvalue()
    trainer.resume(longer, console=Console(file=printed, width=200))
    assert f"minilm train --resume {longer}\n" in printed.getvalue()


def test_interrupted_where_its_loss_is_drawn_a_run_says_how_it_goes_on(run, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    renamed, printed = run.with_name("a run, 'mine'"), io.StringIO()
    run.rename(renamed)
    monkeypatch.setattr(trainer, "draw_loss", interrupt)
    result = trainer.resume(
        renamed, replace(run_folder.read_config(renamed), steps=8), console=Console(file=printed, width=200)
    )
    assert (result.step, result.exit_code) == (8, 130)
    command = re.search(r"step 8 is saved\. .*\n\n    (minilm train .*)\n", printed.getvalue())
    assert shlex.split(command[1]) == ["minilm", "train", "--resume", str(renamed)]


def test_a_run_that_another_process_is_at_is_refused_and_left_to_it(run):
    before = contents(run)
    with run_folder.alone(run), pytest.raises(ValueError, match="Another process is at the run in"):
        resume(run, **FURTHER)
    assert contents(run) == before
    assert resume(run, **FURTHER).step == 8


def test_where_another_process_begins_a_run_none_begins_and_its_files_stay(run, tmp_path):
    other = replace(run_folder.read_config(run), folder=str(tmp_path / "other"))
    with run_folder.begun(tmp_path / "other"):
        (tmp_path / "other" / "tokenizer.json").write_text("of the first")
        with pytest.raises(ValueError, match="name another folder"):
            trainer.train(other, quiet())
        assert (tmp_path / "other" / "tokenizer.json").read_text() == "of the first"


def test_a_run_that_another_process_began_meanwhile_is_not_begun_over(run):
    with pytest.raises(ValueError, match="already holds a run: continue it"):
        run_folder.begun(run).__enter__()


def test_a_file_system_that_knows_no_locks_does_not_keep_a_run_from_going_on(run, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_folder.fcntl, "flock", refuse)
    assert resume(run, **FURTHER).step == 8


def test_a_folder_that_is_not_named_is_where_the_run_is(run):
    assert resume(run, folder="").step == 4


def test_nothing_is_written_anew_where_nothing_changed(run):
    times = {path: path.stat().st_mtime_ns for path in run.glob("*.json*")}
    trainer.resume(run, console=quiet())
    assert {path: path.stat().st_mtime_ns for path in run.glob("*.json*")} == times


def test_a_history_with_lines_that_are_none_does_not_keep_a_run_from_going_on(run):
    with open(run / "history.jsonl", "ab") as file:
        file.write(b'[1]\n\xff\xfe\n{"step": 5, "lo')
    resume(run, **FURTHER)
    steps = [record["step"] for record in History(run / "history.jsonl").records() if "loss" in record]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_tokenizer_that_is_not_the_models_is_refused_before_the_first_step_and_before_writing(run):
    (run / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no tokenizer at .*[^.]\.$"):
        resume(run, **FURTHER)
    for letters in ("abc", "".join(map(chr, range(0x4E00, 0x5000)))):
        CharacterTokenizer.train([letters]).save(run / "tokenizer.json")
        for going_on in (lambda: resume(run, **FURTHER), lambda: checkpoint.load_run(run)):
            with pytest.raises(ValueError, match=r"has \d+ tokens, and the run's model 257: restore the tokenizer"):
                going_on()


def test_a_tokenizer_of_as_many_tokens_is_refused_too_and_one_of_which_nothing_was_written_down_is_trusted(run):
    path, described = run / "tokenizer.json", json.loads((run / "model.json").read_text())
    CharacterTokenizer.train([""]).save(path)
    for going_on in (lambda: resume(run, **FURTHER), lambda: checkpoint.load_run(run)):
        with pytest.raises(ValueError, match="is not what the run began with, though it has as many tokens: restore"):
            going_on()
    (run / "model.json").write_text(json.dumps({name: described[name] for name in ("model", "config")}))
    assert checkpoint.load_run(run).tokenizer.vocab_size == 257


@pytest.mark.parametrize(("name", "text"), [("train.bin", "training"), ("validation.bin", "held-out")])
def test_tokens_that_the_model_does_not_know_are_refused_before_the_first_step(name, text, run):
    tokens = np.memmap(run / name, "<u2", "r+")
    tokens[7] = 257
    tokens.flush()
    with pytest.raises(ValueError, match=f"The {text} text holds the token id 257, at place 7, .* from 0 to 256"):
        resume(run, **FURTHER)


def test_the_latest_run_goes_on_by_that_name_and_what_best_passes_over_is_said(run, monkeypatch, capsys):
    monkeypatch.chdir(run.parent.parent)
    monkeypatch.setattr(cli, "_prepare", lambda: None)  # the tests' own process keeps its allocator and caches
    assert cli.main(["train", "--resume", "latest", "--steps", "6"]) == 0
    assert [path.name for path in checkpoint.steps(run)][-1] == "step-00000006"
    assert json.loads((run / "config.json").read_text())["steps"] == 6
    capsys.readouterr()
    damaged = checkpoint.find(run, "best")
    (damaged / "manifest.json").write_text("{")
    assert cli.main(["generate", "A", "--max-new-tokens", "2"]) == 0
    assert f"{damaged.name} is damaged, or not of this run, and was passed over for step" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load_run(run, damaged.name.removeprefix("step-"))
