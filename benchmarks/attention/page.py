"""The whole report on one page, with how to reproduce it: Markdown, or HTML with its pictures inside."""

import base64
import inspect
import itertools
import statistics
from collections import Counter

from markdown_it import MarkdownIt

from benchmarks.attention import bars, cost, overview, protocol, quality_views, views
from minilm.variants import VARIANTS

KINDS = {
    ("ops", "core"): "Cores: attention between heads that are given",
    ("ops", "mixer"): "Mixers: variants with their projections",
    ("decode", "mixer"): "Decoding: one token more",
}
LIMITS = (
    "*At the roof*: as many useful FLOPs, at the most that this machine was measured to do at their intensity. "
    "*Arguments and results alone*: a program without temporaries. *Useful FLOPs* of a window grow faster than T while "
    "many queries have fewer keys before them than it is wide. Where a bar is beyond the roof, or beyond arguments and "
    "results alone, no program holds it on this machine; a longer text does, or a machine on which the other one "
    "reaches less of the roof."
)
SEQUENCES = (
    "So many sequences stand side by side that they hold equally many tokens together, fewer where contexts are long. "
    "What a step costs whatever their number is then a larger part of a token: so its time grows with the context even "
    "where the state does not."
)
TILES = (
    "On a CPU, variants of the usual softmax are computed in tiles, as `blockwise` is, where a head has more than "
    "256 × 256 scores. Those with another way from scores to weights (a cap, a sink, a sigmoid), with a score of "
    "their own (forgetting), other positions (streaming) or selected blocks hold all scores at once, as `dense` does: "
    "a part of what they cost more is what tiles would save."
)
MEASURED = {
    "fwd": "timed forward",
    "fwdbwd": "timed forward and backward",
    "prefill": "timed in prefill",
    "decode": "timed in decoding",
}
INTRODUCTIONS = {("ops", "mixer"): TILES, ("decode", "mixer"): SEQUENCES}
PICTURES = {
    "time": "Time against the length",
    "memory": "Memory against the length",
    "decode_time": "Time of a token against its context",
    "decode_held": "What a sequence holds against its context",
    "accuracy_by_state": "Accuracy against the bytes of the state",
    "bits_by_decode_time": "Bits per byte against the time of a decoded token",
}


def markdown(rows: list[dict], quality: list[dict], pictures: dict[str, str], made_by: str) -> str:
    """The page as Markdown; `pictures` are told by where they are found, `made_by` is the command that writes it."""
    parts = ["# Attention, measured", f"This page is written by `{made_by}`.", *([_where(rows)] if rows else [])]
    for title, lines in _sections(rows, quality, pictures):
        parts += [f"## {title}", *lines]
    return "\n\n".join(parts) + "\n"


def as_html(rows: list[dict], quality: list[dict], pictures: dict[str, bytes], made_by: str) -> str:
    """The same page as one HTML file that needs no other."""
    inside = {name: f"data:image/png;base64,{base64.b64encode(png).decode()}" for name, png in pictures.items()}
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown(rows, quality, inside, made_by))
    style = "body{font:15px sans-serif;max-width:80em;margin:2em auto}table{border-collapse:collapse;font-size:13px}"
    style += "td,th{border:1px solid #ccc;padding:2px 7px;text-align:left}img{max-width:100%}pre{overflow:auto}"
    return f"<!doctype html><meta charset='utf-8'><title>Attention, measured</title><style>{style}</style>\n{body}"


def _where(rows):
    found = [row["environment"] for row in rows]
    machines = ((e, f"{e['threads']} of {e['cores']} cores, JAX {e['versions'].get('jax')}") for e in found)
    places = dict.fromkeys(f"{e['cpu'].strip()}, {e['device']}, {more}, {e['date']}" for e, more in machines)
    revisions = dict.fromkeys(str(e["git"]) for e in found)
    loads = [e["load"] for e in found if e.get("loaded")]
    clocks = dict.fromkeys(row["time"]["clock"] for row in rows if "time" in row)
    text = " ".join(["Measured", *([f"in {' and '.join(clocks)}"] if clocks else []), "on "]) + "; ".join(places)
    text += f"; minilm at {', '.join(revisions)}."
    if loads:
        text += (
            f" The machine was shared: in {len(loads)} of {len(rows)} rows its load was beyond its number of cores, up "
            f"to {max(loads):g}, and others were in its caches; ratios say more than milliseconds."
        )
    times = [row["time"] for row in rows if "time" in row]
    if times:
        settled, middle = sum(t["settled"] for t in times), statistics.median(t["spread"] for t in times)
        text += f" {settled} of {len(times)} times are settled to {protocol.SPREAD:.0%}, half of them to {middle:.1%}."
    return text


def _share(names, what: str, lengths=()) -> str:
    """How many variants of the table are among those measured; and, of as many lengths as names, how far each went."""
    farthest = {}
    for name, length in itertools.zip_longest(names, lengths, fillvalue=0):
        if (variant := name.partition(":")[0]) in VARIANTS:
            farthest[variant] = max(length, farthest.get(variant, 0))
    text = f"{len(farthest)} of the {len(VARIANTS)} variants were {what}"
    if any(farthest.values()):
        counted = sorted(Counter(farthest.values()).items())
        text += ": " + ", ".join(f"{n} up to {length:,} tokens" for length, n in counted)
    return f"{text}."


def _sections(rows, quality, pictures):
    """(title, blocks) of the page; a block is a table or a text."""
    commands = dict.fromkeys(row["environment"]["command"] for row in rows)
    commands |= dict.fromkeys(quality_views.commands(quality))
    yield "How to reproduce it", ["```sh\n" + "\n".join(commands) + "\n```"]
    every = overview.blocks(rows, quality)
    if every:
        yield "Every variant in a line", every
    judged = bars.judged(rows)
    if judged:
        lines = ["| what | pass | measured | |", "|---|---|---|---|"]
        yield "Bars", ["\n".join(lines + ["| " + " | ".join(line) + " |" for line in judged]), LIMITS]
    if pictures:
        yield "Pictures", [f"![{PICTURES[name]}]({place})" for name, place in pictures.items()]
    devices = dict.fromkeys(row["environment"]["device"] for row in rows)
    for ((benchmark, kind), title), device in itertools.product(KINDS.items(), devices):
        place = benchmark, kind, device
        mine = [row for row in rows if (row["benchmark"], row["kind"], row["environment"]["device"]) == place]
        if mine:
            title += f", on {device}" if len(devices) > 1 else ""
            grown, passed = views.growth(mine), views.crossovers(mine)
            blocks = [
                INTRODUCTIONS.get((benchmark, kind)),
                views.markdown(mine),
                *("\n".join(f"* {line}" for line in lines) for lines in (grown, passed)),
            ]
            timed = [row for row in mine if "time" in row and kind == "mixer"]
            shares = []
            for mode, what in MEASURED.items():
                alike = [row for row in timed if row["mode"] == mode]
                lengths = [row["sizes"].get("length") or row["sizes"]["context"] for row in alike]
                if alike:
                    shares.append(_share([row["candidate"] for row in alike], what, lengths))
            yield title, [*filter(None, blocks), *filter(None, [" ".join(shares)])]
    if quality:
        recalled = [row["variant"] for row in quality if row.get("accuracy") is not None]
        share = [_share(recalled, "asked what they recall")] if recalled else []
        yield "Quality: what is recalled", [*quality_views.table(quality).split("\n\n"), *share]
    columns = [f"* **{name}**: {about}" for name, about in views.COLUMNS.items() if about]
    yield "What the figures mean", ["\n".join(columns), inspect.getdoc(cost).split("\n\n", 1)[1]]
