"""What was measured, as tables: for a terminal, as CSV, as Markdown."""

import csv
import io
import math
import sys
from typing import NamedTuple

from benchmarks.attention import record, scaling
from minilm.unread import nobody_reads

COLUMNS = {
    "what": "candidate",
    "mode": "fwd, fwdbwd, prefill (a variant reads all tokens into its state) or decode",
    "tokens": "length, or context before the token",
    "dtype": "",
    "ms": "median of the time; in decoding of one token of one sequence, where several are read at once",
    "p20–p80": "between these a fifth and four fifths of all samples lay",
    "GFLOP/s": "useful FLOPs by time; of mixers, and in decoding, executed ones",
    "GB/s": "in decoding, bytes of state read by time",
    "executed": "FLOPs executed by useful ones",
    "roof": "share of what the machine could do at this intensity, and what bounds it",
    "MB": "memory of the program; in decoding, what one sequence holds",
    "error": "against float64, under N(0, 1) / with outliers, of all of a few hundred tokens",
    "naive": "the definition's error in the same precision",
    "note": "",
}


def figures(row: dict) -> dict[str, str]:
    """A row as the cells of a table; what is not there is a dash."""
    cells = dict.fromkeys(COLUMNS, "–")
    dtype = {"float32": "f32", "bfloat16": "bf16"}.get(row["dtype"], row["dtype"])
    cells |= {"what": row["candidate"], "mode": row["mode"], "tokens": str(record.extent(row)), "dtype": dtype}
    if time := row.get("time"):
        share = seconds(row) / time["median"]
        cells["ms"] = f"{1e3 * seconds(row):.4g}"
        cells["p20–p80"] = f"{1e3 * share * time['p20']:.4g}–{1e3 * share * time['p80']:.4g}"
    if roof := row.get("roofline"):
        cells["GFLOP/s"] = f"{roof['achieved'] / 1e9:.3g}"
        cells["roof"] = f"{100 * roof['share']:.2g}% {roof['bound']}"
    flops = row.get("flops") or {}
    if flops.get("useful") and flops.get("executed"):
        cells["executed"] = f"{flops['executed'] / flops['useful']:.2f} ×"
    if "held" in row.get("bytes", {}):
        cells["MB"] = f"{row['bytes']['held'] / 1e6:.4g}"
        cells["GB/s"] = f"{row['bytes'].get('rate', 0) / 1e9:.3g}"
    elif "memory" in row:
        cells["MB"] = f"{row['memory']['total'] / 1e6:.4g}"
    if laws := row.get("check", {}).get("laws"):
        for name in ("error", "naive"):
            errors = [law[name] for law in laws.values()]
            cells[name] = " / ".join("∞" if e is None or math.isinf(e) else f"{e:.1e}" for e in errors)
    cells["note"] = note(row)
    return cells


def note(row: dict) -> str:
    """What must be known before a row is believed."""
    if row["status"] != "ok":
        return f"{row['status']}: {row['reason']}"
    device = row["environment"]["device"]
    notes = [] if device == "cpu" else [f"on {device}"]
    notes += [f"{row['sizes']['sequences']} sequences"] if "sequences" in row["sizes"] else []
    notes += ["loaded machine"] if row["environment"].get("loaded") else []
    if "time" in row and not row["time"]["settled"]:
        notes.append(f"not settled: ±{100 * row['time']['spread']:.0f}% of {row['time']['n']} samples")
    return "; ".join(notes)


def table(rows: list[dict]) -> str:
    """Columns of equal width, for a terminal."""
    cells = [list(COLUMNS), *(list(figures(row).values()) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS) - 1)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, [*widths, 0], strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def progress(row: dict) -> None:
    """A row as soon as it is there, on standard error: the table comes when all are."""
    cells = figures(row)
    time = f"{cells['ms']:>9} ms" if "time" in row else " " * 12
    line = f"{cells['what']:28} {cells['mode']:7}{cells['tokens']:>6} {cells['dtype']:5}{time}  {cells['note']}"
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:  # nobody watches; what is measured is still shown, or written
        nobody_reads(sys.stderr)


def as_csv(rows: list[dict]) -> str:
    """All numbers, unrounded; nested ones by their path."""
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def markdown(rows: list[dict]) -> str:
    """The same table as Markdown."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *(list(figures(row).values()) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


VARYING = ("length", "context", "sequences")  # sizes in which rows of a group differ
MANY = 12  # candidates, beyond which pairs of them are too many to be told one by one,
BESIDE = "mha"  # and each is told beside this one alone


class Group(NamedTuple):
    """What rows share that are shown together."""

    benchmark: str
    kind: str
    mode: str
    dtype: str
    sizes: tuple  # other than the length
    device: str
    clock: str

    def __str__(self):
        """For a sentence; a device and a clock are told where they are not those of a CPU."""
        usual = ("cpu", "CPU time")
        told = [word for word in (self.device, self.clock) if word not in usual]
        return ", ".join([self.mode, self.dtype, *(f"{name} {size}" for name, size in self.sizes), *told])


def groups(rows: list[dict]) -> dict[Group, dict[str, dict[int, dict]]]:
    """Rows that have a time, by what they share -> candidate -> length -> row."""
    found: dict[Group, dict[str, dict[int, dict]]] = {}
    for row in rows:
        if "time" in row:
            place = (row[name] for name in ("benchmark", "kind", "mode", "dtype"))
            others = tuple(item for item in sorted(row["sizes"].items()) if item[0] not in VARYING)
            group = found.setdefault(Group(*place, others, row["environment"]["device"], row["time"]["clock"]), {})
            group.setdefault(row["candidate"], {})[record.extent(row)] = row
    return found


def growth(rows: list[dict]) -> list[str]:
    """A sentence for each candidate: how its time and its memory grow with the length."""
    lines = []
    for group, candidates in groups(rows).items():
        for name, by_length in candidates.items():
            lengths = sorted(by_length)
            time = scaling.exponent(lengths, [seconds(by_length[t]) for t in lengths])
            memory = scaling.exponent(lengths, [space(by_length[t]) for t in lengths])
            if time is not None:
                span = f"{lengths[0]} to {lengths[-1]}"
                grown = f"time like T^{power(time)}, memory like T^{power(memory)} over {span}"
                lines.append(f"{name}, {group}: {grown}")
    return lines


def power(p: float) -> str:
    """An exponent in two digits, without a sign before zero.

    >>> power(-0.004), power(1.5)
    ('0.00', '1.50')
    """
    return f"{round(p, 2) + 0.0:.2f}"


def seconds(row: dict) -> float:
    """The time that a row is about: of the whole sequence, or in decoding of one token of one sequence."""
    return row["time"]["token"] if row["benchmark"] == "decode" else row["time"]["median"]


def space(row: dict) -> int:
    """The bytes that a row is about: of the program, or in decoding those held by a sequence."""
    return row["bytes"]["held"] if row["benchmark"] == "decode" else row["memory"]["total"]


def crossovers(rows: list[dict]) -> list[str]:
    """Sentences: which candidate passes which at what length; where more than `MANY` stand side by side, `BESIDE`.

    From times that are not settled nothing is guessed.
    """
    lines = []
    for group, candidates in groups(rows).items():
        times = {name: {t: seconds(row) for t, row in each.items()} for name, each in candidates.items()}
        for first, own in times.items():
            for second, other in times.items():
                if len(times) > MANY and second != BESIDE:
                    continue
                shared = sorted(own.keys() & other.keys())
                if first == second or not shared or own[shared[0]] <= other[shared[0]]:
                    continue  # it is ahead from the beginning
                found = scaling.crossing(own, other)
                last = [candidates[name][t]["time"] for name in (first, second) for t in shared[-2:]]
                if found and (found[1] or all(time["settled"] for time in last)):
                    length, reached = found
                    guess = "" if reached else ", if both grow on as they did (not measured)"
                    lines.append(f"{first} passes {second} at T = {scaling.rounded(length, shared)}, {group}{guess}")
    return lines


def summary(rows: list[dict]) -> str:
    """What the rows say together."""
    return "\n".join(["", *growth(rows), "", *crossovers(rows)]).rstrip()


def _flat(value, path=""):
    if not isinstance(value, dict):
        return {path: value}
    return {
        name: leaf for key, inner in value.items() for name, leaf in _flat(inner, f"{path}.{key}".strip(".")).items()
    }
