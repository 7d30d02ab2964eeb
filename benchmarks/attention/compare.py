"""Is the second measurement slower than the first? Ratios row by row; with a limit, an exit code of 1 beyond it.

    minilm bench attention compare before.jsonl after.jsonl --fail-if-slower 10%

Rows are the same measurement if candidate, mode, sizes, dtype and device are; times of other processors or numbers of
threads are refused. What had a time and fails now is a failure too, whatever the limit; what B lacks altogether is
named, and a failure under a limit.
"""

import math

from benchmarks.attention import device_time, options, record
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
    timed = [key for key in before if "time" in before[key]]
    shared = [key for key in timed if key in after]
    if not shared:
        raise UsageError(f"{chosen.before} and {chosen.after} have no measurement in common.")
    names, ratios, lost = dict(zip(timed, _names([before[key] for key in timed]), strict=True)), {}, []
    for key in shared:
        first, second = before[key], after[key]
        if "time" not in second:
            lost.append(f"{names[key]} had a time, and is {second['status']} now: {second.get('reason')}")
            continue
        _check_alike(names[key], first, second)
        ratios[key] = second["time"]["median"] / first["time"]["median"]
    for key, ratio in ratios.items():
        a, b = (1e3 * rows[key]["time"]["median"] for rows in (before, after))
        print(f"{ratio:6.2f} ×   {a:10.4g} ms → {b:10.4g} ms   {names[key]}")
    alone = len(before.keys() ^ after.keys())
    print(f"{_count(len(shared), 'row')} in both files" + (f", {alone} in one of them alone" if alone else ""))
    absent = [names[key] for key in timed if key not in after]
    for sentence in lost:
        print(sentence)
    for name in absent:
        print(f"{name} had a time, and is not in {chosen.after}: measure it again.")
    limit = math.inf if chosen.fail_if_slower is None else 1 + chosen.fail_if_slower
    slow = {key: ratio for key, ratio in ratios.items() if ratio > limit}
    if slow:
        worst = max(slow, key=slow.get)
        print(
            f"{len(slow)} of {_count(len(ratios), 'row')} {'is' if len(slow) == 1 else 'are'} more than "
            f"{100 * chosen.fail_if_slower:g}% slower; "
            f"the worst is {names[worst]}, at {ratios[worst]:.2f} times the time."
        )
    return 1 if slow or lost or (absent and limit < math.inf) else 0


def _check_alike(name, *rows):
    """Times of two clocks, or of two machines, say nothing of each other."""
    clocks = [row["time"]["clock"] for row in rows]
    if len(set(clocks)) > 1:
        raise UsageError(f"{name} was taken in {' and in '.join(clocks)}: measure both in the same way.")
    if clocks[0] == device_time.NAME:
        return  # the device is in what both rows measure, and its host's processor did not do the work
    places = [(row["environment"]["cpu"].strip(), row["environment"]["threads"]) for row in rows]
    if len(set(places)) > 1:
        told = " and on ".join(f"{cpu} with {_count(threads, 'thread')}" for cpu, threads in places)
        raise UsageError(f"{name} was taken on {told}: measure both on one machine.")


def _count(number, what):
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _names(rows):
    """What each row measures; where two would read alike, with all that tells them apart."""
    short = [f"{row['candidate']}, {row['mode']}, {record.extent(row)} tokens, {row['dtype']}" for row in rows]
    long = [
        f"{row['kind']} {name}, {row['sizes']}, {row['environment']['device']}"
        for name, row in zip(short, rows, strict=True)
    ]
    return [name if short.count(name) == 1 else more for name, more in zip(short, long, strict=True)]
