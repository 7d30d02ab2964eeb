"""The flags of the command line, and how they are read. No part of JAX loads here: `--help` answers at once.

A field is a flag, the string below it is its help, its default the flag's default.
"""

import contextlib
import difflib
import io
import itertools
import re
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from minilm.config import PRESETS, DataConfig, ModelConfig, OptimizerConfig, TrainConfig, check_seed
from minilm.run_folder import latest_run, read_config

Flat = tyro.conf.OmitArgPrefixes  # --learning-rate, and not --config.optimization.learning-rate


@dataclass(frozen=True)
class Train:
    """Train a language model; with no flag, a small GPT on Python's own documentation, in three minutes."""

    preset: str = ""
    """Defaults for all other flags: default, long, plain, quick or gpu; unless given, what suits the device."""
    resume: str = ""
    """Go on with the run in this folder, as if it had never stopped; latest is the latest under runs/."""
    from_step: int = -1
    """Go on from this checkpoint of the run, instead of its last."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class Generate:
    """Continue a text with a trained model, token by token."""

    prompt: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT")]
    """The text to continue; - reads it from standard input, and "" starts a new document."""
    run: str = ""
    """The folder of the run whose model writes; unless given, the latest under runs/."""
    step: str = "best"
    """Which checkpoint: best (on held-out text), last, or the number of a step."""
    max_new_tokens: int = 100
    """Stop after so many tokens, or earlier: where the model ends the text, or its context is full."""
    samples: int = 1
    """How many texts to write, each drawn anew."""
    temperature: float = 0.8
    """Below 1 the likely becomes likelier, above 1 the text wilder; 0 always takes the likeliest token."""
    top_k: int = 0
    """Draw only from the k likeliest tokens; 0 draws from all."""
    top_p: float = 1.0
    """Draw only from the fewest tokens that together hold this probability; 1 draws from all."""
    min_p: float = 0.0
    """Draw only tokens at least this share as likely as the likeliest; 0 draws from all."""
    repetition_penalty: float = 1.0
    """Make what was already said less likely; 1 does not, 1.2 is common."""
    stop: tuple[str, ...] = ()
    """Strings at which the text ends; they are not printed."""
    beams: int = 0
    """Search for the likeliest text with so many beams, instead of drawing; 0 draws."""
    length_penalty: float = 1.0
    """For beams: scores are divided by length to this power; 0 favours short texts, 1 compares means."""
    seed: int = 0
    """The same seed writes the same text."""


@dataclass(frozen=True)
class Tokenize:
    """Show the tokens of a text, and their ids."""

    text: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]
    """The text; - reads it from standard input."""
    tokenizer: str = ""
    """byte, a run's folder, or a tokenizer.json; unless given, that of the latest run under runs/."""
    ids_only: bool = False
    """Print nothing but the ids, in one line."""


@dataclass(frozen=True)
class Fetch:
    """List the data sets that can be taken, with their size and terms, or take one into minilm's cache."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = ""
    """Which data set to take; its folder is printed. Without a name they are listed."""


@dataclass(frozen=True)
class Bench:
    """List the benchmarks of the repository and their committed results, or run one."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = ""
    """Which benchmark to run; without it they are listed."""


@dataclass(frozen=True)
class Info:
    """Show the devices; with a preset or a run, plan it: parameters, arithmetic, memory and time."""

    preset: str = ""
    """Plan this preset of `minilm train`."""
    run: str = ""
    """Plan the model of the run in this folder; latest is the latest under runs/."""
    batch_size: int = 0
    """Sequences a step; unless given, the preset's."""
    measure: bool = True
    """Measure this machine's speed, which takes about a second; without it the times stand for other machines only."""


KINDS: dict[str, Any] = {
    "train": Train,
    "generate": Generate,
    "tokenize": Tokenize,
    "fetch": Fetch,
    "bench": Bench,
    "info": Info,
}

EXAMPLES = {
    "train": """
minilm train                                   a small GPT, from nothing, in about three minutes
minilm train --preset quick                    the same in seconds, to see that all works
minilm train --corpus my_texts/ --steps 2000   your own texts, for longer
minilm train --resume runs/NAME --steps 2000   go on where a run stopped""",
    "generate": """
minilm generate "A class is"                   the latest run continues the prompt
minilm generate "A class is" --temperature 0   always the likeliest token
minilm generate - --stop "." < prompt.txt      a prompt from a file, one sentence
minilm generate "The" --beams 4                the likeliest text that four beams find""",
    "tokenize": """
minilm tokenize "A class is"                   pieces and ids
minilm tokenize "naïve 🙂" --tokenizer byte    its bytes
cat README.md | minilm tokenize - --ids-only   the ids alone, for a pipe""",
    "fetch": """
minilm fetch                                   what there is, how large, and under which terms
minilm fetch shakespeare                       take it, once, and print its folder
minilm train --corpus "$(minilm fetch shakespeare)"
MINILM_HOME=/data minilm fetch cmudict         keep it there, and not in ~/.cache/minilm
MINILM_OFFLINE=1 minilm fetch cmudict          never touch the network""",
    "bench": """
minilm bench                                   what there is, and what was measured
minilm bench training_step                     measure it here""",
    "info": """
minilm info                                    the devices that JAX sees
minilm info --preset long                      will it fit, and how long will it take?
minilm info --run latest                       the same of the model you trained""",
}

OVERVIEW = """usage: minilm COMMAND [flags]

Language models from scratch, in NumPy and JAX: train one, let it write, look inside.

commands:
  train      train a language model; with no flag, a small GPT in about three minutes
  generate   continue a text with a trained model
  tokenize   show the tokens of a text, and their ids
  fetch      list the data sets, or take one
  bench      list the benchmarks and their results, or run one
  info       show the devices; plan a model's memory and time

examples:
  minilm train
  minilm generate "A class is"
  minilm info --preset long

Every command explains its flags: minilm train --help"""


NESTED = {"config": TrainConfig, "data": DataConfig, "architecture": ModelConfig, "optimization": OptimizerConfig}


class UsageError(ValueError):
    """A command line that cannot be understood; the sentence says what could have been meant."""


def parse(command: str, arguments: list[str], preset: str = "default"):
    """The flags of a command as its dataclass; `train` starts from a preset, or from the run that it resumes."""
    kind = KINDS[command]
    _check_once(kind, arguments)
    default = Train(config=_defaults(arguments, preset)) if kind is Train else tyro.MISSING_NONPROP
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            flags, unknown = tyro.cli(
                Annotated[kind, Flat],  # pyright: ignore
                prog=f"minilm {command}",
                description=kind.__doc__,
                args=arguments,
                default=default,
                return_unknown_args=True,
            )
    except SystemExit as end:
        if end.code != 0:
            raise UsageError(_sentence(command, told.getvalue())) from None
        print(f"examples:{EXAMPLES[command]}".replace("\n", "\n  "))  # below the help, which has been printed
        raise
    if unknown:
        raise UsageError(_unknown(command, kind, unknown[0]))
    return flags


def _check_once(kind, arguments):
    """Refuse a flag that stands there twice, for tyro hears the last alone."""
    names, given = flag_names(kind), Counter()
    for argument in itertools.takewhile(lambda argument: argument != "--", arguments):
        flag = argument.split("=")[0].replace("_", "-")
        given[flag if flag in names else flag.replace("--no-", "--", 1)] += 1
    for flag in names:
        if given[flag] > 1:
            raise UsageError(f"{flag} stands twice, and only the last counts: give it once, with all its values.")


DRAWING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "seed")  # flags that no beam heeds


def check_generate(chosen: Generate) -> None:
    """Refuse, before anything is loaded, flags of `generate` that make no sense, or none together."""
    if chosen.step not in ("best", "last") and not chosen.step.isdecimal():
        raise UsageError(f"--step is {chosen.step!r}, and must be best, last, or the number of a step.")
    if chosen.samples < 1:
        raise UsageError(f"--samples is {chosen.samples}, and must be at least 1.")
    if chosen.beams and (unused := [name for name in DRAWING if getattr(chosen, name) != getattr(Generate, name)]):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        raise UsageError(f"--beams searches for the likeliest text and draws none, so leave out {flags}.")
    if not chosen.beams and chosen.length_penalty != Generate.length_penalty:
        raise UsageError("--length-penalty is of a search: name the --beams beside it, or leave it out.")
    check_seed(chosen.seed)


def check_info(chosen: Info) -> None:
    """Refuse flags of `info` that name no plan, or two."""
    if chosen.preset and chosen.preset not in PRESETS:
        close = nearest(chosen.preset, PRESETS)
        raise UsageError(f"There is no preset {chosen.preset!r}{close}; there are {', '.join(PRESETS)}.")
    if chosen.preset and chosen.run:
        raise UsageError("--preset and --run both name what is to be planned: give one of them.")
    if chosen.batch_size < 0:
        raise UsageError(f"--batch-size is {chosen.batch_size}, and must be at least 1.")
    for flag, told in (("--batch-size", chosen.batch_size), ("--no-measure", not chosen.measure)):
        if told and not (chosen.preset or chosen.run):
            raise UsageError(f"{flag} is of a plan: name a --preset or a --run beside it.")


def nearest(name: str, names) -> str:
    """', did you mean ...?' where some name is close, else nothing.

    >>> nearest("trian", ["train", "bench"])
    ' (did you mean train?)'
    """
    close = difflib.get_close_matches(name, list(names), n=2, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def flag_names(kind) -> list[str]:
    """The flags that a dataclass makes, those of the dataclasses within it included."""
    names = []
    for each in fields(kind):
        if tyro.conf.Positional not in getattr(each.type, "__metadata__", ()):
            names += flag_names(NESTED[each.name]) if each.name in NESTED else [f"--{each.name.replace('_', '-')}"]
    return names


def _sentence(command, box):
    """What tyro says between the first two rules of a box, in one line."""
    ruled = [list(lines) for rule, lines in itertools.groupby(box.splitlines()[1:], _is_rule) if not rule]
    said = " ".join(line.strip("│| ") for line in ruled[0])
    kinds = {"invalid literal for int.*?": "whole number", "could not convert string to float": "number"}
    for words, kind in kinds.items():
        said = re.sub(rf"Error parsing (--\S+): {words}: (.+)", rf"\1 takes a {kind}, and was given \2", said)
    return f"{said.removesuffix('(required)').strip(' .')}; `minilm {command} --help` explains it."


def _is_rule(line):
    return not line.strip("│| ─-+╭╮")


def _unknown(command, kind, argument):
    flag = argument.split("=")[0]
    if not flag.startswith("-"):
        said = f"`minilm {command}` does not know what to do with {argument!r}"
        return f"{said}: texts with spaces and patterns such as '*.txt' need quotes."
    if flag in flag_names(kind):  # then it stands behind --
        return (
            f"`minilm {command}` takes all behind -- for text, {flag} too: give flags before it, the text alone behind."
        )
    return (
        f"`minilm {command}` has no flag {flag}{nearest(flag, flag_names(kind))}; `minilm {command} --help` shows all."
    )


def _defaults(arguments, preset):
    """What the flags of `train` start from: a preset, or the config of the run that is to go on."""
    name, folder = _value_of("--preset", arguments), _value_of("--resume", arguments)
    if folder == "":
        raise UsageError("--resume needs the folder of a run, or latest: it was given nothing.")
    if folder is None:
        if _value_of("--from-step", arguments) is not None:
            raise UsageError("--from-step says where a run goes on that --resume names: give both, or leave it out.")
        name = name or preset
        if name not in PRESETS:
            raise UsageError(f"There is no preset {name!r}{nearest(name, PRESETS)}; there are {', '.join(PRESETS)}.")
        return PRESETS[name]
    if name is not None:
        raise UsageError("--resume goes on with the run's own settings, so --preset cannot stand beside it.")
    return read_config(latest_run() if folder == "latest" else Path(folder))


def _value_of(flag, arguments):
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        if argument == flag:
            return following
        if argument.startswith(flag + "="):
            return argument.removeprefix(flag + "=")
    return None
