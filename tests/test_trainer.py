"""A run is a function of its config and its corpus, however often it is interrupted."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from minilm import checkpoint, optimizers, run_folder, trainer
from minilm.checkpoint import CheckpointError
from minilm.config import PRESETS, DataConfig, ModelConfig, OptimizerConfig, TrainConfig, check, from_json, to_json
from minilm.history import History
from minilm.panel import Pace, Panel, Reading
from minilm.trainer import NotFiniteError, resume, train
from tests.tolerances import LAYER, unit_roundoff

QUICK = replace(
    PRESETS["quick"],
    architecture=ModelConfig(n_layers=1, n_heads=2, d_model=16, context_length=12, dropout=0.1),
    optimization=OptimizerConfig(warmup_steps=2, learning_rate=1e-2),
    steps=12,
    batch_size=4,
    accumulate=2,
    steps_per_call=3,
    evaluate_every=6,
    evaluate_batches=2,
    samples=1,
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A small text of some forty documents, no two alike."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("text")
    words = "the a model reads and writes one token after another until its context is full of what it said"
    for i in range(40):
        (path / f"{i:02}.txt").write_text(" ".join(rng.choice(words.split(), 60)) + ".\n")
    return str(path)


def config(text, folder, baselines=(), samples=0, **changes):
    """What the tests' runs are told; only one of them is long enough in the telling to compare and to write."""
    data = DataConfig(corpus=text, tokenizer="byte", held_out=0.1)
    return replace(
        QUICK, data=data, folder=str(folder), prompt="the model", baselines=baselines, samples=samples, **changes
    )


def quiet():
    return Console(file=io.StringIO(), width=120)


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    """A run that nothing interrupted, and what it printed."""
    console = quiet()
    result = train(config(text, tmp_path_factory.mktemp("runs") / "whole", QUICK.baselines, samples=1), console)
    return result, console.file.getvalue()


class StopAfter:
    """In the place of `Interruption`: a signal that arrives while the call that passes a step is computed."""

    def __init__(self, calls):
        self.calls = calls

    def __call__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def signal(self):
        self.calls -= 1
        return signal.SIGTERM if self.calls < 0 else None


def tensors(folder, step="last"):
    return checkpoint.read(checkpoint.find(folder, step))[0]


def history(folder):
    """What was measured, but for the time it took."""
    records = History(folder / "history.jsonl").records()
    return [{name: record[name] for name in record if name != "tokens_per_second"} for record in records]


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(finished, text, tmp_path, monkeypatch):
    folder = tmp_path / "interrupted"
    monkeypatch.setattr(trainer, "Interruption", StopAfter(3))
    first = train(config(text, folder), quiet())
    assert (first.step, first.signal, first.exit_code) == (9, signal.SIGTERM, 143)
    monkeypatch.undo()
    last = resume(folder, console=quiet())
    whole, pieces = tensors(finished[0].folder), tensors(folder)
    assert list(whole) == list(pieces)
    assert all((whole[name] == pieces[name]).all() for name in whole)
    assert (last.step, last.validation) == (12, finished[0].validation)
    assert history(folder) == history(finished[0].folder)


@given(every=st.integers(1, 9), steps=st.integers(1, 40), per_call=st.integers(1, 7))
def test_calls_end_at_every_measurement_and_depend_on_the_step_alone(every, steps, per_call):
    told, step, ends = replace(QUICK, evaluate_every=every, steps=steps, steps_per_call=per_call), 0, set()
    while step < steps:
        end = trainer._end_of_call(step, told)
        assert step < end <= min(step + per_call, steps)
        step = end
        ends.add(step)
    assert ends >= {*range(every, steps + 1, every), steps}


def test_a_run_tells_its_device_data_parameters_losses_baselines_samples_and_how_to_go_on(finished):
    result, printed = finished
    n = checkpoint.load_run(result.folder).config.vocab_size
    for expected in [
        rf"run      {re.escape(str(result.folder))}",
        r"device   CPU with \d+ cores?",
        r"documents, [\d,]+ tokens; .* held out",
        r"model    gpt, [\d,]+ parameters",
        rf"loss     \d\.\d+ at the start; guessing gives ln {n} = {np.log(n):.3f}",
        r"step  ?3 of 12   loss \d",
        r"step 6 on held-out text: loss .* bits per byte, the best so far",
        r"this model +│ +\d",
        r"unigram",
        r"bigram",
        r"xz",
        r"the model",
        r"minilm generate 'the model' --run",
        r"minilm train --resume .* --steps 24",
    ]:
        assert re.search(expected, printed), f"{expected!r} is not in\n{printed}"
    assert "\x1b" not in printed


def test_the_loss_at_the_start_is_that_of_guessing_and_then_falls(finished):
    measured = [
        r["validation_loss"] for r in History(finished[0].folder / "history.jsonl").records() if "validation_loss" in r
    ]
    assert abs(measured[0] - np.log(257)) < 0.05 * np.log(257)
    assert measured == sorted(measured, reverse=True)
    assert len(measured) == 3


def test_a_finished_run_speaks_from_its_folder_alone(finished):
    folder = finished[0].folder
    assert {path.name for path in folder.iterdir()} >= {
        "config.json",
        "model.json",
        "tokenizer.json",
        "train.bin",
        "validation.bin",
        "history.jsonl",
        "loss.png",
        "checkpoints",
    }
    run = checkpoint.load_run(folder)
    assert run.manifest.step == 12
    logits = run.model.apply(
        jax.tree.map(jnp.asarray, run.params), jnp.asarray(run.tokenizer.encode("the model")), config=run.config
    )
    assert logits.shape == (9, 257)
    assert run_folder.latest_run(folder.parent) == folder
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_bits_per_byte_are_the_total_nats_over_ln_2_and_the_bytes(finished):
    run = checkpoint.load_run(finished[0].folder)
    tokens = np.fromfile(finished[0].folder / "validation.bin", np.uint16).astype(np.int32)
    t, nats = run.config.context_length, 0.0
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), run.params)
    apply = jax.jit(lambda tokens: jax.nn.log_softmax(run.model.apply(params, tokens, config=run.config)))
    padded = np.concatenate([tokens, np.zeros(t, np.int32)])
    for start in range(0, len(tokens) - 1, t):
        log_p, targets = apply(padded[start : start + t]), tokens[start + 1 : start + t + 1]
        nats -= float(np.asarray(log_p)[np.arange(len(targets)), targets].sum())
    n_bytes = len(run.tokenizer.decode_bytes(tokens[tokens != run.tokenizer.end_of_text]))
    assert finished[0].validation == pytest.approx(nats / np.log(2) / n_bytes, rel=LAYER * unit_roundoff(np.float32))


def test_a_loss_that_is_not_finite_stops_with_its_step_and_spares_the_checkpoint(text, tmp_path, monkeypatch):
    def poisoned(config, learning_rate):
        adamw = optimizers.adamw(config, learning_rate)

        def update(gradient, state, params=None):
            updates, state = adamw.update(gradient, state, params)
            count = jax.tree.leaves(state)[0]
            return jax.tree.map(lambda leaf: jnp.where(count == 9, jnp.nan, leaf), updates), state

        return adamw._replace(update=update)

    monkeypatch.setitem(optimizers.OPTIMIZERS, "poisoned", poisoned)
    folder = tmp_path / "run"
    told = config(text, folder, optimization=replace(QUICK.optimization, optimizer="poisoned"))
    with pytest.raises(
        NotFiniteError, match=r"not finite at step 10\. .*checkpoints/step-00000006.*--resume .*--learning-rate"
    ):
        train(told, quiet())
    assert [path.name for path in checkpoint.steps(folder)] == ["step-00000006"]
    assert all(np.isfinite(tensor).all() for tensor in tensors(folder).values())


def test_an_earlier_checkpoint_can_be_gone_back_to(finished, text, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0].folder, folder)
    damaged = checkpoint.find(folder, 12) / "state.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(
        CheckpointError, match=r"truncated: tensor .*step-00000006 before it is whole: .* --from-step 6"
    ):
        resume(folder, console=quiet())
    told = replace(run_folder.read_config(folder), baselines=(), samples=0)
    assert resume(folder, told, from_step=6, console=quiet()).validation == finished[0].validation
    whole, again = tensors(finished[0].folder), tensors(folder)
    assert all((whole[name] == again[name]).all() for name in whole)


def test_a_run_cannot_go_on_as_another_model_or_on_other_data(finished):
    folder, told = finished[0].folder, run_folder.read_config(finished[0].folder)
    with pytest.raises(ValueError, match="has n_layers 1, and cannot go on with 3"):
        resume(folder, replace(told, architecture=replace(told.architecture, n_layers=3)))
    with pytest.raises(ValueError, match="other data, or another tokenizer, is another run"):
        resume(folder, replace(told, data=replace(told.data, corpus="code")))
    with pytest.raises(ValueError, match="already holds a run: continue it with"):
        train(told)
    with pytest.raises(ValueError, match=r"is not the folder of a run: it has no config\.json"):
        resume(folder / "checkpoints")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 0}, "--steps is 0, and must be at least 1"),
        ({"batch_size": 4, "accumulate": 3}, "4 sequences cannot be cut into 3 equal parts"),
        (
            {"architecture": replace(QUICK.architecture, context_length=99_999)},
            r"training text has [\d]+ tokens, fewer than the 100000",
        ),
        (
            {"architecture": replace(QUICK.architecture, context_length=1900)},
            r"held-out text has [\d]+ tokens, fewer than the 1901",
        ),
        ({"architecture": replace(QUICK.architecture, model="gtp")}, "no model 'gtp'"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(text, tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        train(config(text, tmp_path / "run", **changes), quiet())


def test_a_config_comes_back_from_json_and_what_does_not_fit_is_named():
    for told in PRESETS.values():
        assert from_json(type(told), to_json(check(told))) == told
    document = json.loads(to_json(QUICK)) | {"colour": "red"}
    with pytest.raises(ValueError, match="no field colour"):
        from_json(type(QUICK), json.dumps(document))


def test_runs_without_a_name_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("modern-1", "modern-2", "modern-10"):
        assert run_folder.folder_for(PRESETS["quick"]) == Path("runs", name)
        (tmp_path / "runs" / {"modern-2": "modern-9"}.get(name, name)).mkdir(parents=True)


def test_a_log_file_gets_some_twenty_lines_and_a_terminal_a_live_panel():
    def shown(**kind):
        console = Console(file=io.StringIO(), width=100, **kind)
        with Panel(console, "CPU", 0, 800) as panel:
            for step in range(10, 801, 10):
                panel.show(Reading(step, 7.0 - step / 200, 3.0 - step / 400, 1e4, 80.0 - step / 10))
        return console.file.getvalue()

    lines = shown(force_terminal=False).splitlines()
    assert 18 <= len(lines) <= 22
    assert lines[-1] == "step 800 of 800   loss 3.000   1.000 bits per byte   10,000 tokens/s   0:00 left"
    live = shown(force_terminal=True)
    assert "step 800 of 800" in live
    assert "\x1b" in live


def test_the_pace_forgets_the_call_that_compiled(monkeypatch):
    now = iter([0.0, 100.0, 101.0, 102.0, 150.0, 151.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    pace = Pace(tokens_a_step=8, steps=50)
    pace.made(10)
    assert pace.tokens_per_second == pytest.approx(0.8)
    pace.made(10)
    pace.made(10)
    assert (pace.tokens_per_second, pace.seconds_left(30)) == (80, 2)
    pace.rest()
    pace.made(10)
    assert pace.tokens_per_second == 80


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_prints_the_command_that_continues(text, tmp_path, number):
    folder = tmp_path / "run"
    told = config(text, folder, steps=100_000, evaluate_every=100_000)
    program = """if True:
        import sys
        from minilm import config, trainer
        sys.exit(trainer.train(config.from_json(config.TrainConfig, sys.argv[1])).exit_code)"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, to_json(told)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    deadline = time.monotonic() + 120
    while not History(folder / "history.jsonl").records()[3:] and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    step = checkpoint.read_manifest(checkpoint.find(folder)).step
    assert step > 0
    assert f"Interrupted; step {step} is saved." in printed
    assert f"minilm train --resume {folder}\n" in printed
    assert resume(folder, replace(told, steps=step + 1), console=quiet()).step == step + 1


def test_a_corpus_that_cannot_be_read_leaves_no_run_behind(tmp_path):
    config = TrainConfig(data=DataConfig(corpus=str(tmp_path / "nowhere")), folder=str(tmp_path / "run"))
    with pytest.raises(FileNotFoundError, match="no file, folder or match"):
        trainer.train(config)
    assert list(tmp_path.iterdir()) == []
