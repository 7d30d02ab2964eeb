"""How long until something happens: `minilm --help`, and the first training step with its compiled program at hand?

    python -m benchmarks.start [--rounds 9]

CPU seconds on one core. Each start is a process of its own, which loads JAX, draws the parameters and makes one step:
of the small GPT-2 that `benchmarks.training_step` measures too, and of the default preset, in which Muon's iterations
are compiled for every matrix. The first such process finds the compilation cache empty, the others find it full.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise

from benchmarks import measure

MODELS = ("GPT-2, 4 × 128, batch 12 × 64, AdamW", "the default preset")


def first_step(model_name: str):
    """Make one training step, and print what each part of the way to it took."""
    marks = [("python", time.process_time())]

    def passed(name):
        marks.append((name, time.process_time()))

    from functools import partial

    from minilm.cli import _prepare

    _prepare()  # allocator and compilation cache, as every command sets them before JAX loads

    import jax
    import numpy as np

    from minilm.config import preset
    from minilm.data.batching import Batch
    from minilm.models import gpt, modern
    from minilm.optimizers import make_optimizer
    from minilm.training import init_state, make_step

    passed("import")
    plain = model_name == MODELS[0]
    model, run = (gpt, preset("plain")) if plain else (modern, preset("default"))
    batch, context = (12, 64) if plain else (run.batch_size, run.architecture.context_length)
    config = model.Config(run.data.vocab_size, context, n_layers=4, n_heads=4, d_model=128)
    optimizer = make_optimizer(run.optimization, run.steps)
    state = jax.jit(lambda: init_state(model.init(jax.random.key(0), config), optimizer))()
    jax.block_until_ready(state)
    passed("parameters")
    tokens = np.zeros((1, 1, batch, context), np.int32)
    step = make_step(partial(model.loss, config=config), optimizer, seed=0)
    jax.block_until_ready(step(state, Batch(tokens, tokens, np.ones(tokens.shape, np.float32))))
    passed("first step")
    print(json.dumps({name: b - a for (_, a), (name, b) in pairwise(marks)}))


def cpu_seconds(command: list[str]) -> tuple[float, str]:
    """CPU seconds of one process, its children among them, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, out


def main():
    """Time each command, print the table and save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--worker", choices=MODELS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return first_step(arguments.worker)

    measure.pin()
    commands = {"minilm --help": [sys.executable, "-m", "minilm.cli", "--help"]}
    commands |= {model: [sys.executable, "-m", "benchmarks.start", "--worker", model] for model in MODELS}
    times, parts = {name: [] for name in commands}, {name: [] for name in MODELS}
    with tempfile.TemporaryDirectory() as folder:
        empty = {}
        for name in MODELS:
            os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(dir=folder)
            empty[name] = round(cpu_seconds(commands[name])[0], 2)
        os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(dir=folder)
        for name in MODELS:
            cpu_seconds(commands[name])
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                seconds, out = cpu_seconds(command)
                times[name].append(seconds)
                if name in parts:
                    parts[name].append(json.loads(out))

    rows = []
    for name, seconds in times.items():
        row = {"what": name, "cpu_s": round(statistics.median(seconds), 2)}
        if name in parts:
            row |= {part: round(statistics.median(p[part] for p in parts[name]), 2) for part in parts[name][0]}
            row["empty_cache_cpu_s"] = empty[name]
        rows.append(row)
        print("   ".join(f"{key} {value}" for key, value in row.items()))
    measure.write("start", rows, "python -m benchmarks.start")


if __name__ == "__main__":
    main()
