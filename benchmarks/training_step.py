"""How fast is a training step of GPT-2 on one CPU core, beside PyTorch's and Flax's?

    python -m benchmarks.training_step [--rounds 9] [--size small|large]

Every candidate takes the same AdamW step, clipped, in the same sizes on the same tokens, as its users would write it
(`benchmarks/peers`). minilm stands twice: one step a call, and ten steps scanned in one call, as `minilm train` runs.
All of them run twice, with the C library's allocator as it comes and tuned for all alike.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import measure

SIZES = {
    "small": {"layers": 4, "heads": 4, "d": 128, "context": 64, "batch": 12, "vocab": 2048},
    "large": {"layers": 6, "heads": 6, "d": 384, "context": 256, "batch": 4, "vocab": 2048},
}
SCANNED = 10


def minilm_stepper(vocab, context, layers, heads, d, *, dtype="float32"):
    """A function (tokens, targets) -> losses; its batches have a leading axis of steps."""
    import jax
    import numpy as np

    from minilm.config import OptimizerConfig
    from minilm.data.batching import Batch
    from minilm.models import gpt
    from minilm.optimizers import make_optimizer
    from minilm.training import in_precision, init_state, make_step

    config = gpt.Config(vocab_size=vocab, context_length=context, n_layers=layers, n_heads=heads, d_model=d)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-3, schedule="constant", warmup_steps=1), steps=1000)
    update = make_step(in_precision(partial(gpt.loss, config=config), dtype), optimizer, seed=0)
    state = init_state(gpt.init(jax.random.key(0), config), optimizer)

    def step(tokens, targets):
        nonlocal state
        tokens, targets = (x.reshape(-1, 1, *x.shape[-2:]) for x in (tokens, targets))
        state, metrics = update(state, Batch(tokens, targets, np.ones(tokens.shape, np.float32)))
        return np.asarray(metrics["loss"])

    return step


def measured(size: str, rounds: int) -> dict:
    """CPU seconds a step of every candidate, as medians, and speeds relative to eager PyTorch in float32."""
    import numpy as np

    from benchmarks.peers import linen_gpt, nnx_gpt, torch_gpt

    shape: dict[str, Any] = dict(SIZES[size])
    batch = shape.pop("batch")
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, shape["vocab"], (SCANNED, batch, shape["context"] + 1))
    x, y = tokens[..., :-1].astype(np.int32), tokens[..., 1:].astype(np.int32)
    long = x.astype(np.int64), y.astype(np.int64)

    steppers = {
        "torch": (torch_gpt.stepper(**shape), *long),
        "torch bf16 autocast": (torch_gpt.stepper(**shape, autocast=True), *long),
        "flax linen": (linen_gpt.stepper(**shape), x, y),
        "flax nnx": (nnx_gpt.stepper(**shape), x, y),
        "minilm": (minilm_stepper(**shape), x, y),
        "minilm bf16": (minilm_stepper(**shape, dtype="bfloat16"), x, y),
    }

    def steps(function, x, y):
        return lambda: [function(x[j], y[j]) for j in range(SCANNED)]

    candidates: dict[str, Callable] = {name: steps(*parts) for name, parts in steppers.items()}
    for name, dtype in {"minilm scanned": "float32", "minilm scanned bf16": "bfloat16"}.items():
        candidates[name] = partial(minilm_stepper(**shape, dtype=dtype), x, y)
    times = measure.compare(candidates, rounds=rounds, warmup=1, seconds=400)
    return {
        name: {
            "ms": round(measure.median(times[name]) / SCANNED * 1e3, 2),
            "speed_vs_torch": round(measure.speed(times, name, "torch"), 3),
        }
        for name in candidates
    }


def main():
    """Measure both sizes, each with both allocators in a process of its own, print the table and save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", choices=SIZES, help="only this size")
    parser.add_argument(
        "--allocator", choices=measure.ALLOCATORS, help="measure --size with this one alone and print JSON"
    )
    arguments = parser.parse_args()
    if arguments.allocator:
        if not arguments.size:
            parser.error("--allocator measures one size: say which by --size")
        print(
            json.dumps(measured(arguments.size, arguments.rounds) if measure.pin_and_tune(arguments.allocator) else {})
        )
        return

    sizes = [arguments.size] if arguments.size else list(SIZES)
    for size in sizes:
        options = ("--size", size, "--rounds", str(arguments.rounds))
        columns = measure.by_allocator("benchmarks.training_step", *options)
        columns = {allocator: own for allocator, own in columns.items() if own}
        heads = "".join(f"{'ms ' + allocator:>10}{'× torch':>9}" for allocator in columns)
        print(f"\n{size}: {SIZES[size]}\n{'':22}{heads}")
        rows = []
        for name in columns["plain"]:
            figures = {f"{key}_{a}": value for a, own in columns.items() for key, value in own[name].items()}
            rows.append({"size": size, "candidate": name} | figures)
            times = (f"{own[name]['ms']:10.1f}{own[name]['speed_vs_torch']:9.2f}" for own in columns.values())
            print(f"{name:22}" + "".join(times))
        measure.write(f"training_step_{size}", rows, f"python -m benchmarks.training_step {' '.join(options)}")


if __name__ == "__main__":
    main()
