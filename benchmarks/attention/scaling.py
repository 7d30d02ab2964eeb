"""How costs grow with the length, and where one candidate passes another."""

import math

import numpy as np

FALLS, FARTHEST = 0.25, 16  # of a guess: how fast the ratio must fall, and how many times the longest it may lie ahead
LEAD = 1.05  # times of two runs differ by as much


def exponent(lengths, costs) -> float | None:
    r"""The slope p of ln(cost) over ln(T) by least squares: a cost like $T^p$. None of fewer than two lengths.

    >>> round(exponent([512, 1024, 2048], [3, 12, 48]), 6)
    2.0
    """
    if len(set(lengths)) < 2:
        return None
    return float(np.polyfit(np.log(lengths), np.log(costs), 1)[0])


def crossing(times: dict[int, float], others: dict[int, float]) -> tuple[float, bool] | None:
    """The length from which the first is the faster one, and whether it was reached; None where that never comes.

    Between two lengths both times are taken for powers of the length. Beyond the last they grow on as they did over the
    last two: what is found there, at up to 16 times the longest, is a guess, and said to be one. None is made where the
    ratio of the two falls more slowly than the fourth root of the length: that may be noise. So may a lead of less
    than a twentieth at the longest length, where the ratio falls so slowly.

    >>> crossing({1: 8.0, 4: 8.0, 16: 8.0}, {1: 1.0, 4: 4.0, 16: 16.0})
    (8.0, True)
    >>> crossing({1: 4.0, 2: 4.0}, {1: 1.0, 2: 2.0})
    (4.0, False)
    """
    lengths = sorted(times.keys() & others.keys())
    if not lengths:
        return None
    behind = {t: math.log(times[t] / others[t]) for t in lengths}  # above 0: the first is slower
    last = [x for t in lengths[-2:] for x in (t, behind[t])]
    falls = len(lengths) > 1 and _slope(*last) <= -FALLS
    if not falls and -math.log(LEAD) < behind[lengths[-1]] <= 0:
        return None
    if behind[lengths[-1]] <= 0:
        slower = [t for t in lengths if behind[t] > 0]
        if not slower:
            return float(lengths[0]), True
        before, after = slower[-1], next(t for t in lengths if t > slower[-1])
        return _root(before, behind[before], after, behind[after]), True
    if not falls or (guess := _root(*last)) > FARTHEST * lengths[-1]:
        return None
    return guess, False


def rounded(length: float, measured) -> int:
    """A crossing in the two digits that times allow, or the length that was measured.

    >>> rounded(1036.4, [512, 1024]), rounded(512.0, [512, 1024])
    (1000, 512)
    """
    return int(length) if length in measured else int(float(f"{length:.2g}"))


def _slope(x, y, x_next, y_next):
    return (y_next - y) / math.log(x_next / x)


def _root(x, y, x_next, y_next):
    """Where a line through two points, over ln x, is 0."""
    return float(round(x * math.exp(-y / _slope(x, y, x_next, y_next)), 6))
