"""How a time is taken: compiled ahead, candidates in turn, until the spread is small or the budget spent.

Taken in turn (A B C A B C ...) a drift of the machine hits all alike. A sample is at least a few milliseconds of calls,
so that the clock's own steps do not count. CPU time, of one pinned thread, is what others on the machine disturb least;
of an accelerator it is the time in which it was at work (`device_time`). Caches are as warm as turns leave them.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.attention import device_time
from minilm.sentences import said

SPREAD = 0.02  # of the median: the median distance to it at which a time is taken for settled
FEWEST, MOST = 3, 60  # samples
SAMPLE = 0.005  # seconds


class Timer(NamedTuple):
    """A clock, by which a budget is kept, and what says how many seconds so many calls of a function took."""

    name: str
    clock: Callable[[], float]
    took: Callable[[Callable, int], float]


def by_clock(name: str, clock: Callable[[], float]) -> Timer:
    """A timer that reads its clock before and behind the calls."""

    def took(run, calls):
        start = clock()
        for _ in range(calls):
            run()
        return clock() - start

    return Timer(name, clock, took)


CPU, WALL = by_clock("CPU time", time.process_time), by_clock("wall-clock time", time.perf_counter)
DEVICE = Timer(device_time.NAME, time.perf_counter, device_time.device_seconds)


def timer(accelerator: bool) -> Timer:
    """CPU time, or of an accelerator its own; time on the wall where JAX finds none, or its profiler sees no work."""
    if not accelerator or jax.default_backend() == "cpu":
        return WALL if accelerator else CPU
    x = jnp.ones(8)
    try:
        DEVICE.took(lambda: jax.block_until_ready(x + x), 1)
    except RuntimeError as error:
        print(f"{error} Times are those on the wall.", file=sys.stderr)
        return WALL
    return DEVICE


def compiled(function: Callable, inputs: tuple, donate: tuple[int, ...] = ()):
    """The program of `function(*inputs)`, and the seconds that it took to compile."""
    start = time.process_time()
    program = jax.jit(function, donate_argnums=donate).lower(*inputs).compile()
    return program, time.process_time() - start


def failure(error: Exception) -> dict:
    """What a row says of a candidate that raised it."""
    return {"status": "failed", "reason": said(error)}


def settled_times(runs: dict[Any, Callable], *, seconds: float, timer: Timer = CPU) -> tuple[dict[Any, list], dict]:
    """Seconds a call of each, sample by sample.

    Args:
      runs: functions without arguments that return only when their work is done.
      seconds: what may be spent on all of them; each is sampled `FEWEST` times, whatever that takes.
      timer: which time.
    Returns:
      name -> the samples of all rounds, as many for each; and name -> `failure`, of those that raised an error.
    """
    calls, times, failed = dict.fromkeys(runs, 1), {name: [] for name in runs}, {}

    def took(name):
        try:
            return timer.took(runs[name], calls[name]) / calls[name]
        except Exception as error:  # the others are still measured
            failed[name] = failure(error)
            del times[name]

    for name in runs:
        took(name)  # which warms caches
        if name in times and (once := took(name)) is not None:
            calls[name] = max(1, int(SAMPLE / max(once, 1e-9)))
    begun = timer.clock()
    while times:
        for name in list(times):
            rest()
            sample = took(name)
            if name in times:
                times[name].append(sample)
        n = min(map(len, times.values()), default=MOST)
        spent = timer.clock() - begun > seconds or n >= MOST
        if n >= FEWEST and (spent or all(spread(each) < SPREAD for each in times.values())):
            break
    return times, failed


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
