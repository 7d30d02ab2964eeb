"""How far are the times that `minilm info` plans from those that a run takes on this machine?

    python -m benchmarks.plan

A training step and the writing of a token, planned from this machine's measured rates and then timed, in CPU time of
one core. The plan assumes that training reaches 40% of the rate of one large product; the result says what it does.
"""

import json
import statistics
import time

from benchmarks import measure

SIZES = {"small": (4, 128, 128, 16), "wide": (2, 512, 128, 4)}  # layers, width, context, batch


def main():
    measure.pin()
    import dataclasses
    import functools

    import jax
    import numpy as np

    from minilm import generation, machines, plan
    from minilm.config import TrainConfig
    from minilm.data.batching import Batch
    from minilm.models import gpt
    from minilm.optimizers import make_optimizer
    from minilm.training import init_state, make_step

    def seconds(function, rounds=3):
        function()
        times = []
        for _ in range(rounds):
            start = time.process_time()
            function()
            times.append(time.process_time() - start)
        return statistics.median(times)

    machine, rows = machines.measure(clock=time.process_time), []
    for name, (layers, width, context, batch) in SIZES.items():
        config = gpt.Config(2048, context, layers, width // 32, width)
        planned = plan.make_plan(gpt, config, dataclasses.replace(TrainConfig(), batch_size=batch))
        optimizer = make_optimizer(TrainConfig().optimization, 100)
        params = gpt.init(jax.random.key(0), config)
        tokens = np.random.default_rng(0).integers(0, 2048, (1, 1, batch, context)).astype(np.int32)
        batches = Batch(tokens, tokens, np.ones(tokens.shape, np.float32))
        step = make_step(functools.partial(gpt.loss, config=config), optimizer, seed=0)
        state = init_state(jax.tree.map(np.array, params), optimizer)

        def train(step=step, batches=batches):
            nonlocal state
            state, metrics = step(state, batches)
            jax.block_until_ready(metrics)

        def write(params=params, config=config):
            generation.generate(gpt, params, config, [[1]], max_new_tokens=64)

        step_planned = machines.training_seconds(planned, machine, batch * context)
        token_planned, token_measured = machines.token_seconds(planned, machine), seconds(write) / 64
        step_measured = seconds(train)
        for what, guess, real in (("step", step_planned, step_measured), ("token", token_planned, token_measured)):
            rows.append({"model": name, "what": what, "planned_ms": 1e3 * guess, "measured_ms": 1e3 * real})
            print(json.dumps(rows[-1]))
    measure.write("plan", rows, "python -m benchmarks.plan")


if __name__ == "__main__":
    main()
