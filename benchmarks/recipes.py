"""Which recipe learns fastest on one CPU core?

    python -m benchmarks.recipes [NAME ...] [--steps N] [--seeds 0 1 2]

Every recipe trains four blocks of width 128 on the default corpus, with context 128, 2,048 tokens and batch 16, and is
measured on all of the held-out text. The plain one is GPT-2 under AdamW, 800 steps. Each of the others changes what its
name says; the last is the default of `minilm train`, and says how soon it is where the plain one ends.
"""

import argparse
import json
import math
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks import measure
from minilm.config import OptimizerConfig, TrainConfig, preset

SCANNED = 20


def recipes() -> dict[str, TrainConfig]:
    """The table, each row one change away from an earlier one."""
    default = replace(preset("default"), steps=300)
    plain = preset("plain")
    gpt_muon = replace(plain, optimization=default.optimization, steps=300)
    adam = OptimizerConfig(learning_rate=4e-3, warmup_steps=10)
    modern_adam = replace(plain, architecture=default.architecture, optimization=adam, steps=300)
    cosine = replace(default.optimization, schedule="cosine", final_share=0.1)
    return {
        "plain": plain,
        "plain, 300 steps": replace(plain, steps=300),
        "GPT-2 with Muon": gpt_muon,
        "modern with AdamW": modern_adam,
        "modern with Muon, cosine": replace(default, optimization=cosine),
        "modern with Muon, warm-down": default,
        "the same in bfloat16": replace(default, compute_dtype="bfloat16"),
        "the same, 240 steps": replace(default, steps=240),
        "the same, 200 steps": replace(default, steps=200),
    }


def learn(config: TrainConfig, corpus) -> dict:
    """Train by one recipe; the CPU seconds of its steps alone, compilation apart, and the held-out loss at the end."""
    import jax
    import numpy as np

    from minilm import run_folder
    from minilm.data.batching import Batches, evaluation_batches
    from minilm.optimizers import make_optimizer
    from minilm.training import in_precision, init_state, make_evaluate, make_step

    shape = config.architecture
    model = run_folder.model_named(shape.model)
    model_config = run_folder.model_config(shape, corpus.train.vocab_size)
    loss = in_precision(partial(model.loss, config=model_config), config.compute_dtype)
    optimizer = make_optimizer(config.optimization, config.steps)
    batches = Batches(corpus.train.tokens, shape.context_length, config.batch_size, config.seed)
    advance, evaluate = make_step(loss, optimizer, config.seed), make_evaluate(loss)
    state = init_state(model.init(jax.random.key(config.seed), model_config), optimizer)

    def stacked(first):
        made = [batches.batch(step) for step in range(first, first + SCANNED)]
        return jax.tree.map(lambda *leaves: np.stack(leaves)[:, None], *made)

    jax.block_until_ready(advance(jax.tree.map(jax.numpy.array, state), stacked(0)))
    begun, wall = time.process_time(), time.perf_counter()
    for first in range(0, config.steps, SCANNED):
        state, metrics = advance(state, stacked(first))
    metrics["loss"].block_until_ready()
    seconds, wall = time.process_time() - begun, time.perf_counter() - wall
    nats, tokens = evaluate(state.params, evaluation_batches(corpus.validation.tokens, shape.context_length, 16))
    return {
        "steps": config.steps,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "cpu_seconds": round(seconds, 1),
        "wall_seconds": round(wall, 1),
        "held_out_loss": round(nats / tokens, 4),
        "bits_per_byte": round(corpus.validation.bits_per_byte(nats / tokens), 4),
    }


def main():
    """Run the table, print and save it."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout, allow_abbrev=False)
    parser.add_argument("names", nargs="*", help="only these rows")
    parser.add_argument("--steps", type=int, help="other than the table's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    for name in set(arguments.names) - set(recipes()):
        parser.error(f"There is no recipe {name!r}: they are {'; '.join(recipes())}.")
    measure.pin()
    from minilm.allocator import tune
    from minilm.data.preparation import prepare

    tune()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare(preset("plain").data, Path(folder))
        for seed in arguments.seeds:
            for name, config in recipes().items():
                if arguments.names and name not in arguments.names:
                    continue
                config = replace(config, seed=seed, steps=arguments.steps or config.steps)
                rows.append({"recipe": name, "seed": seed} | learn(config, corpus))
                print(json.dumps(rows[-1]), flush=True)
    if not arguments.steps:  # of what was not asked for, the rows stay
        new = {(row["recipe"], row["seed"]) for row in rows}
        rows += [row for row in measure.rows_here("recipes") if (row["recipe"], row["seed"]) not in new]
        rows.sort(key=lambda row: (row["seed"], [*recipes()].index(row["recipe"])))
    for plain in [row for row in rows if row["recipe"] == "plain"]:
        for row in (row for row in rows if row["seed"] == plain["seed"]):
            row["time_share_of_plain"] = round(row["cpu_seconds"] / plain["cpu_seconds"], 3)
            row["reaches_plain"] = row["held_out_loss"] <= plain["held_out_loss"]
    if not arguments.steps:
        measure.write("recipes", rows, shlex.join(["python", "-m", "benchmarks.recipes", *sys.argv[1:]]))
    print(f"guessing: {math.log(corpus.train.vocab_size):.3f}")


if __name__ == "__main__":
    main()
