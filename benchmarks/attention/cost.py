"""What a candidate computes, reads and holds, and how near that is to what the machine can do.

* **useful FLOPs**: 2 (k + v) for each head and pair of a query and a key that the mask allows, counted by asking the
  rule; of a recurrence, what writing to its state and reading from it takes. A backward pass counts two forward ones,
  without what is computed again.
* **executed FLOPs**: those of all products of the traced program (`minilm.flops`), masked pairs and recomputation
  included.
* **io**: the bytes of arguments and results, which any implementation must move. Intensity is useful FLOPs (of a mixer
  executed ones) by io; the roof is the smaller of the peak and intensity × bandwidth, both measured here, on a CPU.
* **memory**: temporaries + arguments + results − what of them is shared, as the compiler laid it out.
* **held, read**: bytes of one sequence's decoding state, and what a step must read of it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from minilm import machines
from minilm.flops import executed_flops
from minilm.layers.attention.masks import Rule
from minilm.shapes import Tokens

TILE = 1024  # of the count of pairs: a million booleans at a time


def pairs(rule: Rule, tokens: Tokens, tile: int = TILE) -> int:
    """How many pairs of tokens a rule allows: asked in tiles, those beyond its reach left out.

    >>> from minilm.layers.attention.masks import Causal
    >>> pairs(Causal(), Tokens.arange(5), tile=2)
    15
    """

    def allowed(*tiles):
        return int(np.asarray(rule(*jax.tree.map(jnp.asarray, tiles))).sum())

    return sum(allowed(queries, keys) for queries, needed in _visits(rule, tokens, tile) for keys in needed)


def mean_tiles(rule: Rule, tokens: Tokens, tile: int) -> float:
    """How many tiles of keys a tile of queries visits, on the mean."""
    visits = _visits(rule, tokens, tile)
    return sum(len(needed) for _, needed in visits) / len(visits)


def _visits(rule, tokens, tile):
    """Each tile of queries, with the tiles that hold a key of the interval which it needs; tokens stand in order."""
    position, document = map(np.asarray, tokens)
    tiles = [Tokens(position[i : i + tile], document[i : i + tile]) for i in range(0, len(position), tile)]

    def needed(queries):
        first, last = (Tokens(queries.position[end], queries.document[end]) for end in (0, -1))
        bounds = [(int(low), int(high)) for low, high in zip(*rule.reach(first, last), strict=True)]
        return [
            keys
            for keys in tiles
            if all(low <= x[-1] and x[0] <= high for (low, high), x in zip(bounds, keys, strict=True))
        ]

    return [(queries, needed(queries)) for queries in tiles]


def flops(candidate, function, inputs, length: int, mode: str) -> dict:
    """Useful and executed FLOPs of a function of a candidate; None where they cannot be told."""
    useful = candidate.useful(length)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), inputs)
    try:
        executed = executed_flops(function, *shapes, turns=candidate.turns(length))
    except ValueError:
        executed = None
    return {"useful": useful and useful * (3 if mode == "fwdbwd" else 1), "executed": executed}


def memory(program) -> dict:
    """The bytes of a compiled program."""
    found = program.memory_analysis()
    parts = {
        "temporaries": found.temp_size_in_bytes,
        "arguments": found.argument_size_in_bytes,
        "results": found.output_size_in_bytes,
        "shared": found.alias_size_in_bytes,
    }
    total = parts["temporaries"] + parts["arguments"] + parts["results"] - parts["shared"]
    return parts | {"total": total}


def peak(clock) -> dict:
    """What this machine does at its best, by a clock: FLOP/s of a large product, bytes/s of reading a large array."""
    machine = machines.measure(clock=clock)
    return {"flops": machine.flops, "bandwidth": machine.bandwidth}


def roofline(work: int | None, moved: int, seconds: float, peak: dict | None) -> dict | None:
    """Where a measurement stands below the roof: None where its work or the peak is unknown."""
    if not work or not peak:
        return None
    intensity = work / moved
    roof = min(peak["flops"], intensity * peak["bandwidth"])
    return {
        "peak": peak["flops"],
        "bandwidth": peak["bandwidth"],
        "intensity": intensity,
        "bound": "compute" if roof == peak["flops"] else "memory",
        "achieved": work / seconds,
        "share": work / seconds / roof,
    }


def held(state) -> int:
    """The bytes of a decoding state."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
