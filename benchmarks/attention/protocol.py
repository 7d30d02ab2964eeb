"""How a time is taken: compiled ahead, candidates in turn, until the spread is small or the budget spent.

Taken in turn (A B C A B C ...) a drift of the machine hits all alike. A sample is at least a few milliseconds of calls,
so that the clock's own steps do not count. CPU time, of one pinned thread, is what others on the machine disturb least;
of an accelerator there is only the time on the wall, between a call and its finished result, with caches as warm as
turns leave them.
"""

import statistics
import time
from collections.abc import Callable

import jax

SPREAD = 0.02  # of the median: the median distance to it at which a time is taken for settled
FEWEST, MOST = 3, 60  # samples
CLOCKS = {"CPU time": time.process_time, "wall-clock time": time.perf_counter}
SAMPLE = 0.005  # seconds


def compiled(function: Callable, inputs: tuple, donate: tuple[int, ...] = ()):
    """The program of `function(*inputs)`, and the seconds that it took to compile."""
    start = time.process_time()
    program = jax.jit(function, donate_argnums=donate).lower(*inputs).compile()
    return program, time.process_time() - start


def settled_times(runs: dict[str, Callable], *, seconds: float, clock=time.process_time) -> dict[str, list[float]]:
    """Seconds a call of each, sample by sample.

    Args:
      runs: functions without arguments that return only when their work is done.
      seconds: what may be spent on all of them; each is sampled `FEWEST` times, whatever that takes.
      clock: what is read.
    Returns:
      name -> the samples of all rounds, as many for each.
    """
    calls = {}
    for name, run in runs.items():
        run()
        start = clock()
        run()
        calls[name] = max(1, int(SAMPLE / max(clock() - start, 1e-9)))
    times, begun = {name: [] for name in runs}, clock()
    while runs:
        for name, run in runs.items():
            rest()
            start = clock()
            for _ in range(calls[name]):
                run()
            times[name].append((clock() - start) / calls[name])
        n = len(times[next(iter(times))])
        spent = clock() - begun > seconds or n >= MOST
        if n >= FEWEST and (spent or all(spread(each) < SPREAD for each in times.values())):
            break
    return times


def rest(pause: float = 0.003, patience: int = 500) -> None:
    """Wait until this process does nothing more.

    A result is there before all memory is given back, which takes half a second of the gigabytes that dense attention
    to 8,192 tokens held, and would be counted as the next candidate's time.
    """
    for _ in range(patience):
        start = time.process_time()
        time.sleep(pause)
        if time.process_time() - start < pause / 10:
            return


def spread(samples: list[float]) -> float:
    """The median distance to the median, as a share of it."""
    middle = statistics.median(samples)
    return statistics.median(abs(x - middle) for x in samples) / middle


def summary(samples: list[float], compile_seconds: float, clock: str) -> dict:
    """What a record says of them."""
    ordered = sorted(samples)
    return {
        "median": statistics.median(ordered),
        "p20": ordered[round(0.2 * (len(ordered) - 1))],
        "p80": ordered[round(0.8 * (len(ordered) - 1))],
        "n": len(ordered),
        "spread": spread(ordered),
        "settled": spread(ordered) < SPREAD,
        "compile": compile_seconds,
        "clock": clock,
    }
