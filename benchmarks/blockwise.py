"""How fast is attention in tiles beside PyTorch's, and how much memory does it need?

    python -m benchmarks.blockwise            about two minutes; results in benchmarks/results/blockwise.json

Causal, 8 heads of 64, batch 1, float32, one thread. No time is taken of an output that differs from PyTorch's.
Memory is what the compiled function uses: temporaries + arguments + results − what it overwrites. PyTorch does not say.
"""

import argparse
import json
import sys

import benchmarks.measure as measure

HEADS, WIDTH = 8, 64
LENGTHS = {512: 21, 2048: 9}  # with the number of rounds
AGREEMENT = 1e-4  # of float32 outputs and gradients, both of order one


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--allocator", choices=measure.ALLOCATORS, help="measure with this one alone and print JSON")
    allocator = parser.parse_args().allocator
    if allocator:
        print(json.dumps(all_measured(allocator)))
        return
    rows = [row for found in measure.by_allocator("benchmarks.blockwise").values() for row in found]
    for row in rows:
        print(row)
    measure.write("blockwise", rows, "python -m benchmarks.blockwise")


def all_measured(allocator):
    if not measure.pin_and_tune(allocator):
        return []
    return [
        row
        for length, rounds in LENGTHS.items()
        for backward in (False, True)
        for row in measured(length, rounds, backward, allocator)
    ]


def measured(length, rounds, backward, allocator):
    import numpy as np

    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((HEADS, length, WIDTH)).astype(np.float32) for _ in range(4)]
    peers = {"torch": torch_peer(arrays, backward)} | jax_peers(arrays, backward)
    expected = peers["torch"][0]()
    for name, (function, _) in peers.items():
        for found, wanted in zip(function(), expected, strict=True):
            error = abs(np.asarray(found).reshape(wanted.shape) - wanted).max()
            if error > AGREEMENT:
                sys.exit(f"{name} differs from PyTorch by {error:.2g} at length {length}: nothing is timed")
    times = measure.compare({name: function for name, (function, _) in peers.items()}, rounds=rounds)
    rows = []
    for name, (_, memory) in peers.items():
        rows.append(
            {
                "length": length,
                "pass": "forward and backward" if backward else "forward",
                "allocator": allocator,
                "implementation": name,
                "milliseconds": round(1e3 * measure.median(times[name]), 2),
                "speed": round(measure.speed(times, name, "torch"), 3),
            }
            | memory
        )
    return rows


def torch_peer(arrays, backward):
    import torch

    torch.set_num_threads(1)
    q, k, v, d_o = (torch.tensor(x)[None] for x in arrays)
    attention = torch.nn.functional.scaled_dot_product_attention

    def forward():
        with torch.no_grad():
            return (attention(q, k, v, is_causal=True).numpy()[0],)

    for x in (q, k, v) if backward else ():
        x.requires_grad_()

    def both():
        q.grad = k.grad = v.grad = None
        o = attention(q, k, v, is_causal=True)
        o.backward(d_o)
        return tuple(x.detach().numpy()[0] for x in (o, q.grad, k.grad, v.grad))

    return (both if backward else forward), {}


def jax_peers(arrays, backward):
    import jax
    import jax.numpy as jnp

    from minilm.layers.attention.blockwise import Blockwise
    from minilm.layers.attention.core import Dense
    from minilm.layers.attention.masks import Causal
    from minilm.shapes import Tokens

    q, k, v, d_o = map(jnp.array, arrays)
    q, d_o, where = q[:, None], d_o[:, None], Tokens.arange(q.shape[1])

    def jax_nn(q, k, v):
        q, k, v = (jnp.moveaxis(x, 0, 1) for x in (q[:, 0], k, v))
        return jnp.moveaxis(jax.nn.dot_product_attention(q, k, v, is_causal=True), 1, 0)[:, None]

    def of(attend):
        return lambda q, k, v: attend(q, k, v, where, where)

    def peer(attention):
        def both(q, k, v, d_o):
            o, pullback = jax.vjp(attention, q, k, v)
            return o, *pullback(d_o)

        function = both if backward else lambda q, k, v: (attention(q, k, v),)
        inputs = (q, k, v, d_o) if backward else (q, k, v)
        compiled = jax.jit(function).lower(*inputs).compile()
        overwriting = jax.jit(function, donate_argnums=(0, 1, 2, 3) if backward else (0,)).lower(*inputs).compile()
        memory = {"megabytes": megabytes(compiled), "megabytes, arguments overwritten": megabytes(overwriting)}
        memory["megabytes, temporaries"] = round(compiled.memory_analysis().temp_size_in_bytes / 1e6, 2)
        return lambda: jax.block_until_ready(compiled(*inputs)), memory

    return {
        "minilm Blockwise": peer(of(Blockwise(Causal()))),
        "minilm Dense": peer(of(Dense(Causal()))),
        "jax.nn.dot_product_attention": peer(jax_nn),
    }


def megabytes(compiled):
    memory = compiled.memory_analysis()
    used = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    return round((used - memory.alias_size_in_bytes) / 1e6, 2)


if __name__ == "__main__":
    main()
