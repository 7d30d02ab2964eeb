"""What was measured, as pictures: time against the length, memory against the length, a token against its context."""

import io
import math

from matplotlib.figure import Figure

from benchmarks.attention import scaling, views

TITLES = {"fwd": "forward", "fwdbwd": "forward and backward", "prefill": "prefill", "decode": "one token"}


def plots(rows: list[dict]) -> dict[str, bytes]:
    """Name -> PNG, of each picture for which there are rows."""
    ops, decode = ([row for row in rows if row["benchmark"] == name] for name in ("ops", "decode"))
    pictures = {
        "time": (ops, views.seconds, "seconds", "length T"),
        "memory": (ops, views.space, "bytes of the program", "length T"),
        "decode_time": (decode, views.seconds, "seconds a token", "context"),
        "decode_held": (decode, views.space, "bytes held by a sequence", "context"),
    }
    return {name: _picture(*what, crossed="time" in name) for name, what in pictures.items() if views.groups(what[0])}


def _picture(rows, figure, y, x, crossed):
    panels = views.groups(rows)
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    picture = Figure(figsize=(6.4 * columns, 4.6 * lines), layout="constrained", dpi=90)
    for axes, (key, candidates) in zip(
        picture.subplots(lines, columns, squeeze=False).flat, panels.items(), strict=False
    ):
        _panel(axes, key, candidates, figure, crossed)
        axes.set(xlabel=x, ylabel=y)
    for axes in picture.axes[len(panels) :]:
        axes.set_axis_off()
    out = io.BytesIO()
    picture.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _panel(axes, key, candidates, figure, crossed):
    costs = {name: {t: figure(each[t]) for t in sorted(each)} for name, each in candidates.items()}
    for place, (name, each) in enumerate(costs.items()):
        style = {"marker": "o", "markersize": 3, "color": f"C{place % 10}", "linestyle": "-" if place < 10 else "--"}
        axes.plot(list(each), list(each.values()), label=name, **style)
    many = len(costs) > views.MANY
    crossed = crossed and not many
    for first, second in _pairs(costs) if crossed else ():
        crossing = scaling.crossing(costs[first], costs[second])
        if crossing and crossing[1] and crossing[0] > min(costs[first]):
            axes.plot(crossing[0], _between(costs[second], crossing[0]), "kx", markersize=7)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_title(title(key) + (" (×: one passes another)" if crossed else ""), fontsize=9)
    axes.grid(which="major", alpha=0.3)
    beside = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "ncols": 2} if many else {}
    axes.legend(fontsize=6 if many else 7, **beside)


def title(group: views.Group) -> str:
    """What the rows of a panel share, with the device and the clock where they are not those of a CPU."""
    return f"{group.kind}s, {group._replace(mode=TITLES.get(group.mode, group.mode))}"


def _pairs(costs):
    return [(a, b) for a in costs for b in costs if a != b]


def _between(costs, length):
    """A power of the length between the two measured ones around it."""
    before = max(t for t in costs if t <= length)
    after = min(t for t in costs if t >= length)
    if before == after:
        return costs[before]
    share = math.log(length / before) / math.log(after / before)
    return costs[before] ** (1 - share) * costs[after] ** share
