"""The whole report on one page, with how to reproduce it: Markdown, or HTML with its pictures inside."""

import base64
import html
import inspect
import os
from pathlib import Path

from benchmarks.attention import bars, cost, quality_views, views

KINDS = {
    ("ops", "core"): "Cores: attention between heads that are given",
    ("ops", "mixer"): "Mixers: variants with their projections",
    ("decode", "mixer"): "Decoding: one token more",
}
LIMITS = (
    "*At the roof*: as many useful FLOPs, at the most that this machine was measured to do at their intensity. "
    "*Arguments and results alone*: a program without temporaries. *Useful FLOPs* of a window grow faster than T while "
    "many queries have fewer keys before them than it is wide."
)
PICTURES = {
    "time": "Time against the length",
    "memory": "Memory against the length",
    "decode_time": "Time of a token against its context",
    "decode_held": "What a sequence holds against its context",
}


def markdown(rows: list[dict], quality: list[dict], pictures: dict[str, Path], made_by: str, out: str | None) -> str:
    """The page as Markdown, its pictures by their path from there; `made_by` is the command that writes it."""
    folder = Path(out).resolve().parent if out else Path.cwd()
    parts = ["# Attention, measured", f"This page is written by `{made_by}`.", *([_where(rows)] if rows else [])]
    for title, lines in _sections(rows, quality):
        parts += [f"## {title}", *lines]
    if pictures:
        parts.append("## Pictures")
    parts += [f"![{PICTURES[name]}]({os.path.relpath(path, folder)})" for name, path in pictures.items()]
    return "\n\n".join(parts) + "\n"


def as_html(rows: list[dict], quality: list[dict], pictures: dict[str, bytes]) -> str:
    """The page as one HTML file that needs no other."""
    body = ["<h1>Attention, measured</h1>", f"<p>{html.escape(_where(rows)) if rows else ''}</p>"]
    for name, picture in pictures.items():
        inside = base64.b64encode(picture).decode()
        body.append(f"<h2>{PICTURES[name]}</h2><img alt='{PICTURES[name]}' src='data:image/png;base64,{inside}'>")
    for title, lines in _sections(rows, quality):
        body.append(f"<h2>{html.escape(title)}</h2>")
        body += [_table(line) if line.startswith("| ") else f"<pre>{html.escape(line)}</pre>" for line in lines]
    style = "body{font:15px sans-serif;max-width:80em;margin:2em auto}table{border-collapse:collapse;font-size:13px}"
    style += "td,th{border:1px solid #ccc;padding:2px 7px;text-align:left}img{max-width:100%}"
    head = f"<!doctype html><meta charset='utf-8'><title>Attention, measured</title><style>{style}</style>"
    return "\n".join([head, *body]) + "\n"


def _where(rows):
    found = [row["environment"] for row in rows]
    machines = ((e, f"{e['threads']} of {e['cores']} cores, JAX {e['versions'].get('jax')}") for e in found)
    places = dict.fromkeys(f"{e['cpu'].strip()}, {e['device']}, {more}, {e['date']}" for e, more in machines)
    revisions = dict.fromkeys(str(e["git"]) for e in found)
    loads = [e["load"] for e in found if e.get("loaded")]
    text = "Measured in CPU time on " + "; ".join(places) + f"; minilm at {', '.join(revisions)}."
    if loads:
        text += (
            f" The machine was shared: in {len(loads)} of {len(rows)} rows its load was beyond its number of cores, up "
            f"to {max(loads):g}, and others were in its caches; ratios say more than milliseconds."
        )
    return text


def _sections(rows, quality):
    """(title, blocks) of the page; a block is a table or a text."""
    commands = dict.fromkeys(row["environment"]["command"] for row in rows)
    commands |= dict.fromkeys(quality_views.commands(quality))
    yield "How to reproduce it", ["```sh\n" + "\n".join(commands) + "\n```"]
    judged = bars.judged(rows)
    if judged:
        lines = ["| what | pass | measured | |", "|---|---|---|---|"]
        yield "Bars", ["\n".join(lines + ["| " + " | ".join(line) + " |" for line in judged]), LIMITS]
    for (benchmark, kind), title in KINDS.items():
        mine = [row for row in rows if (row["benchmark"], row["kind"]) == (benchmark, kind)]
        if mine:
            grown, passed = views.growth(mine), views.crossovers(mine)
            blocks = [views.markdown(mine), "\n".join(f"* {line}" for line in grown)]
            yield title, [*filter(None, blocks), *(["\n".join(f"* {line}" for line in passed)] if passed else [])]
    if quality:
        yield "Quality: what is recalled", quality_views.table(quality).split("\n\n")
    columns = [f"* **{name}**: {about}" for name, about in views.COLUMNS.items() if about]
    yield "What the figures mean", ["\n".join(columns), inspect.getdoc(cost).split("\n\n", 1)[1]]


def _table(text):
    lines = [[html.escape(cell.strip()) for cell in line.strip("| ").split(" | ")] for line in text.splitlines()]
    head, _, *body = lines
    cells = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in body]
    return "<table><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>" + "\n".join(cells) + "</table>"
