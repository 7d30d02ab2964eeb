"""The two headline plots: accuracy against bytes of state, bits per byte against the time of a decoded token."""

import io
import statistics
from collections import defaultdict

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.attention import quality_views, views

DECODED_AT = 4096  # the context at which the time of a token is read
MARKERS = "osD^v<>"  # as many as share no divisor with the ten colours: seventy names look different


def plots(rows: list[dict], measured: list[dict]) -> dict[str, bytes]:
    """Name -> PNG, of each for which there are rows; `measured` holds those of `decode`, among others."""
    records = [record for record in quality_views.best(rows) if record["seeds"]]
    recalled = _ranked([record for record in records if record["row"]["accuracy"] is not None])
    times = decode_times(measured)
    texts = [record for record in records if record["row"]["accuracy"] is None and record["row"]["variant"] in times]
    timed = _ranked(texts)
    names = sorted({record["row"]["variant"] for record in records})
    drawn = {"accuracy_by_state": _recall(recalled, names)} if recalled else {}
    return drawn | ({"bits_by_decode_time": _texts(timed, names, times)} if timed else {})


def _ranked(records):
    """Those that may be ranked, or all where none may."""
    return [record for record in records if quality_views.ranks(record)] or records


def missing(rows: list[dict], drawn: dict[str, bytes], where: str) -> list[str]:
    """A sentence on each that is not drawn; `where` is the file in which times of decoding were looked for."""
    sentences = []
    if "accuracy_by_state" not in drawn:
        sentences.append("There is no task of recall in this file: accuracy against state bytes is not drawn.")
    if "bits_by_decode_time" not in drawn:
        texts = any(row["task"] == "lm" for row in rows)
        lacking = f"times of decoding at {DECODED_AT} for its variants in {where}" if texts else "cells of lm"
        sentences.append(f"There are no {lacking}: bits per byte against decode time is not drawn.")
    return sentences


def decode_times(rows: list[dict]) -> dict[str, float]:
    """Milliseconds of a decoded token at a long context, by variant: on a CPU, in float32."""
    decoded = [row for row in rows if row.get("benchmark") == "decode" and row["environment"]["device"] == "cpu"]
    there = [row for row in decoded if row["dtype"] == "float32" and row["sizes"]["context"] == DECODED_AT]
    return {row["candidate"]: 1e3 * row["time"]["token"] for row in there if "time" in row}


def _recall(records, names):
    """A line of panels for each task: what is known of texts as they were trained on, and where it is hardest."""
    tasks = _by_task(records)
    heights = [3.6 + len(group) / 20 for group in tasks.values()]
    figure = Figure(figsize=(11, sum(heights)), dpi=90, layout="constrained")
    parts = figure.subfigures(len(tasks), squeeze=False, height_ratios=heights).flat
    for part, (title, group) in zip(parts, tasks.items(), strict=True):
        chance, far = group[0]["row"]["chance"], [*group[0]["row"]["transfer"]][-1:]
        panels = part.subplots(1, 1 + len(far), sharey=True, squeeze=False)[0]
        for axes, place in zip(panels, [None, *far], strict=True):
            _points(axes, group, names, lambda row: row["state_bytes"], _right_at(place))
            axes.set(xscale="log", xlabel="bytes of state", ylim=(0, 1.05))
            axes.set_title(f"at {place}" if place else "as trained", fontsize=9, loc="left")
        panels[0].axhline(chance["value"], ls="--", lw=0.8, color="gray", label="knows the values, not the binding")
        panels[0].axhline(chance["token"], ls=":", lw=0.8, color="gray", label="any token")
        panels[0].set_ylabel("accuracy")
        part.suptitle(title, fontsize=9)
        _legend(part, panels[0])
    return _png(figure)


def _right_at(place):
    """A row's accuracy: as it was trained, or at another place."""
    return lambda row: row["transfer"][place] if place else row["accuracy"]


def _texts(records, names, times):
    tasks = _by_task(records)
    figure = Figure(figsize=(8, 1 + 3.6 * len(tasks)), dpi=90, layout="constrained")
    panels = figure.subplots(len(tasks), sharex=True, squeeze=False)[:, 0]
    for axes, (title, group) in zip(panels, tasks.items(), strict=True):
        _points(axes, group, names, lambda row: times[row["variant"]], lambda row: row["bits_per_byte"])
        axes.set(xscale="log", ylabel="bits per byte")
        axes.set_title(title, fontsize=8, loc="left")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"ms a token of the variant's usual sizes, at a context of {DECODED_AT}")
    _legend(figure, *panels)
    return _png(figure)


def _by_task(records):
    """Title -> the records of one task, in one setting: only these stand in one panel."""
    tasks = defaultdict(list)
    for record in records:
        row = record["row"]
        tasks[f"{row['task']}, {quality_views.sizes(row)}{quality_views.match(row)}"].append(record)
    return tasks


def _points(axes, records, names, x, y):
    """The mean over seeds, between the least and the greatest; a name looks alike in all panels."""
    for record in sorted(records, key=lambda record: record["row"]["variant"]):
        place = names.index(record["row"]["variant"])
        values = [y(cell) for cell in record["seeds"]]
        mean = statistics.mean(values)
        style = {"color": f"C{place % 10}", "marker": MARKERS[place % len(MARKERS)], "capsize": 3, "linestyle": ""}
        style |= {"fillstyle": "none", "markersize": 5 + 2 * (place % 3)}  # of equals, one is seen within the other
        around = [[mean - min(values)], [max(values) - mean]]
        axes.errorbar([x(record["row"])], [mean], around, label=record["row"]["variant"], **style)


def _legend(figure, *panels):
    """A name for each mark, in whichever panel it stands first."""
    marks = {name: mark for axes in panels for mark, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    names, handles = list(marks), list(marks.values())
    many = {"loc": "outside lower center", "ncols": 3} if len(names) > views.MANY else {"loc": "outside right center"}
    figure.legend(handles, names, fontsize=7, **many)


def _png(figure):
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
