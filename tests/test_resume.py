"""Going on with a run: what is refused, and what ends before its first new checkpoint, leaves the run as it was."""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from minilm import checkpoint, cli, run_folder, trainer
from minilm.checkpoint import CheckpointError
from minilm.config import PRESETS, DataConfig, ModelConfig, OptimizerConfig
from minilm.data.tokenizers import CharacterTokenizer
from minilm.history import History
from minilm.trainer import NotFiniteError

TOLD = replace(
    PRESETS["quick"],
    architecture=ModelConfig(n_layers=1, n_heads=2, d_model=8, context_length=12),
    optimization=OptimizerConfig(optimizer="muon", warmup_steps=2),
    steps=4,
    batch_size=4,
    steps_per_call=2,
    evaluate_every=2,
    evaluate_batches=1,
    baselines=(),
    samples=0,
)
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
        (optimization(learning_rate=1e30, matrix_learning_rate=1e30), "not finite at step 6"),
        ({"mesh": "data=64"}, "The mesh data=64 needs 64 devices"),
        ({"samples": 1, "prompt": 13 * "a"}, "--prompt: The prompt has 13 tokens, and the model's context of 12"),
        (
            {"steps": 3},
            "would go on from step 4, and --steps 3 ends before it: give more than 4, or go back with --from",
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


def test_interrupted_before_its_first_new_checkpoint_a_run_remembers_what_it_was_told(run, monkeypatch):
    class Interrupted:
        signal = 15

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "Interruption", Interrupted)
        assert resume(run, **FURTHER).step == 4
    assert trainer.resume(run, console=quiet()).step == 8


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
    assert f"{damaged.name} is damaged, and was passed over for step" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load_run(run, damaged.name.removeprefix("step-"))
