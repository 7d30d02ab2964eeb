"""How does the main job end, and how long does it take?

    python -m benchmarks.main_job [--preset default] [--seeds 0 1 2]

Whole runs of `minilm train` on all cores, each in a process of its own that begins with an empty compilation cache, as
on a fresh machine: bits per byte on all of the held-out text, beside the baselines, with wall and CPU seconds.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

from benchmarks import measure


def run(preset_name: str, seed: int, folder: str):
    """Train as `minilm train` does, and print how it ended."""
    from minilm.cli import _prepare

    _prepare()  # allocator and compilation cache, as every command sets them before JAX loads

    from rich.console import Console

    from minilm import trainer
    from minilm.config import preset

    config = replace(preset(preset_name), seed=seed, folder=folder)
    result = trainer.train(config, Console(file=sys.stderr))
    bits = {"this model": result.validation, **result.baselines}
    print(json.dumps({"steps": config.steps} | {name: round(value, 4) for name, value in bits.items()}))


def main():
    """Run each seed, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--worker", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return run(arguments.preset, arguments.seeds[0], arguments.worker)

    rows = []
    for seed in arguments.seeds:
        command = [sys.executable, "-m", "benchmarks.main_job", "--preset", arguments.preset, "--seeds", str(seed)]
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"XDG_CACHE_HOME": folder}
            before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            worker = [*command, "--worker", f"{folder}/run"]
            out = subprocess.run(worker, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
            wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        ended = json.loads(out.splitlines()[-1])
        rows.append({"seed": seed} | ended | {"wall_seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)})
        print(json.dumps(rows[-1]), flush=True)
        seeds = " ".join(str(row["seed"]) for row in rows)
        options = f"--preset {arguments.preset} --seeds {seeds}"
        measure.write(f"main_job_{arguments.preset}", rows, f"python -m benchmarks.main_job {options}")


if __name__ == "__main__":
    main()
