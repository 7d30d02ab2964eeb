"""The commands as their users type them, good and bad input alike."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from minilm import cli, flags, trainer
from minilm.config import PRESETS


def minilm(*arguments, folder, given=""):
    """Run the command line in its own process, in an empty folder, with its caches there."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "JAX_PLATFORMS": "cpu", "COLUMNS": "120"}
    environment.pop("MINILM_TRACEBACK", None)
    command = [sys.executable, "-m", "minilm.cli", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, input=given, capture_output=True, text=True, encoding="utf-8"
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one small run in it, made by the command itself."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "corpus").mkdir()
    for i in range(12):
        (folder / "corpus" / f"{i}.txt").write_text(
            f"A class is a class, and {i} is a number. Nothing else is {i}.\n" * 20
        )
    data = ["--corpus", "corpus", "--tokenizer", "byte", "--held-out", "0.2", "--baselines", "unigram"]
    sizes = ["--steps", "4", "--n-layers", "1", "--samples", "0", "--model", "gpt"]
    done = minilm("train", "--preset", "quick", *data, *sizes, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


# ── without JAX ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in cli.COMMANDS)])
def test_help_loads_neither_jax_nor_numpy(arguments):
    program = f"""
import sys
from minilm.cli import main
try:
    code = main({arguments!r})
except SystemExit as end:
    code = end.code
print(code, sorted(sys.modules.keys() & {{"jax", "numpy", "optax"}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert "examples:" in done.stdout


def test_every_flag_has_a_sentence(capsys):
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit):
            flags.parse(command, ["--help"])
        text = capsys.readouterr().out
        for name in flags.flag_names(flags.KINDS[command]):
            after = text[text.index(name) + len(name) :].split("│ --")[0]
            assert len(re.findall(r"[a-z]{2,}", after)) > 3, f"{command} {name} is not explained"


def test_a_flag_overrides_its_preset_and_nothing_else():
    chosen = flags.parse(
        "train", ["--preset", "quick", "--learning-rate", "0.5", "--baselines", "xz", "unigram"]
    ).config
    assert chosen.optimization.learning_rate == 0.5
    assert chosen.baselines == ("xz", "unigram")
    assert chosen.steps == PRESETS["quick"].steps
    assert flags.parse("generate", ["A", "--stop", "the", "zzz"]).stop == ("the", "zzz")
    assert flags.parse("train", []).config == PRESETS["default"]
    assert flags.parse("train", ["--preset=long"]).config == PRESETS["long"]


@pytest.mark.parametrize(("platform", "preset"), [("cpu", "default"), ("gpu", "gpu"), ("tpu", "gpu")])
def test_on_an_accelerator_the_same_command_trains_a_larger_model_in_bfloat16(platform, preset, monkeypatch):
    """And a preset that is named is taken anywhere."""
    asked = []
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(trainer, "train", lambda config: asked.append(config) or SimpleNamespace(exit_code=0))
    for arguments in (["train"], ["train", "--preset", "quick"]):
        cli.main(arguments)
    assert asked == [PRESETS[preset], PRESETS["quick"]]
    assert PRESETS["gpu"].architecture.d_model > PRESETS["default"].architecture.d_model
    assert PRESETS["gpu"].compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], r"There is no command 'trian' \(did you mean train\?\); there are train, generate"),
        (["train", "--lerning-rate", "3"], r"no flag --lerning-rate \(did you mean --learning-rate"),
        (["train", "--preset", "quikc"], r"no preset 'quikc' \(did you mean quick\?\); there are default"),
        (["train", "--resume", "x", "--preset", "quick"], r"--preset cannot stand beside it"),
        (["info", "--preset", "lnog"], r"no preset 'lnog' \(did you mean long\?\)"),
        (["generate", "A", "class"], r"does not know what to do with 'class': texts with spaces and patterns such"),
        (["generate", "A", "--step", "nine"], r"--step is 'nine', and must be best, last, or the number"),
        (["generate", "A", "--samples", "0"], r"--samples is 0, and must be at least 1"),
        (["generate", "A", "--beams", "2", "--stop", ".", "--top-k", "3"], r"draws none, so leave out --top-k, --stop"),
        (["generate", "A", "--beams", "2", "--seed", "3"], r"draws none, so leave out --seed"),
        (["generate", "A", "--length-penalty", "-1"], r"--length-penalty is of a search: name the --beams beside it"),
        (["info", "--preset", "quick", "--run", "latest"], r"both name what is to be planned: give one of them"),
        (["info", "--batch-size", "4"], r"--batch-size is of a plan: name a --preset or a --run beside it"),
        (["info", "--no-measure"], r"--no-measure is of a plan: name a --preset or a --run beside it"),
        (["info", "--preset", "quick", "--batch-size", "-4"], r"--batch-size is -4, and must be at least 1"),
        (
            ["train", "--steps", "many"],
            r"--steps takes a whole number, and was given 'many'; `minilm train --help`",
        ),
        (["train", "--learning-rate", "high"], r"--learning-rate takes a number, and was given 'high'"),
        (["train", "--tokenizer", "bpf"], r"invalid choice 'bpf' for argument '--tokenizer'. Expected one of"),
        (["train", "--from-step", "3"], r"--from-step says where a run goes on that --resume names: give both"),
        (
            ["train", "--resume", "", "--steps", "9"],
            r"--resume needs the folder of a run, or latest: it was given",
        ),
        (["generate", "A", "--stop", "a", "--stop=b"], r"--stop stands twice, .*: give it once, with all its values"),
        (["train", "--steps_per_call=3", "--steps-per-call", "4"], r"--steps-per-call stands twice"),
        (["train", "--preset", "quick", "--remat", "--no-remat"], r"--remat stands twice"),
        (["generate", "--", "-x", "--run", "R"], r"takes all behind -- for text, --run too: give flags before it"),
        (["generate", "A", "--prompt", "x"], r"has no flag --prompt \(did you mean --min-p\?\)"),
        (["train", "--corpus"], r"Missing value for argument '--corpus'"),
        (["generate"], r"Missing from minilm generate: PROMPT The text to continue"),
        (["tokenize"], r"Missing from minilm tokenize: TEXT"),
        (["bench", "trainingstep"], r"no benchmark 'trainingstep' \(did you mean training_step\?\)"),
    ],
)
def test_a_command_line_that_cannot_be_understood_is_answered_in_a_sentence(arguments, sentence, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("minilm: ")
    assert re.search(sentence, error)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError("Unable to allocate 9. PiB"), r"not enough memory for that \(Unable .* PiB\): .*--batch-size"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out"), r"not enough memory for that \(RES.*: Out\): .* larger --accumulate"),
        (
            PermissionError(13, "Permission denied", "mine.txt"),
            r"minilm: mine\.txt cannot be used: Permission denied\.",
        ),
        (OSError(27, "File too large"), r"minilm: A file that is needed cannot be used: File too large\."),
    ],
)
def test_what_the_system_refuses_is_said_in_a_sentence(error, sentence, monkeypatch, capsys):
    def command(_):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "info", command)
    assert cli.main(["info"]) == 1
    assert re.search(sentence, capsys.readouterr().err)


def test_no_command_shows_what_there_is(capsys):
    assert cli.main([]) == 2
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)
    assert cli.main(["--version"]) == 0


def test_benchmarks_are_listed_with_their_question(capsys):
    assert cli.main(["bench"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"training_step +How fast is a training step", shown)
    assert re.search(r"attention +Which attention", shown), "a package with a __main__ is a benchmark too"


# ── before there is a run ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["generate", "A"], "There is no trained run under runs/: `minilm train` makes one"),
        (["generate", "A", "--run", "runs/none"], "There is no folder runs/none"),
        (["generate", "A", "--seed", "99999999999999999999"], "--seed is 99999999999999999999, and must be a whole"),
        (["train", "--resume", "latest"], "There is no trained run under runs/: `minilm train` makes one"),
        (["train", "--seed", "-1"], "--seed is -1, and must be a whole number from 0 to"),
        (["tokenize", "A", "--tokenizer", "none.json"], "There is no tokenizer at none.json"),
        (["train", "--resume", "none"], "none is not the folder of a run: it has no config.json"),
        (["train", "--steps", "0"], "--steps is 0, and must be at least 1"),
        (
            ["train", "--dropout", "1.5", "--corpus", "none.txt"],
            "--dropout is 1.5, and must be a share from 0 to below 1",
        ),
        (["train", "--corpus", "none.txt"], "none.txt"),
        (["train", "--model", "gtp"], "There is no model 'gtp'"),
    ],
)
def test_what_is_missing_or_senseless_is_named_in_a_sentence(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_prepare", lambda: None)  # the tests' own process keeps its allocator and caches
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("minilm: ")
    assert "Traceback" not in error


def test_bytes_are_tokens_that_a_pipe_can_carry(tmp_path):
    done = minilm("tokenize", "-", "--tokenizer", "byte", "--ids-only", folder=tmp_path, given="né")
    assert (done.stdout, done.stderr) == ("110 195 169\n", "")
    shown = minilm("tokenize", "né", "--tokenizer", "byte", folder=tmp_path).stdout.splitlines()
    assert shown == [r"n|\xc3|\xa9", "110 195 169", "3 tokens of 257, 3 bytes, 1.00 bytes a token"]


# ── with a run ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_trained_run_continues_a_prompt_alike_each_time(trained, capsys, monkeypatch):
    once = minilm("generate", "A class", "--max-new-tokens", "9", folder=trained)
    assert once.returncode == 0, once.stderr
    assert once.stdout.startswith("A class")
    assert in_process(monkeypatch, trained, "generate", "A class", "--max-new-tokens", "9") == 0
    assert capsys.readouterr().out == once.stdout


def test_generation_says_that_the_context_is_full(trained, capsys, monkeypatch):
    assert in_process(monkeypatch, trained, "generate", "A class", "--max-new-tokens", 22 * "4", "--top-k", "3") == 0
    assert "The model's context of 32 tokens is full" in capsys.readouterr().err


def test_beams_and_samples_are_printed(trained, capsys, monkeypatch):
    arguments = ["generate", "A class", "--max-new-tokens", "5", "--samples", "2"]
    assert in_process(monkeypatch, trained, *arguments, "--beams", "3") == 0
    captured = capsys.readouterr()
    assert captured.out.count("A class") == 2
    assert captured.err.count("(score -") == 2
    assert in_process(monkeypatch, trained, *arguments) == 0
    assert capsys.readouterr().out.count("A class") == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["A class is a class is a class is a class"], "the model's context of 32 must hold it and at least one more"),
        (["A", "--temperature", "-1"], "temperature must be 0"),
        (["A", "--top-p", "0"], "top_p must be above 0"),
        (["A", "--max-new-tokens", "0"], "max_new_tokens must be at least 1"),
        (["A", "--beams", "100000000"], "beams must be at most 8355967 with a vocabulary of 257 tokens"),
        (["A", "--stop", ""], "Stop strings come as a list of strings, none of them empty"),
        (["A", "--step", "3"], "holds no checkpoint of step 3"),
        (["A", "--run", "runs/gtp-1"], "There is no folder runs/gtp-1 (did you mean runs/gpt-1?)"),
    ],
)
def test_generation_refuses_in_a_sentence_and_prints_nothing_else(trained, arguments, sentence, capsys, monkeypatch):
    assert in_process(monkeypatch, trained, "generate", *arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sentence in captured.err


def test_an_empty_prompt_starts_a_new_document(trained, capsys, monkeypatch):
    assert in_process(monkeypatch, trained, "generate", "", "--max-new-tokens", "3") == 0


def test_info_plans_a_preset_and_a_run(trained, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert in_process(monkeypatch, trained, "info") == 0
    assert "computes on cpu" in capsys.readouterr().out
    parameters = 257 * 32 + 32 * 32 + (4 * 32 * 32 + 4 * 32 + 8 * 32 * 32 + 5 * 32 + 4 * 32) + 2 * 32
    assert in_process(monkeypatch, trained, "info", "--run", "latest", "--no-measure") == 0
    assert f"{parameters:,}" in capsys.readouterr().out
    assert in_process(monkeypatch, trained, "info", "--preset", "quick") == 0
    shown = capsys.readouterr().out
    assert "this machine" in shown
    assert "writes about" in shown, "which is no bound: see benchmarks/results/plan.json"
    assert "H100 SXM" in shown


def test_a_resumed_run_keeps_its_settings(trained):
    saved = json.loads(Path(trained, "runs/gpt-1/config.json").read_text())
    chosen = flags.parse("train", ["--resume", str(trained / "runs/gpt-1"), "--steps", "6"]).config
    assert chosen.data.corpus == saved["data"]["corpus"] == "corpus"
    assert chosen.steps == 6


def in_process(monkeypatch, folder, *arguments):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cli, "_prepare", lambda: None)
    return cli.main(list(arguments))
