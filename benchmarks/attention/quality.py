"""What can an attention variant recall, and how large is it?

    python -m benchmarks.attention.quality                          eight variants, one task, under ten CPU minutes
    python -m benchmarks.attention.quality --preset cpu             four tasks, three seeds, three rates: 7 CPU hours
    python -m benchmarks.attention.quality --tasks mqar:length=128,pairs=32 --variants nope gated-delta-net
    python -m benchmarks.attention.quality --views [FOLDER]         only the table, and the plots, of what is there
    python -m benchmarks.attention.quality --cost                   what a step of each row takes, timed in turn

One JSON line a cell (task, variant, seed, learning rate) is appended to the file as soon as it is measured, and what
the file holds is not run again. A cell of a variant that cannot be, or whose `step` and `apply` differ, is a line with
the reason. Two accuracies of those
who recall nothing stand beside every result, and so does the short convolution, whose beginning decides much.
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import benchmarks.measure as measure
from benchmarks.attention import options, quality_views, record
from minilm.flags import UsageError
from minilm.run_folder import write_whole

SCHEMA = 1
VARIANTS = "rows of minilm.variants, or module:function, with their options"
FILE = Path("attention_quality.jsonl")
DECODED = measure.RESULTS / "attention_decode.jsonl"
CONVOLVED = ("nope", "mha", "window:width=16", "linear", "based", "retnet", "gla", "rwkv6")  # the others have their own
OWN = ("mamba2", "delta-net", "gated-delta-net")
SOFTMAX = ("mqa", "gqa", "mla", "alibi", "sigmoid", "differential", "forgetting", "gated")
SPARSE = ("top-k:n=4", "moba:size=16,n=1")


RECALLED = dict.fromkeys(("mqar", "selective-copy", "induction"), (1e-3, 3e-3, 1e-2))
RATES = RECALLED | {"lm": (3e-3, 1e-2, 3e-2)}  # around 1e-2, which is the best for most


@dataclass(frozen=True)
class Preset:
    """Which cells: every combination of the four. Without rates, a task has its own three."""

    tasks: tuple[str, ...]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    rates: tuple[float, ...] | None = None
    early_stop: bool = True


def with_convolution(names) -> tuple[str, ...]:
    """The variants with a short convolution of width 3 before them, shared by queries, keys and values."""
    return tuple(f"{name}{',' if ':' in name else ':'}convolution=3" for name in names)


def papers() -> tuple[str, ...]:
    """The grids of Zoology (MQAR), MAD (selective copying) and Mamba (induction), with the rows they see in all.

    Two heads where Zoology has one, for some variants need two.
    """
    recall = [
        f"mqar:vocab_size=8192,length={t},pairs={k},rows={rows},d={d},steps={6_400_000 // rows // 10 * 10}"
        for t, k, rows in [(64, 4, 512), (128, 8, 512), (256, 16, 256), (512, 64, 128)]
        for d in (64, 128, 256, 512)
    ]
    copying = [
        f"selective-copy:vocab_size={v},length={t},pairs={k},rows=128,d=128,heads=4,steps=20000"
        for v, t, k in [(v, 256, 16) for v in (16, 32, 64, 128)]
        + [(16, t, 16) for t in (512, 1024)]
        + [(16, 256, k) for k in (32, 64, 96)]
    ]
    return (*recall, *copying, "induction:length=256,steps=25000", "lm:d=256,heads=8,layers=6,steps=10000,rows=32")


EIGHT = (*with_convolution(("nope", "window:width=16", "linear", "retnet")), "mha", *OWN)
ALL = with_convolution(CONVOLVED) + OWN + with_convolution(SOFTMAX + SPARSE)
PRESETS = {
    "smoke": Preset(("mqar:steps=800",), EIGHT, seeds=(0,), rates=(1e-2,)),
    "cpu": Preset(("mqar", "induction", "selective-copy:pairs=4", "lm"), EIGHT, seeds=(0, 1, 2)),
    "full": Preset(papers(), ALL, seeds=(0, 1, 2), rates=(1e-4, 4.6e-4, 2.2e-3, 1e-2), early_stop=False),
}


def parser() -> argparse.ArgumentParser:
    """The flags; what is not given is the preset's."""
    flags = options.Parser("quality", __doc__)
    flags.add_argument("--preset", type=options.one_of(PRESETS, "preset"), default="smoke", help=", ".join(PRESETS))
    flags.add_argument("--tasks", nargs="+", help="mqar, selective-copy, induction, lm; sizes behind a colon")
    flags.add_argument("--variants", nargs="+", type=options.names, metavar="NAMES", help=VARIANTS)
    flags.add_argument("--seeds", nargs="+", type=options.whole)
    flags.add_argument("--rates", nargs="+", type=options.rate, help="learning rates, of which the best counts")
    flags.add_argument("--steps", type=options.positive, help="of every task, instead of its own")
    flags.add_argument("--every", type=options.positive, default=quality_views.EVERY, help="steps between measurements")
    flags.add_argument("--early-stop", action=argparse.BooleanOptionalAction, help="stop at 99%%")
    flags.add_argument("--match", choices=("params", "state"), help="make parameters, or state bytes, agree")
    flags.add_argument("--like", default="mha", help="the variant whose size is matched")
    flags.add_argument(
        "--out", type=Path, default=FILE, help=f"the file of results, continued where it ends (default: {FILE})"
    )
    flags.add_argument("--plan", action="store_true", help="list the cells, and run none")
    flags.add_argument("--views", nargs="?", const="", metavar="FOLDER", help="table of the file; plots into a folder")
    flags.add_argument(
        "--cost",
        nargs="?",
        const=60,
        type=options.positive,
        metavar="SECONDS",
        help="train nothing; time a step of all that the file holds, in turn, so many CPU seconds a table (60)",
    )
    flags.add_argument("--decoded", type=Path, default=DECODED, help="rows of decode --out, for the second plot")
    flags.add_argument("--core", type=core, help="the core to hold everything to (default: the first it may use)")
    flags.add_argument(options.ACCELERATOR, action="store_true", help="use the device that JAX finds, not one CPU core")
    return flags


def core(text: str) -> int:
    """The number of a core that this process may use."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if not text.isdecimal() or int(text) not in usable:
        raise argparse.ArgumentTypeError(f"{text!r} is no core that may be used: {', '.join(map(str, usable))}")
    return int(text)


def cells(arguments) -> list:
    """The cells that are asked for, in the order in which they run: whole tables before second seeds."""
    from benchmarks.attention.quality_cell import Cell
    from benchmarks.attention.quality_tasks import setting
    from minilm import variants

    preset, given = PRESETS[arguments.preset], vars(arguments)
    wanted = {field.name: given[field.name] for field in fields(preset) if given[field.name] is not None}
    if "variants" in wanted:
        wanted["variants"] = dict.fromkeys(name for names in wanted["variants"] for name in names)
        if not wanted["variants"]:
            raise UsageError("There is nothing to measure: name a variant, of those that `list` shows.")
    preset = replace(preset, **wanted)
    variants.table.read(arguments.like)  # which refuses what it does not know
    steps = {} if arguments.steps is None else {"steps": arguments.steps}
    return [
        Cell(
            setting=replace(setting(task), **steps),
            variant=variant,
            seed=seed,
            learning_rate=rate,
            every=arguments.every,
            early_stop=preset.early_stop,
            match=(arguments.match, arguments.like) if arguments.match else None,
        )
        for seed in preset.seeds
        for task in preset.tasks
        for rate in preset.rates or RATES[setting(task).task]
        for variant in preset.variants
    ]


def rows_of(path: Path) -> list[dict]:
    """The file's rows; none where there is no file."""
    rows = record.all_of(path) if path.exists() else []
    if any(row["mode"] != "quality" for row in rows):
        raise UsageError(f"{path} holds measurements of another command: name a file of its own by --out.")
    return rows


def append(row: dict, path: Path) -> None:
    """Add a row behind what is there; what a killed run left half-written stays a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    there = path.read_text() if path.exists() else ""
    with open(path, "a") as file:
        file.write(("\n" if there and not there.endswith("\n") else "") + json.dumps(row) + "\n")


def measured(cell, command: str) -> dict:
    """A cell's row. What a variant refuses, it refuses with a reason, which is a result too; as is how it fails."""
    from benchmarks.attention.protocol import failure
    from benchmarks.attention.quality_cell import run

    where = record.environment(command)
    try:
        results = run(cell)
    except ValueError as refusal:
        results = {"status": "unsupported", "reason": str(refusal)}
    except Exception as error:  # whatever a variant does, the others are still measured
        results = failure(error)
    return {"schema": SCHEMA, "mode": "quality"} | cell.identity | results | {"environment": where}


def with_costs(rows: list[dict], flags) -> list[dict]:
    """The rows with what a step of each takes, as the file holds them from now on."""
    from benchmarks.attention.protocol import timer
    from benchmarks.attention.quality_cost import timed

    asked = (parser().parse_args(command.split()[4:]) for command in quality_views.commands(rows))
    try:
        wanted = [cell for each in asked for cell in cells(each)]
    except ValueError as refusal:
        raise UsageError(f"A step of what {flags.out} holds cannot be timed: {refusal}") from None
    rows = timed(rows, wanted, flags.cost, timer(flags.accelerator), flags.command)
    write_whole(flags.out, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def main(arguments: list[str]) -> int:
    """Run the cells that the file lacks, and print the table of all that it holds."""
    flags = parser().parse_args(arguments)
    if not flags.plan and (flags.views is None or flags.cost is not None):  # what is only shown may lie anywhere
        try:
            options.file(str(flags.out))
        except argparse.ArgumentTypeError as refusal:
            raise UsageError(f"--out: {refusal}") from None
    if not flags.accelerator:
        measure.pin(flags.core)
    from benchmarks.attention import quality_plots
    from minilm.allocator import tune

    tune()
    try:
        wanted = [] if (shown := flags.views is not None or flags.cost is not None) else cells(flags)
    except ValueError as refusal:
        raise UsageError(str(refusal)) from None
    if shown and not flags.out.exists():
        raise UsageError(f"There is no {flags.out} to show: name a file of results by --out, or measure some first.")
    rows = rows_of(flags.out)
    for cell in wanted:
        identity = json.loads(json.dumps(cell.identity))
        if any(identity.items() <= row.items() for row in rows):
            continue
        if flags.plan:
            print(json.dumps(identity))
            continue
        row = measured(cell, flags.command)
        append(row, flags.out)
        rows.append(json.loads(json.dumps(row)))
        print(quality_views.line(row), flush=True)
    if flags.cost is not None:
        rows = with_costs(rows, flags)
    if not flags.plan:
        print(quality_views.table(rows))
    if flags.views:
        decoded = record.all_of(flags.decoded) if flags.decoded.exists() else []
        drawn = quality_plots.plots(rows, decoded)
        for name, picture in drawn.items():
            Path(flags.views).mkdir(parents=True, exist_ok=True)
            Path(flags.views, f"{name}.png").write_bytes(picture)
        for sentence in quality_plots.missing(rows, drawn, str(flags.decoded)):
            print(sentence)
    return 0


if __name__ == "__main__":
    from benchmarks.attention.__main__ import main as command

    sys.exit(command(["quality", *sys.argv[1:]]))
