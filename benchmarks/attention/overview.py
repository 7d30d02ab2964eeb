"""Every variant in one line: how exact it is, what it costs, and what it recalls; the other tables tell the details."""

import statistics
from collections import Counter, defaultdict

from benchmarks.attention import quality_views, views
from minilm.variants import VARIANTS

SAYS = (
    "A line for each variant. What it costs is told of its usual options, at the length at which most variants were "
    "timed; **error** is forward, against float64. **recalled** is of the task that most variants were asked, where a "
    "run may end at 99%, and next to it what is recalled of the longest texts, on which none was trained; of several "
    "settings the one that learnt most stands here, and is named. **bits** are those of a byte, read by a small "
    "language model."
)
COSTS = {"fwd": "ms forward", "fwdbwd": "ms with backward", "prefill": "ms prefill", "decode": "ms a token"}


def blocks(rows: list[dict], quality: list[dict]) -> list[str]:
    """A text and a Markdown table; nothing where only what it costs, or only what it learns, is known."""
    mixers, learnt = _of_one_place(rows), _learnt(quality)
    if not (mixers and learnt):
        return []
    costs, of = _costs(mixers), next(iter(mixers))
    columns = costs | learnt
    names = [name for name in VARIANTS if any(name in cells for cells in columns.values())]
    lines = [["variant", *columns], ["---"] * (1 + len(columns))]
    lines += [[name, *(cells.get(name, "–") for cells in columns.values())] for name in names]
    return [
        f"{SAYS} Costs are those of {of.dtype} on {of.device}.",
        "\n".join(f"| {' | '.join(line)} |" for line in lines),
    ]


def _of_one_place(rows):
    """The groups of mixers of the dtype and device in which most variants were timed: a line compares its figures."""
    mixers = {group: each for group, each in views.groups(rows).items() if group.kind == "mixer"}
    timed = defaultdict(set)
    for group, each in mixers.items():
        timed[group.dtype, group.device] |= each.keys() & VARIANTS.keys()
    most = max(timed, key=lambda place: len(timed[place]), default=None)
    return {group: each for group, each in mixers.items() if (group.dtype, group.device) == most}


def _costs(mixers):
    """Column -> variant -> text, at the longest of those lengths at which most variants were timed."""
    columns = {}
    for mode, title in COSTS.items():
        groups = [each for group, each in mixers.items() if group.mode == mode]
        timed = {name: each for name, each in max(groups, key=len, default={}).items() if name in VARIANTS}
        lengths = Counter(length for by_length in timed.values() for length in by_length)
        if not lengths:
            continue
        length = max(lengths, key=lambda length: (lengths[length], length))
        at = {name: by_length[length] for name, by_length in timed.items() if length in by_length}
        if mode == "fwd":
            columns["error"] = {name: f"{row['check']['laws']['normal']['error']:.0e}" for name, row in at.items()}
        columns[f"{title}, {length:,}"] = {name: f"{1e3 * views.seconds(row):.3g}" for name, row in at.items()}
        if mode == "decode":
            columns[f"MB held, {length:,}"] = {name: f"{views.space(row) / 1e6:.3g}" for name, row in at.items()}
    return columns


def _learnt(quality):
    """The same of what was learnt, with the mean over seeds."""
    tables = defaultdict(dict)
    for record in quality_views.best(quality):
        row, name = record["row"], record["row"]["variant"].partition(":")[0]
        if record["seeds"] and not row["match"] and quality_views.ranks(record):
            table = tables[row["accuracy"] is None, row["task"], quality_views.sizes(row), row["steps"]]
            table[name] = max(record, table.get(name, record), key=lambda record: _mean(record, quality_views.score))
    columns = {}
    for texts in (False, True):
        table = max((table for place, table in tables.items() if place[0] == texts), key=len, default={})
        for name, record in table.items():
            setting = record["row"]["variant"].partition(":")[2]
            title = "bits" if texts else f"recalled, {record['row']['task']}"
            found = {title: f"{abs(_mean(record, quality_views.score)):.3f}"}
            far = [*record["row"]["transfer"]][-1:]
            found |= {place: f"{_mean(record, lambda cell, place=place: cell['transfer'][place]):.3f}" for place in far}
            found |= {} if texts else {"setting": setting or "as usual"}
            for column, text in found.items():
                columns.setdefault(column, {})[name] = text
    return columns


def _mean(record, of):
    return statistics.mean(map(of, record["seeds"]))
