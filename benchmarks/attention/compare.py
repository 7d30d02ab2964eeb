"""Is the second measurement slower than the first? Ratios row by row; with a limit, an exit code of 1 beyond it.

    minilm bench attention compare before.jsonl after.jsonl --fail-if-slower 10%

Rows are the same measurement if candidate, mode, sizes, dtype and device are. What had a time and has none any more is
a failure too, whatever the limit.
"""

import math

from benchmarks.attention import options, record
from minilm.flags import UsageError


def main(words: list[str]) -> int:
    """Read the options, and run."""
    parser = options.Parser("compare", __doc__)
    parser.add_argument("before", metavar="A", help="a file of JSON lines, as --out writes")
    parser.add_argument("after", metavar="B", help="another")
    parser.add_argument(
        "--fail-if-slower", type=options.percent, metavar="PERCENT", help="end with 1 where B takes so much longer"
    )
    return run(parser.parse_args(words))


@record.rows_as_written
def run(chosen) -> int:
    """Print a line for each row that both files have; 1 where one is too slow or lost."""
    before, after = (
        {record.identity(row): row for row in record.read(path) if row["mode"] != "quality"}
        for path in (chosen.before, chosen.after)
    )
    shared = [key for key in before if key in after and "time" in before[key]]
    if not shared:
        raise UsageError(f"{chosen.before} and {chosen.after} have no measurement in common.")
    limit = math.inf if chosen.fail_if_slower is None else 1 + chosen.fail_if_slower
    names, ratios, lost = _names([before[key] for key in shared]), {}, []
    for name, key in zip(names, shared, strict=True):
        first, second = before[key], after[key]
        if "time" not in second:
            lost.append(f"{name} had a time, and is {second['status']} now: {second.get('reason')}")
            continue
        clocks = [row["time"]["clock"] for row in (first, second)]
        if len(set(clocks)) > 1:
            raise UsageError(f"{name} was taken in {' and in '.join(clocks)}: measure both in the same way.")
        ratios[name] = second["time"]["median"] / first["time"]["median"]
    for name, key in zip(names, shared, strict=True):
        if name in ratios:
            a, b = (1e3 * rows[key]["time"]["median"] for rows in (before, after))
            print(f"{ratios[name]:6.2f} ×   {a:10.4g} ms → {b:10.4g} ms   {name}")
    alone = len(before.keys() ^ after.keys())
    print(f"{len(shared)} rows in both files" + (f", {alone} in one of them alone" if alone else ""))
    for sentence in lost:
        print(sentence)
    slow = {name: ratio for name, ratio in ratios.items() if ratio > limit}
    if slow:
        worst = max(slow, key=slow.get)
        print(
            f"{len(slow)} of {len(ratios)} rows are more than {100 * chosen.fail_if_slower:g}% slower; the worst is "
            f"{worst}, at {ratios[worst]:.2f} times the time."
        )
    return 1 if slow or lost else 0


def _names(rows):
    """What each row measures; where two would read alike, with all that tells them apart."""
    short = [f"{row['candidate']}, {row['mode']}, {record.extent(row)} tokens, {row['dtype']}" for row in rows]
    long = [
        f"{row['kind']} {name}, {row['sizes']}, {row['environment']['device']}"
        for name, row in zip(short, rows, strict=True)
    ]
    return [name if short.count(name) == 1 else more for name, more in zip(short, long, strict=True)]
