"""What a run is told is refused before anything is read; what ends before its first checkpoint leaves no run behind."""

import errno
import io
import math
import os
import sys
from dataclasses import replace

import pytest
from rich.console import Console

import minilm.console
from minilm import checkpoint, run_folder, trainer
from minilm.checkpoint import CheckpointError
from minilm.config import PRESETS, DataConfig, ModelConfig, OptimizerConfig
from minilm.data.tokenizers import ByteTokenizer, CharacterTokenizer
from minilm.history import History
from minilm.interruption import Terminated
from tests.test_unread import Left

WIDTHS = {"n_layers": 1, "n_heads": 2, "d_model": 8, "context_length": 12}
QUICK = replace(
    PRESETS["quick"],
    architecture=ModelConfig(**WIDTHS),
    optimization=OptimizerConfig(),
    steps=4,
    steps_per_call=2,
    evaluate_every=2,
    evaluate_batches=1,
    baselines=(),
    samples=0,
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "one.txt"
    path.write_text("\n\n".join(f"Paragraph {i} says {i**3} and then {i**5}, as no other does." for i in range(60)))
    return path


def told(text, folder, **changes):
    return replace(QUICK, data=DataConfig(str(text), tokenizer="byte", held_out=0.2), folder=str(folder), **changes)


def train(config):
    return trainer.train(config, Console(file=io.StringIO(), width=120))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": ModelConfig(n_layers=0)}, "--n-layers is 0, and must be at least 1"),
        ({"steps": 1 << 31}, "--steps is 2147483648, and must be at most 2147483647"),
        ({"optimization": OptimizerConfig(warmup_steps=1 << 31)}, "--warmup-steps is .* at most 2147483647"),
        ({"architecture": ModelConfig(n_heads=3)}, "3 heads cannot share a width of 128 equally: choose an --n-heads"),
        ({"architecture": ModelConfig(mixer="gla")}, "gpt knows no --mixer: leave it out, .* that does: mixer_lm"),
        ({"architecture": ModelConfig(d_hidden=9)}, "gpt knows no --d-hidden: .*: mlp_lm, rnn_lm"),
        (
            {"architecture": ModelConfig(model="mixer_lm", mixer="glb")},
            "no attention variant .glb., did you mean",
        ),
        ({"optimization": OptimizerConfig(learning_rate=-1.0)}, "--learning-rate is -1.0, and must be more than 0"),
        (
            {"optimization": OptimizerConfig(learning_rate=math.inf)},
            "--learning-rate is inf, .* more than 0, and finite",
        ),
        ({"optimization": OptimizerConfig(matrix_learning_rate=math.nan)}, "--matrix-learning-rate is nan, and must"),
        ({"optimization": OptimizerConfig(clip_norm=0.0)}, "--clip-norm is 0.0, and must be more than 0"),
        ({"optimization": OptimizerConfig(warmup_steps=-5)}, "--warmup-steps is -5, and must be 0, for none, or more"),
        ({"optimization": OptimizerConfig(warmdown_share=2.0)}, "--warmdown-share is 2.0, .* a share from 0 to 1"),
        ({"optimization": OptimizerConfig(final_share=-0.1)}, "--final-share is -0.1, .* a share from 0 to 1"),
        ({"optimization": OptimizerConfig(weight_decay=-1.0)}, "--weight-decay is -1.0, .* 0, for none, or more"),
        ({"optimization": OptimizerConfig(beta_1=1.5)}, "--beta-1 is 1.5, .* a share from 0 to below 1"),
        ({"optimization": OptimizerConfig(beta_2=1.0)}, "--beta-2 is 1.0, .* a share from 0 to below 1"),
        ({"patience": -1}, "--patience is -1, and must be 0, for none, or more"),
        ({"seed": -1}, "--seed is -1, and must be a whole number from 0 to 4294967295"),
        ({"seed": 1 << 32}, "--seed is 4294967296, and must be a whole number from 0 to 4294967295"),
        ({"optimization": OptimizerConfig(optimizer="sgd")}, "no optimizer 'sgd'"),
        ({"baselines": ("xz", "6-gram")}, "no baseline called '6-gram'; there are unigram, .*, xz"),
        ({"samples": -1}, "--samples is -1, and must be 0, for none, or more"),
        ({"mesh": "data=64"}, "The mesh data=64 needs 64 devices"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(changes, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        train(told(tmp_path / "none.txt", tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"samples": 1, "prompt": 13 * "a"}, "--prompt: The prompt has 13 tokens, and the model's context of 12"),
        (
            {"architecture": ModelConfig(**WIDTHS | {"context_length": 9999})},
            "tokens, fewer than the 10000",
        ),
    ],
)
def test_what_ends_before_its_first_checkpoint_leaves_a_folder_as_it_was(
    changes, sentence, text, tmp_path, monkeypatch
):
    (tmp_path / "mine.txt").write_text("kept")
    for folder in (tmp_path / "new", tmp_path):
        with pytest.raises(ValueError, match=sentence):
            train(told(text, folder, **changes))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        train(replace(told(text, "", **changes), folder=""))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["one.txt", "one.txt/run", "new/" + "x" * 300])
def test_a_folder_that_cannot_be_is_refused_by_its_flag(name, text):
    with pytest.raises(ValueError, match=r"cannot have the folder .*: .*\. Give --folder another, where you may write"):
        train(told(text, text.parent / name))
    assert [path.name for path in text.parent.iterdir()] == ["one.txt"]


def test_a_run_that_ends_before_anything_was_measured_leaves_no_folder(text, tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(trainer, "evaluation_batches", full)
    with pytest.raises(MemoryError):
        train(told(text, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_that_is_written_whole_is_as_it_was_where_that_fails(call, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    history = History(tmp_path / "history.jsonl")
    history.add([{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}])
    whole = history.path.read_bytes()
    monkeypatch.setattr(os, call, full)
    history.cut_after(2)  # nothing changes, so nothing is written
    with pytest.raises(OSError, match="No space left"):
        history.cut_after(1)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [whole]
    monkeypatch.undo()
    history.cut_after(1)
    assert history.records() == [{"step": 1, "loss": 2.5}]


def test_a_line_of_history_that_is_no_record_is_skipped(tmp_path):
    history = History(tmp_path / "history.jsonl")
    other = [b"[1]", b"3", b'"a"', b"\xff\xfe", b'{"loss": 1}', b'{"step": "2"}', b'{"step": 2, "lo']
    history.path.write_bytes(b"\n".join([b'{"step": 1, "loss": 2.5}', *other]))
    assert history.records() == [{"step": 1, "loss": 2.5}]
    history.cut_after(1)
    history.add([{"step": 2, "loss": 2.0}])
    assert [record["step"] for record in history.records()] == [1, 2]


def test_a_loss_that_never_was_a_number_leaves_its_history_and_the_name_to_another_run(text, tmp_path):
    with pytest.raises(ArithmeticError, match="There is no checkpoint yet"):
        train(told(text, tmp_path / "run", optimization=OptimizerConfig(learning_rate=1e30, warmup_steps=0)))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["history.jsonl"]
    assert train(told(text, tmp_path / "run")).step == 4


def test_where_the_history_finds_no_room_the_checkpoint_before_it_and_the_way_on_are_named(text, tmp_path, monkeypatch):
    add = History.add

    def full(history, records):
        if records[0]["step"] > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(history, records)

    monkeypatch.setattr(History, "add", full)
    sentence = r"had to stop: No space left on device\. step-00000002 is intact; .* `minilm train --resume .*run`"
    with pytest.raises(OSError, match=sentence):
        train(told(text, tmp_path / "run"))
    monkeypatch.undo()
    assert trainer.resume(tmp_path / "run", console=Console(file=io.StringIO())).step == 4


@pytest.mark.parametrize(("name", "why"), [("state.safetensors", "Is a directory"), ("manifest.json", "damaged")])
def test_what_the_system_does_not_read_is_not_called_intact_and_who_writes_is_offered_how_to_write(
    name, why, text, tmp_path
):
    run = tmp_path / "a run"
    train(told(text, run))
    for step, whole in ((4, 2), (2, 4)):
        damaged = checkpoint.find(run, step) / name
        damaged.rename(run / "aside")
        damaged.mkdir()
        with pytest.raises(
            CheckpointError, match=f"{why}.*step-0000000{whole} beside it is whole: take that with"
        ) as e:
            checkpoint.load_run(run, step)
        assert str(e.value).endswith(f"`minilm generate PROMPT --run '{run}' --step {whole}`.")
        with pytest.raises(CheckpointError, match=f"{why}.* before it is whole: ") as e:
            trainer.resume(run, from_step=step)
        assert "intact" not in str(e.value)
        damaged.rmdir()
        (run / "aside").rename(damaged)


@pytest.mark.parametrize(("interrupt", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_interrupted_behind_its_last_step_a_run_says_how_to_go_on(interrupt, code, text, tmp_path, monkeypatch):
    def interrupted(*_):
        raise interrupt

    console = Console(file=io.StringIO(), width=120)
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "baselines", interrupted)
        result = trainer.train(told(text, tmp_path / "run"), console)
    assert (result.step, result.exit_code) == (4, code)
    assert f"minilm train --resume {tmp_path / 'run'}" in console.file.getvalue()
    assert trainer.resume(tmp_path / "run", console=console).validation > 0


def test_a_run_goes_on_where_nobody_reads_what_it_says(text, tmp_path, monkeypatch):
    reading = []
    monkeypatch.setattr(minilm.console, "nobody_reads", reading.append)
    assert trainer.train(told(text, tmp_path / "run"), minilm.console.RunConsole(file=Left())).step == 4
    assert reading == [sys.stdout]
    assert checkpoint.steps(tmp_path / "run")


def test_a_tokenizer_exchanged_while_a_run_trains_is_told_at_its_end_and_all_that_was_saved_is_kept(
    text, tmp_path, monkeypatch
):
    folder, save = tmp_path / "run", checkpoint.save

    def exchange(run, *rest, **options):
        CharacterTokenizer.train([""]).save(run / "tokenizer.json")
        return save(run, *rest, **options)

    monkeypatch.setattr(checkpoint, "save", exchange)
    with pytest.raises(ValueError, match="is not what the run began with, though it has as many tokens"):
        trainer.train(told(text, folder), Console(file=io.StringIO()))
    ByteTokenizer().save(folder / "tokenizer.json")
    assert checkpoint.load_run(folder, "last").manifest.step == 4


@pytest.mark.parametrize("name", ["config.json", "model.json"])
def test_a_damaged_description_is_named(name, tmp_path):
    ByteTokenizer().save(tmp_path / "tokenizer.json")
    run_folder.write_config(tmp_path, QUICK)
    run_folder.write_model(tmp_path, QUICK.architecture, 257)
    (tmp_path / name).write_text((tmp_path / name).read_text()[:20])
    read = run_folder.read_config if name == "config.json" else run_folder.read_model
    with pytest.raises(ValueError, match=rf"{name} is damaged, for it is no JSON: .*\. Restore it, or train anew\."):
        read(tmp_path)
    assert not checkpoint.steps(tmp_path)


@pytest.mark.parametrize(
    ("name", "contents", "sentence"),
    [
        ("config.json", '{"steps": "many"}', "A saved TrainConfig has steps 'many', where int was expected"),
        (
            "config.json",
            '{"data": {"held_out": true}}',
            "A saved DataConfig has held_out True, where float was expected",
        ),
        ("config.json", '{"baselines": "xz"}', r"has baselines 'xz', where tuple.* was expected"),
        ("config.json", '{"optimization": {"schedule": "sine"}}', "has schedule 'sine', where .*cosine.* was expected"),
        ("config.json", '{"optimization": 3}', "A saved OptimizerConfig is 3, where its fields were expected"),
        ("config.json", "[" * 100_000, "config.json is damaged, for it is no JSON"),
        ("model.json", "[]", "model.json is damaged, for it holds no model with its config"),
        ("model.json", '{"model": "gpt"}', "model.json is damaged, for it holds no model with its config"),
        ("model.json", '{"model": [], "config": {}}', r"There is no model '\[\]'"),
        ("model.json", '{"model": "gpt", "config": {"n_heads": 0.5}}', "A saved Config has n_heads 0.5, where int was"),
        ("model.json", '{"model": "gpt", "config": {"n_heads": 0}}', "its n_heads is 0, and must be at least 1"),
    ],
)
def test_a_description_that_fits_nothing_says_what_was_expected(name, contents, sentence, tmp_path):
    run_folder.write_config(tmp_path, QUICK)
    (tmp_path / name).write_text(contents)
    read = run_folder.read_config if name == "config.json" else run_folder.read_model
    with pytest.raises(ValueError, match=sentence):
        read(tmp_path)


def test_a_folder_that_its_last_process_took_with_it_is_refused(tmp_path, monkeypatch):
    opened = os.open

    def lose(path, flags):
        descriptor = opened(path, flags)
        os.rename(path, tmp_path / "of the first")
        os.mkdir(path)
        return descriptor

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(run_folder.os, "open", lose)
    with pytest.raises(ValueError, match="Another process is at the run in"):
        run_folder.alone(tmp_path / "run").__enter__()
