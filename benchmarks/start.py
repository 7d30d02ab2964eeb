"""How long until something happens: `minilm --help`, and the first training step with its compiled program at hand?

    python -m benchmarks.start [--rounds 9]

CPU seconds of whole processes, from their start to their end, on one core. The training step is that of the default
preset in a process of its own, which loads JAX, draws the parameters and makes one step; the first such process, which
fills an empty compilation cache, stands beside those that find it full.
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


def first_step():
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
    from minilm.models import modern
    from minilm.optimizers import make_optimizer
    from minilm.training import init_state, make_step

    passed("import")
    run = preset("default")
    sizes = run.architecture
    config = modern.Config(
        run.data.vocab_size, sizes.context_length, sizes.n_layers, sizes.n_heads, sizes.d_model, sizes.dropout
    )
    optimizer = make_optimizer(run.optimization, run.steps)
    state = init_state(modern.init(jax.random.key(0), config), optimizer)
    jax.block_until_ready(state)
    passed("parameters")
    tokens = np.zeros((1, 1, run.batch_size, config.context_length), np.int32)
    step = make_step(partial(modern.loss, config=config), optimizer, seed=0)
    jax.block_until_ready(step(state, Batch(tokens, tokens, np.ones(tokens.shape, np.float32))))
    passed("step")
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
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return first_step()

    measure.pin()
    step = [sys.executable, "-m", "benchmarks.start", "--worker"]
    help_times, warm = [], []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        cold, _ = cpu_seconds(step)
        for _ in range(arguments.rounds):
            help_times.append(cpu_seconds([sys.executable, "-m", "minilm.cli", "--help"])[0])
            warm.append(cpu_seconds(step))
    parts = [json.loads(out) for _, out in warm]
    rows = [
        {"what": "minilm --help", "cpu_s": round(statistics.median(help_times), 3)},
        {
            "what": "first training step, warm compilation cache",
            "cpu_s": round(statistics.median(seconds for seconds, _ in warm), 3),
            "parts": {name: round(statistics.median(part[name] for part in parts), 3) for name in parts[0]},
        },
        {"what": "first training step, empty compilation cache", "cpu_s": round(cold, 3)},
    ]
    for row in rows:
        print(f"{row['what']:46}{row['cpu_s']:8.2f} s  {row.get('parts', '')}")
    measure.write("start", rows, "python -m benchmarks.start")


if __name__ == "__main__":
    main()
