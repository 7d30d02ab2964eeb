"""How every benchmark here measures: one pinned thread, CPU time, candidates taken in turn, medians, ratios.

    import benchmarks.measure as measure
    measure.pin()                                  # before jax or torch is imported
    times = measure.compare({"minilm": f, "torch": g})
    measure.write("recurrent", rows, "python -m benchmarks.recurrent")

Taken in turn (A B C A B C ...) a drift of the machine hits all candidates alike, and a ratio survives it. A ratio is
the median over rounds of the two times of the same round.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
ALLOCATORS = ("plain", "tuned")  # as it comes, and by `minilm.allocator.tune`
_PACKAGES = ("minilm", "jax", "jaxlib", "numpy", "optax", "flax", "torch", "tokenizers", "tiktoken", "gensim", "nltk")


def pin(cpu: int | None = None):
    """Hold this process to one core, by default the first of those it may use, and every library to one thread.

    Call it before they are imported.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["JAX_PLATFORMS"] = "cpu"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0)) if cpu is None else cpu})


def pin_and_tune(allocator: str) -> bool:
    """`pin`, and tune the C library's allocator where it is to be "tuned"; False where it cannot be.

    Call it before jax or torch is imported, as `pin`, and so before there are arrays that tuning would not reach.
    """
    pin()
    from minilm.allocator import tune

    return allocator == "plain" or tune()


def by_allocator(module: str, *arguments: str) -> dict:
    """What `python -m module arguments --allocator A` prints last, as JSON: A -> value.

    Each runs in a process of its own, for an allocator that was tuned cannot be untuned.
    """
    found = {}
    for allocator in ALLOCATORS:
        command = [sys.executable, "-m", module, *arguments, "--allocator", allocator]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[allocator] = json.loads(printed.splitlines()[-1])
    return found


def compare(candidates, *, rounds: int = 15, warmup: int = 2, seconds: float = 60.0):
    """CPU seconds of each candidate, round by round: name -> list. Stops early when `seconds` of CPU are spent.

    A candidate is a function without arguments that returns only when its work is done.
    """
    for function in candidates.values():
        for _ in range(warmup):
            function()
    times = {name: [] for name in candidates}
    begun = time.process_time()
    for _ in range(rounds):
        for name, function in candidates.items():
            start = time.process_time()
            function()
            times[name].append(time.process_time() - start)
        if time.process_time() - begun > seconds:
            break
    return times


def median(times):
    """The median of one candidate's times."""
    return statistics.median(times)


def speed(times, name, peer):
    """How many times as fast `name` is as `peer`: the median over rounds of peer's time by its own."""
    return statistics.median(b / a for a, b in zip(times[name], times[peer], strict=True))


def environment() -> dict:
    """Versions and hardware, as they stand beside every figure."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "versions": versions,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def write(benchmark: str, rows: list[dict], command: str) -> Path:
    """Save rows, the environment and the command that made them to `benchmarks/results/<benchmark>.json`.

    What was measured on another processor stays there beside it; what was on this one is replaced. A file that cannot
    be read is moved aside, for what took hours to measure is not to be lost by it.
    """
    RESULTS.mkdir(exist_ok=True)
    record = {"benchmark": benchmark, "command": command, "environment": environment(), "rows": rows}
    path, part = RESULTS / f"{benchmark}.json", RESULTS / f"{benchmark}.json.part"
    try:
        others = [one for one in records(benchmark) if one["environment"]["cpu"] != record["environment"]["cpu"]]
    except (ValueError, KeyError, TypeError):
        others, aside = [], path.rename(path.with_suffix(".json.unread"))
        print(f"{path.name} holds no records that can be read; it is {aside.name} now.")
    part.write_text(json.dumps([*others, record], indent=1) + "\n")
    part.replace(path)
    print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return path


def records(benchmark: str) -> list[dict]:
    """What is saved of a benchmark: a record for each processor that it ran on."""
    path = RESULTS / f"{benchmark}.json"
    return json.loads(path.read_text()) if path.exists() else []


def rows_here(benchmark: str) -> list[dict]:
    """The rows that are saved of this processor."""
    here = environment()["cpu"]
    return [row for one in records(benchmark) if one["environment"]["cpu"] == here for row in one["rows"]]


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    name = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())
    extensions = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{name} ({', '.join(extensions)})"
