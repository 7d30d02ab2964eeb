"""Ring and Ulysses attention on the eight devices that `tests/test_ring.py` starts this with; prints what it found.

Every rule that is tested is one structure with other numbers in it, so each kind of attention is compiled once.
"""

import json
import sys
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import Partial

from minilm.layers.attention.biases import Alibi
from minilm.layers.attention.blockwise import Blockwise, blockwise_attention
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Causal, Padding, Prefix, SameDocument, SlidingWindow
from minilm.layers.attention.multi_head import softmax_mixer
from minilm.layers.attention.ring import OwnHeads, Ring, Ulysses, ring_attention, zigzag
from minilm.parallel import make_mesh, over_sequence, placement
from minilm.pytrees import register
from minilm.shapes import Tokens

G, R, T, S, K, V = 8, 2, 32, 48, 3, 5
DEVICES, BLOCKS = 8, {"t_block": 3, "s_block": 4}
FAR = 1000  # a window, a length or a prefix of this many tokens takes in all

CASES = {
    "causal": {},
    "everything": {"prefix": FAR},
    "sliding window": {"width": 7},
    "packed documents": {"documents": 3},
    "padding": {"length": 21},
    "nothing is seen": {"length": 0},
    "documents in a window, with empty slots": {"documents": 2, "width": 5, "prefix": 3, "empty": 0.3},
}


def rule_of(prefix, width, length):
    return (Causal() | Prefix(prefix)) & SlidingWindow(width) & SameDocument() & Padding(length)


def tokens_of(length, start, order, rng, documents, empty):
    """Tokens that count on through the whole sequence, in the order in which the devices hold them."""
    position = np.where(rng.random(length) < empty, -1, start + np.arange(length))
    document = np.arange(length) * documents // length
    by = {"plain": np.arange(length), "zigzag": zigzag(length, DEVICES), "shuffled": rng.permutation(length)}[order]
    return Tokens(jnp.asarray(position[by], jnp.int32), jnp.asarray(document[by], jnp.int32))


@register
@dataclass(frozen=True)
class WithLse:
    """An attention `(q, k, v, query, key, rule, bias)` whose lse stands beside its output, as one more value."""

    rule: Any
    bias: Any
    attention: Partial

    def __call__(self, q, k, v, query, key):
        o, lse = self.attention(q, k, v, query, key, self.rule, self.bias)
        return jnp.concatenate([o, jnp.where(jnp.isneginf(lse), 0, lse)[..., None].astype(o.dtype)], -1)


def attentions(mesh):
    """Of a rule and a bias: one device's attention, and the two on many."""
    tiled, ring = partial(blockwise_attention, **BLOCKS), partial(ring_attention, axis="sequence", **BLOCKS)
    return {
        "one": lambda rule, bias: WithLse(rule, bias, Partial(tiled)),
        "ring": lambda rule, bias: over_sequence(WithLse(rule, bias, Partial(ring)), mesh),
        "ulysses": lambda rule, bias: over_sequence(Ulysses(WithLse(rule, OwnHeads(bias), Partial(tiled))), mesh),
    }


@cache
def functions():
    """Value and gradients of each, compiled once for a precision."""
    return {name: compiled(attention) for name, attention in attentions(make_mesh("sequence=8")).items()}


def compiled(attention):
    @jax.jit
    def value_and_gradients(q, k, v, d_o, slopes, rule, query, key):
        o, pullback = jax.vjp(
            lambda q, k, v, slopes: attention(rule, Alibi(slopes))(q, k, v, query, key), q, k, v, slopes
        )
        return {"o": o[..., :V], "lse": o[..., V]} | dict(zip(("q", "k", "v", "slopes"), pullback(d_o), strict=True))

    return value_and_gradients


def distance(actual, expected, dtype):
    """The largest error, in units of roundoff of the largest number expected; infinite where anything isn't finite."""
    pairs = [
        (np.asarray(a, np.float64), np.asarray(e, np.float64))
        for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    ]
    error, scale = max(np.abs(a - e).max() for a, e in pairs), max(np.abs(e).max() for _, e in pairs)
    finite = all(np.isfinite(a).all() for a, _ in pairs)
    return float(error / (scale or 1.0) / float(jnp.finfo(dtype).eps)) if finite else float("inf")


def compare(functions, dtype, order, seed=0, documents=1, empty=0.0, prefix=0, width=FAR, length=FAR):
    """How far ring and Ulysses are from one device, in output and gradients."""
    rng = np.random.default_rng(seed)
    shapes = (G, R, T, K), (G, S, K), (G, S, V), (G, R, T, V + 1)
    q, k, v, d_o = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)
    slopes = jnp.asarray(rng.random((G, R)) / 8, dtype)
    where = tokens_of(T, S - T, order, rng, documents, empty), tokens_of(S, 0, order, rng, documents, empty)
    rule = rule_of(*(jnp.asarray(n, jnp.int32) for n in (prefix, width, length)))
    arguments = (q, k, v, d_o, slopes, rule, *where)
    one, *many = (functions[name](*arguments) for name in ("one", "ring", "ulysses"))
    unseen = ~np.asarray(rule(*where) & (where[1].position >= 0)).any(1)
    return {
        "attention": max(
            distance(found[name], one[name], dtype) for found in many for name in ("o", "lse", "q", "k", "v")
        ),
        "bias": max(distance(found["slopes"], one["slopes"], dtype) for found in many),
        "zeros": all(not np.asarray(found["o"])[:, :, unseen].any() for found in many),
        "unseen": int(unseen.sum()),
        "queries": T,
    }


def cases(dtype):
    """Every case in every order."""
    for order in ("plain", "zigzag", "shuffled"):
        for name, case in CASES.items():
            yield {"case": name, "order": order} | compare(functions(), dtype, order, **case)


def drawn(dtype):
    """Rules, documents, empty slots and orders as Hypothesis draws them."""
    found = []

    @settings(max_examples=25, deadline=None, database=None, derandomize=True)
    @given(
        order=st.sampled_from(["plain", "zigzag", "shuffled"]),
        seed=st.integers(0, 2**31 - 1),
        documents=st.integers(1, 4),
        empty=st.sampled_from([0.0, 0.3, 0.9]),
        prefix=st.integers(0, S),
        width=st.integers(1, S),
        length=st.integers(0, S),
    )
    def draw(**drawn):
        found.append(drawn | compare(functions(), dtype, **drawn))

    draw()
    return found


def mixers():
    """A whole mixer, its batch over two devices and each sequence over four, in plain order and in zigzag.

    The gradient of the keys' bias is zero but for rounding, so those of all parameters are compared together.
    """
    mesh, d, t = make_mesh("data=2,sequence=4"), 6, 16
    rng, sizes = np.random.default_rng(1), {"g": 4, "r": 2, "k": 3, "v": 5}
    rule = Causal() & SlidingWindow(7)
    one = softmax_mixer(Blockwise(rule), **sizes)
    params = one.init(jax.random.key(0), d)
    x, d_y = (jnp.asarray(rng.standard_normal((2, t, d)), jnp.float32) for _ in range(2))

    def value_and_gradients(mixer):
        @jax.jit
        def run(params, x, d_y, tokens):
            y, pullback = jax.vjp(lambda params, x: mixer.apply(params, x, tokens), params, x)
            return y, *pullback(d_y)

        return run

    expected = value_and_gradients(one)(params, x, d_y, Tokens.arange(t))
    places = NamedSharding(mesh, PartitionSpec("data", "sequence"))
    for name, attend in (("ring", Ring(rule)), ("ulysses", Ulysses(Blockwise(rule)))):
        run = value_and_gradients(softmax_mixer(over_sequence(attend, mesh), **sizes))
        for order in (np.arange(t), zigzag(t, 4)):
            tokens = jax.tree.map(lambda a, order=order: a[order], Tokens.arange(t))
            placed = (jax.device_put(a[:, order], places) for a in (x, d_y))
            y, d_params, d_x = run(params, *placed, tokens)
            back = np.argsort(order)
            found = zip((y[:, back], d_params, d_x[:, back]), expected, strict=True)
            apart = max(distance(a, e, jnp.float32) for a, e in found)
            yield {"mixer": name, "distance": apart, "piece": y.sharding.shard_shape(y.shape)}


def memory():
    """What one device needs of memory, in bytes, for attention and its gradients: alone, and as one of eight."""
    g, t, width = 8, 4096, 64
    q, k = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((g, 1, t, width), (g, t, width)))
    where, mesh = Tokens.arange(t), make_mesh("sequence=8")
    for name, attend in (
        ("one", Blockwise(Causal())),
        ("ring", over_sequence(Ring(Causal()), mesh)),
        ("ulysses", over_sequence(Ulysses(Blockwise(Causal())), mesh)),
    ):

        def gradients(q, k, v, d_o, attend=attend):
            o, pullback = jax.vjp(lambda q, k, v: attend(q, k, v, where, where), q, k, v)
            return o, pullback(d_o)

        found = jax.jit(gradients).lower(q, k, k, q).compile().memory_analysis()
        bytes_ = found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes
        yield {"attention": name, "bytes": bytes_ - found.alias_size_in_bytes, "temp": found.temp_size_in_bytes}


def refusals():
    """What is said of lengths and of heads that don't divide."""
    mesh, rule = make_mesh("sequence=8"), Causal()
    ring = over_sequence(Ring(rule), mesh)
    attempts = (
        lambda: attended(ring, 8, 12, 16),
        lambda: attended(ring, 8, 16, 20),
        lambda: placement("sequence=8")[1](jnp.ones((1, 1, 3, 12))),
        lambda: attended(over_sequence(Ulysses(Blockwise(rule)), mesh), 6, 16, 24),
        lambda: attended(over_sequence(Ulysses(Dense(rule, Alibi.of(8))), mesh), 8, 16, 24),
    )
    for attempt in attempts:
        try:
            attempt()
        except ValueError as error:
            yield str(error)


def attended(attend, g, t, s):
    return attend(jnp.ones((g, 1, t, 2)), jnp.ones((g, s, 2)), jnp.ones((g, s, 3)), Tokens.arange(t), Tokens.arange(s))


PARTS = {
    "float32": partial(cases, jnp.float32),
    "float64": partial(cases, jnp.float64),
    "drawn": partial(drawn, jnp.float64),
    "mixers": mixers,
    "memory": memory,
    "refusals": refusals,
}

if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(json.dumps({name: list(PARTS[name]()) for name in sys.argv[1:]}))
