"""How fast is a recurrent layer, forward and backward, beside PyTorch's own?

    python -m benchmarks.recurrent [--rounds 15]

32 sequences of 128 steps, width 100 -> 128, in float32: GRU, LSTM and Elman. The value is a weighted sum of all
outputs; with backward, its gradient with respect to the input and every parameter. All run twice, with the C library's
allocator as it comes and tuned for all alike.

To see where the time goes, each row has two more times: minilm's loop with its matrix products and no gates, and
PyTorch without oneDNN, which has a fused kernel for the LSTM and none for the others.
"""

import argparse
import json

from benchmarks import measure

BATCH, T, I, H = 32, 128, 100, 128


def candidates() -> dict:
    """(layer, passes, library) -> a function without arguments."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch

    from minilm.layers.recurrent import elman, gru, lstm
    from minilm.layers.recurrent.unroll import unroll

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    xs, weights = (rng.standard_normal((BATCH, T, width)).astype(np.float32) for width in (I, H))
    zeros = jnp.zeros((BATCH, H))
    layers = {
        "GRU": (gru.init_gru, gru.gru_cell, zeros, torch.nn.GRU),
        "LSTM": (lstm.init_lstm, lstm.lstm_cell, lstm.LSTMState(zeros, zeros), torch.nn.LSTM),
        "Elman": (elman.init_elman, elman.elman_cell, zeros, torch.nn.RNN),
    }

    def ours(init, cell, state):
        params = init(jax.random.key(0), I, H)

        def value(params, xs):
            return jnp.sum(unroll(cell, params, state, xs)[1] * weights)

        forward, gradient = jax.jit(value), jax.jit(jax.value_and_grad(value, argnums=(0, 1)))
        return lambda: jax.block_until_ready(forward(params, xs)), lambda: jax.block_until_ready(gradient(params, xs))

    def theirs(kind):
        network, x, w = kind(I, H, batch_first=True), torch.tensor(xs, requires_grad=True), torch.tensor(weights)

        def forward():
            with torch.no_grad():
                return (network(x)[0] * w).sum()

        def gradient():
            network.zero_grad()
            x.grad = None
            (network(x)[0] * w).sum().backward()

        return forward, gradient

    def products(params, state, x):
        a = x @ params.w_x + state @ params.w_h
        h = sum(jnp.split(a, a.size // H)) / (a.size // H)
        return h, h

    def without_onednn(function):
        def plain():
            with torch.backends.mkldnn.flags(enabled=False):
                return function()

        return plain

    found = {}
    for name, (init, cell, state, kind) in layers.items():
        libraries = {
            "minilm": ours(init, cell, state),
            "products": ours(init, products, zeros),
            "torch": theirs(kind),
            "torch without oneDNN": [without_onednn(function) for function in theirs(kind)],
        }
        for library, functions in libraries.items():
            for passes, function in zip(("forward", "forward and backward"), functions, strict=True):
                found[name, passes, library] = function
    return found


def measured(rounds: int) -> list[dict]:
    """For each layer and pass: milliseconds of CPU time of all, and how many times as fast as PyTorch minilm is."""
    functions = candidates()
    times = measure.compare(functions, rounds=rounds, seconds=200)
    took = {name: round(measure.median(own) * 1e3, 2) for name, own in times.items()}
    return [
        {
            "layer": layer,
            "passes": passes,
            "minilm_ms": took[layer, passes, "minilm"],
            "products_ms": took[layer, passes, "products"],
            "torch_ms": took[layer, passes, "torch"],
            "torch_without_onednn_ms": took[layer, passes, "torch without oneDNN"],
            "speed": round(measure.speed(times, (layer, passes, "minilm"), (layer, passes, "torch")), 2),
        }
        for layer, passes, library in functions
        if library == "minilm"
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--allocator", choices=measure.ALLOCATORS, help="measure with this one alone and print JSON")
    arguments = parser.parse_args()
    if arguments.allocator:
        print(json.dumps(measured(arguments.rounds) if measure.pin_and_tune(arguments.allocator) else []))
        return
    found = measure.by_allocator("benchmarks.recurrent", "--rounds", str(arguments.rounds))
    rows = [{"allocator": allocator, **row} for allocator, own in found.items() for row in own]
    for row in rows:
        print(
            "{allocator:7} {layer:6} {passes:21} minilm {minilm_ms:7} ms ({products_ms:7} in products), "
            "PyTorch {torch_ms:7} ms ({torch_without_onednn_ms:7} without oneDNN): {speed} x".format(**row)
        )
    measure.write("recurrent", rows, f"python -m benchmarks.recurrent --rounds {arguments.rounds}")


if __name__ == "__main__":
    main()
