"""What was promised, and whether it holds: ratios between rows of `ops`, each with its bar."""

import itertools
from typing import NamedTuple

from benchmarks.attention import scaling, views


class Bar(NamedTuple):
    """A claim on figure(first) / figure(second) at a length, of float32 on a CPU or of bfloat16 on an accelerator."""

    claim: str
    first: str
    second: str
    length: int
    figure: str  # of FIGURES
    limit: float
    at_least: bool = False
    dtype: str = "float32"


MODES = {"fwd": "forward", "fwdbwd": "forward and backward"}
WINDOWED = "blockwise:window=256"
BARS = (
    Bar("chunked SSD takes at most 3 × the time of blockwise softmax", "ssd", "blockwise", 2048, "time", 3),
    Bar("chunked DeltaNet takes at most 3 × the time of blockwise softmax", "delta", "blockwise", 2048, "time", 3),
    Bar("blockwise is at least 6 × as fast as jax.nn", "jax-nn", "blockwise", 2048, "time", 6, at_least=True),
    Bar("blockwise needs at most 1/20 of jax.nn's memory", "blockwise", "jax-nn", 2048, "memory", 1 / 20),
    Bar("blockwise needs at most 1/20 of jax.nn's temporaries", "blockwise", "jax-nn", 2048, "temporaries", 1 / 20),
    Bar("a window of 256, blockwise, is 8 × as fast as dense", "dense:window=256", WINDOWED, 8192, "time", 8, True),
    Bar("our kernel has at least half of cuDNN's rate", "jax-cudnn", "pallas", 8192, "time", 0.5, True, "bfloat16"),
    Bar("our kernel is at least 8 × as fast as dense", "dense", "pallas", 8192, "time", 8, True, "bfloat16"),
)
FIGURES = {
    "time": views.seconds,
    "memory": views.space,
    "temporaries": lambda row: row["memory"]["temporaries"],  # the memory without arguments and results
}
LEAST = {"time": "at the roof", "memory": "arguments and results alone"}
LINEAR = 1.15  # the exponent up to which a time counts as linear in the length
STATES, SOFTMAX = ("linear", "ssd", "delta", "gated"), ("blockwise", "dense")
CROSSINGS = tuple((state, softmax) for softmax in SOFTMAX for state in STATES)


def judged(rows: list[dict]) -> list[tuple[str, str, str, str]]:
    """(claim, mode, measured, verdict) for each bar whose rows are there."""
    found = []
    for group, candidates in views.groups(rows).items():
        on_a_cpu, mode = group.device == "cpu", group.mode
        if (group.benchmark, group.kind) != ("ops", "core") or mode not in MODES:
            continue
        for bar in (bar for bar in BARS if bar.dtype == group.dtype and (bar.dtype == "float32") == on_a_cpu):
            first, second = (candidates.get(name, {}) for name in (bar.first, bar.second))
            if bar.length in first and bar.length in second:
                ratio = _ratio(bar, first[bar.length], second[bar.length])
                verdict = _verdict(True) if _holds(bar, ratio) else _verdict(False) + _why(bar, first, second)
                settled = all(each[bar.length]["time"]["settled"] for each in (first, second))
                verdict += "" if settled or bar.figure != "time" else "; not both times are settled"
                found.append((f"{bar.claim}, {bar.length:,} tokens", MODES[mode], _shown(ratio), verdict))
        if on_a_cpu and group.dtype == "float32":
            found += [(*line[:1], MODES[mode], *line[1:]) for line in _grown(candidates)]
    return found


def _ratio(bar, first, second):
    figure = FIGURES[bar.figure]
    return figure(first) / figure(second)


def _holds(bar, ratio):
    return ratio >= bar.limit if bar.at_least else ratio <= bar.limit


def _shown(ratio):
    return f"{ratio:.2f} ×" if ratio > 0.2 else f"1/{1 / ratio:.1f}"


def _why(bar, first, second):
    """What no program could pass, and from which length on the bar holds."""
    ours, other = (second, first) if bar.at_least else (first, second)
    why, least = "", _least(bar, ours[bar.length])
    if least:
        ratio = least / FIGURES[bar.figure](other[bar.length])
        why = f"; {LEAST[bar.figure]}: {_shown(1 / ratio if bar.at_least else ratio)}"
    longest = [t for t in sorted(first.keys() & second.keys(), reverse=True) if t > bar.length]
    held = list(itertools.takewhile(lambda t: _holds(bar, _ratio(bar, first[t], second[t])), longest))
    return why + (f"; holds from {held[-1]:,} tokens on" if held else "")


def _least(bar, row):
    if bar.figure == "time":
        return row["roofline"] and row["roofline"]["share"] * views.seconds(row)
    return row["bytes"].get("io") if bar.figure == "memory" else None


def _grown(candidates):
    windowed = candidates.get(WINDOWED, {})
    if len(windowed) > 1:
        lengths = sorted(windowed)
        p = scaling.exponent(lengths, [views.seconds(windowed[t]) for t in lengths])
        work = scaling.exponent(lengths, [windowed[t]["flops"]["useful"] for t in lengths])
        claim = f"a window of 256, blockwise, costs time linear in T, {lengths[0]:,} to {lengths[-1]:,} tokens"
        verdict = _verdict(p <= LINEAR) + ("" if p <= LINEAR else f"; its useful FLOPs: T^{work:.2f}")
        yield claim, f"T^{p:.2f}", verdict
    for first, second in CROSSINGS:
        times = [{t: views.seconds(r) for t, r in candidates.get(name, {}).items()} for name in (first, second)]
        crossing = scaling.crossing(*times)
        if crossing:
            length, reached = crossing
            before = "T ≤" if length == min(times[0]) else "T =" if reached else "T ≈"
            where = f"{before} {scaling.rounded(length, times[0]):,}"
            yield f"{first} passes {second}", where, "measured" if reached else "extrapolated"


def _verdict(holds):
    return "holds" if holds else "**does not hold**"
