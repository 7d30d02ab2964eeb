"""Bugs planted one by one, to see whether a test notices.

    python -m tests.mutation --changed REV              a bounded sample over what changed since REV, as CI runs it
    python -m tests.mutation --module minilm/losses.py  every mutant of a module
    python -m tests.mutation --all --budget 60          every mutant of each module that changed since its last run,
                                                        but those whose survival is explained
    python -m tests.mutation --survivors                what no test noticed then, after tests were added

A mutant (`tests/mutants.py`) is compiled and put in place of its function's code inside one process
(`tests/planting.py`), so that whoever holds the function runs it: a record, a closure, a compiled caller. Then the
tests that cover the function run until one fails. Layers run uncompiled meanwhile, for JAX would compile anew for every
mutant; where loops are the subject, they are compiled and the caches cleared. What no test notices must stand in
`tests/mutation_survivors.toml`, with the reason why nothing could. The results of whole modules are kept in
`benchmarks/results/mutation.json`; a sample fails on a survivor that is neither explained there nor known from here.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from tests.mutants import Mutant, mutants_of
from tests.planting import ALARM, NO_WITNESS, ROOT, record_files, targets, test_files, work

SURVIVORS = ROOT / "tests/mutation_survivors.toml"
RESULTS = ROOT / "benchmarks/results/mutation.json"
SAMPLE_MODULES, SAMPLE_MUTANTS, SAMPLE_SECONDS = 6, 20, 80  # CI's: so many of each, or what the time allows
BAR = 0.95


def run(mutants: list[Mutant], seconds: float, tell: Callable[[dict[str, str]], None] = lambda _: None):
    """Mutant's name -> the test that noticed it, or "survived"; two workers, and one that hangs is replaced.

    `tell` is called with what is known so far, again and again.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _run(mutants, time.monotonic() + seconds, Path(folder), tell)


def _run(mutants, until, folder, tell):
    outcomes = {}
    shares = [[m.name for m in mutants][start::2] for start in range(2)]
    workers = [_Worker(share, until, folder) for share in shares if share]
    while workers:
        time.sleep(0.2)
        for worker in list(workers):
            ended = worker.process.poll() is not None  # asked before the news, which may tell of its last mutant
            for name, outcome in worker.news():
                outcomes[name] = outcome
                if outcome == "survived":
                    print(f"survived: {name}", flush=True)
                tell(outcomes)
            if not ended and time.monotonic() > until + ALARM:
                worker.process.kill()
                worker.process.wait()
                workers.remove(worker)  # what it was at has no result
            elif ended or worker.is_stuck():
                worker.process.kill()
                code = worker.process.wait()
                if worker.current is not None:
                    outcomes[worker.current] = f"the process ended with {code}" if ended else "an endless loop"
                    tell(outcomes)
                workers.remove(worker)
                rest = [name for name in worker.share if name not in outcomes]
                if worker.current is None and code:
                    raise RuntimeError(f"A worker ended with {code} before its first mutant.")
                if rest and worker.current is not None and time.monotonic() < until:
                    workers.append(_Worker(rest, until, folder))
    return outcomes


class _Worker:
    def __init__(self, share, until, folder):
        self.share, self.current, self.since, self.read = share, None, time.monotonic(), 0
        own = Path(tempfile.mkdtemp(dir=folder))
        orders, self.log = own / "orders", own / "log"
        orders.write_text(json.dumps(share))
        command = [sys.executable, "-m", "tests.mutation", "--worker", str(orders), str(until - time.monotonic())]
        settings = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
            "OMP_NUM_THREADS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),  # nearly all is compiled for every mutant
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }
        environment = os.environ | settings
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log)

    def news(self):
        lines = self.log.read_text().split("\n")[self.read : -1]
        self.read += len(lines)
        for name, outcome in map(json.loads, lines):
            if outcome == NO_WITNESS:
                print(f"no witness here, for it fails without a mutant too: {name}", flush=True)
                continue
            self.since = time.monotonic()
            self.current = name if outcome == "started" else None
            if outcome != "started":
                yield name, outcome

    def is_stuck(self):
        return self.current is not None and time.monotonic() - self.since > 20 * ALARM


def run_modules(paths: list[str], seconds: float, explained: set[str]) -> dict[str, str]:
    """The outcomes of the modules that were gone through to the end, each kept as soon as it was."""
    mutants = {path: mutants_of(path, ROOT) for path in paths}
    outcomes, waiting = {}, {path: [mutant.name for mutant in own] for path, own in mutants.items()}

    def keep_what_is_whole(found):
        for path, names in list(waiting.items()):
            if all(name in found or name in explained for name in names):
                own = {name: found.get(name, "survived") for name in waiting.pop(path)}
                keep(path, own)
                outcomes.update(own)

    tried = [mutant for own in mutants.values() for mutant in own if mutant.name not in explained]
    keep_what_is_whole(run(tried, seconds, keep_what_is_whole))
    if waiting:
        print(f"No time was left for all mutants of {', '.join(waiting)}.")
    return outcomes


def run_survivors(seconds: float) -> dict[str, str]:
    """The outcomes of what survived and is not explained, kept as well.

    What was noticed still is, where no test was taken away. A module that changed since is still to be gone through.
    """
    results = json.loads(RESULTS.read_text())
    mutants = {path: mutants_of(path, ROOT) for path in results}
    left = [m for path, own in mutants.items() for m in own if m.name.split("::")[1] in results[path]["survived"]]
    outcomes = run([mutant for mutant in left if mutant.name not in listed()], seconds)
    for path in mutants:
        slips = [m.name.split("::")[1] for m in left if m.path == path and outcomes.get(m.name) in (None, "survived")]
        results[path] |= {"survived": sorted(slips)}
    _write(results)
    return outcomes


def listed() -> set[str]:
    """The survivors that are known, by name."""
    text = SURVIVORS.read_text() if SURVIVORS.exists() else ""
    return {f"{place}: {slip}" for place, slips in tomllib.loads(text).items() for slip in slips}


def changed_since(revision: str) -> list[str]:
    """The modules under mutation that differ from a revision, in themselves or in their tests."""
    command = ["git", "diff", "--name-only", revision, "--"]
    names = set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())
    return [path for path in targets() if names & {path, *test_files(path)[1:], *record_files(path)}]


def sample(paths: list[str]) -> list[Mutant]:
    """A few mutants of a few modules, always the same while these stay as they are: to load many would take long."""
    draw = random.Random("".join(map(digest, paths)))
    few = draw.sample(paths, min(SAMPLE_MODULES, len(paths)))
    found = [mutants_of(path, ROOT) for path in few]
    return [mutant for own in found for mutant in draw.sample(own, min(SAMPLE_MUTANTS, len(own)))]


def digest(path: str) -> str:
    """What tells whether a module, its tests or its records changed since; what several records share is left out."""
    files = [*test_files(path)[1:], *record_files(path)]
    return hashlib.sha256(b"".join((ROOT / file).read_bytes() for file in files)).hexdigest()[:16]


def keep(path: str, outcomes: dict[str, str]):
    """Write a module's result into the committed file."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    survived = sorted(name.split("::")[1] for name, outcome in outcomes.items() if outcome == "survived")
    results[path] = {"digest": digest(path), "mutants": len(outcomes), "survived": survived}
    _write(results)


def _write(results):
    RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1, ensure_ascii=False) + "\n")


def is_news(name: str) -> bool:
    """Whether a survivor is unknown to its module's last full run; before the first, nothing is known."""
    path, slip = name.split("::")
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return path in known and slip not in known[path]["survived"]


def table(outcomes: dict[str, str]):
    """Print how many mutants of each module were noticed."""
    print(f"{'module':45}{'mutants':>8}{'killed':>8}{'share':>8}{'listed':>8}{'unlisted':>10}")
    for path in sorted({name.split("::")[0] for name in outcomes}):
        own = {name: outcome for name, outcome in outcomes.items() if name.split("::")[0] == path}
        alive = {name for name, outcome in own.items() if outcome == "survived"}
        numbers = f"{len(own):8}{len(own) - len(alive):8}{1 - len(alive) / len(own):8.1%}"
        print(f"{path:45}{numbers}{len(alive & listed()):8}{len(alive - listed()):10}")


def main():
    """Run what the command line asks for; exit with 1 where a survivor stands on no list or too many survive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--changed", metavar="REV")
    what.add_argument("--module", nargs="+", metavar="PATH")
    what.add_argument("--all", action="store_true")
    what.add_argument("--survivors", action="store_true")
    what.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--budget", type=float, default=60, metavar="MINUTES")
    options = parser.parse_args()
    if options.worker:
        return work(options.worker[0], float(options.worker[1]))
    if options.changed:
        mutants = sample(changed_since(options.changed))
        outcomes = run(mutants, SAMPLE_SECONDS)
        print(f"{len(outcomes)} of {len(mutants)} mutants tried.")
    elif options.survivors:
        outcomes = run_survivors(60 * options.budget)
    else:
        done = json.loads(RESULTS.read_text()) if options.all and RESULTS.exists() else {}
        paths = options.module or [p for p in targets() if done.get(p, {}).get("digest") != digest(p)]
        # To miss again what is explained would take most of the time.
        outcomes = run_modules(paths, 60 * options.budget, explained=listed() if options.all else set())
    table(outcomes)
    alive = {name for name, outcome in outcomes.items() if outcome == "survived"}
    unexplained = sorted(alive - listed())
    for name in unexplained:
        print(f"No test noticed, and no list explains: {name}")
    if options.changed:
        return int(any(is_news(name) for name in unexplained))
    return int(bool(unexplained) or (not options.survivors and len(alive) > (1 - BAR) * len(outcomes)))


if __name__ == "__main__":
    sys.exit(main())
