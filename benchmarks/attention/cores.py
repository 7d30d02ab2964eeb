"""The cores by name: attention between heads that are given, each beside the shortest definition of the same.

A core is a function of heads and their width to a `Candidate`, under `@core`; its docstring is what the table says of
it, and what else it takes are the options behind the colon: `blockwise:window=256`.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.attention import cost
from benchmarks.attention.candidates import CHECKED, Candidate, Spec, token_by_token
from minilm import backends
from minilm.backends import calls
from minilm.flags import UsageError, nearest
from minilm.layers.attention.blockwise import Blockwise
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Causal, Prefix, Rule, SameDocument, SlidingWindow
from minilm.layers.attention.pallas import Pallas
from minilm.layers.linear_attention.decay import decay_chunked, decay_step
from minilm.layers.linear_attention.delta import delta_chunked, delta_step
from minilm.layers.linear_attention.feature_maps import elu_plus_one
from minilm.layers.linear_attention.gated import gated_chunked, gated_step
from minilm.layers.linear_attention.linear import linear_attention
from minilm.shapes import Tokens

CORES: dict[str, Callable[..., Candidate]] = {}


def core(build):
    """A row of the table, `_` read as `-`."""
    CORES[build.__name__.replace("_", "-")] = build
    return build


def about(build) -> str:
    """What the table says of a core."""
    return (inspect.getdoc(build) or "").split("\n\n")[0].replace("\n", " ")


def options_of(build) -> dict[str, int]:
    """What a core can be told, with the defaults."""
    return {p.name: p.default for p in [*inspect.signature(build).parameters.values()][2:]}


def make(text: str, heads: int, width: int) -> Candidate:
    """The core of a name with its options, for heads of a width; or a `UsageError`."""
    name, _, rest = text.partition(":")
    if name not in CORES:
        raise UsageError(f"There is no core {name!r}{nearest(name, CORES)}; there are {', '.join(CORES)}.")
    known, options = options_of(CORES[name]), {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key in known and not value.isdecimal():
            raise UsageError(f"The option {key} of the core {name} is {value!r}, and must be a whole number.")
        if key not in known:
            given = f"give name=number, of {', '.join(known)}" if known else "it takes none"
            raise UsageError(f"The core {name} has no option {part!r}: {given}.")
        if key in options:
            raise UsageError(f"{text} gives the option {key} twice: give it once.")
        options[key] = int(value)
        least = min(known[key], 1)
        if not least <= options[key] < 2**31:
            raise UsageError(
                f"The option {key} of the core {name} is {value}, and must be at least {least}, below 2^31."
            )
    made = CORES[name](heads, width, **options)
    return made if text == name else Candidate(**{**vars(made), "name": text})


# ── softmax ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Pattern(NamedTuple):
    """Who sees whom: the past, or a `window` of it; all see a `prefix`; none sees beyond its `document`; 0: no such."""

    window: int = 0
    prefix: int = 0
    document: int = 0

    @property
    def rule(self) -> Rule:
        """As `masks` spells it."""
        rule = Causal() & SlidingWindow(self.window) if self.window else Causal()
        rule = rule | Prefix(self.prefix) if self.prefix else rule
        return rule & SameDocument() if self.document else rule

    def tokens(self, length: int) -> Tokens:
        """Where they stand: one behind the other through all documents, so that only the first has a prefix."""
        position = jnp.arange(length, dtype=jnp.int32)
        return Tokens(position, position // self.document if self.document else jnp.zeros_like(position))


def softmax(name, backend, heads, width, pattern, attend=None, kernel_tiles=0, checked=CHECKED) -> Candidate:
    """Attention under a pattern, by a backend or its `attend` with options; its definition is `Dense` of the rule."""
    rule, chosen = pattern.rule, backends.BACKENDS[backend]

    def supports(spec: Spec):
        if backend == "pallas" and spec.platform == "cpu":
            return "Kernels are interpreted on a CPU, and a time of that would say nothing."
        sizes = {"g": heads, "r": 1, "t": spec.length, "s": spec.length, "k": width, "v": width}
        asked = backends.Spec(
            rule, None, **sizes, dtype=spec.dtype, in_order=not pattern.document, platform=spec.platform
        )
        return chosen.supports(asked)

    return Candidate(
        name=name,
        kind="core",
        about=about(CORES[name]),
        backend="minilm" if chosen.attend in (Dense, Blockwise) else backend,
        inputs=lambda drawn, length: heads_first(drawn(length, heads, width) for _ in range(3)),
        function=attending(attend or chosen.attend(rule, None), pattern),
        definition=attending(Dense(rule), pattern),
        useful=lambda length: 2 * heads * 2 * width * cost.pairs(rule, pattern.tokens(length)),
        turns=lambda length: cost.mean_tiles(rule, pattern.tokens(length), kernel_tiles) if kernel_tiles else None,
        supports=supports,
        checked=checked,
        checked_backward=checked,
        at=lambda rows: of_some_queries(Dense(rule), pattern, rows),
    )


def heads_first(drawn):
    """Queries `(g, 1, t, k)`, keys and values: an axis that is added within the program would cost it a copy."""
    q, k, v = (np.moveaxis(x, 0, 1) for x in drawn)
    return q[:, None], k, v


def attending(attend, pattern):
    """An `attend` of minilm as a function of its heads alone."""

    def function(q, k, v):
        here = pattern.tokens(k.shape[1])
        return attend(q, k, v, here, here)

    return function


def of_some_queries(attend, pattern, rows):
    """The same of some queries alone, which see what they would see among all."""

    def function(q, k, v):
        here = pattern.tokens(k.shape[1])
        return attend(q[:, :, rows], k, v, jax.tree.map(lambda x: x[rows], here), here)

    return function


@core
def dense(heads, width, window=0, prefix=0, document=0):
    """Softmax attention that holds every score, masked or not."""
    return softmax("dense", "dense", heads, width, Pattern(window, prefix, document))


@core
def blockwise(heads, width, window=0, prefix=0, document=0, block=128):
    """The same in tiles, of which those outside of the mask are never visited (flash attention in plain JAX)."""
    pattern = Pattern(window, prefix, document)
    attend = Blockwise(pattern.rule, None, block, block)
    return softmax("blockwise", "blockwise", heads, width, pattern, attend)


@core
def pallas(heads, width, window=0, prefix=0, document=0, block=64):
    """The same tiles in minilm's own kernels, on GPUs and TPUs."""
    pattern = Pattern(window, prefix, document)
    attend = Pallas(pattern.rule, None, block, block)
    return softmax("pallas", "pallas", heads, width, pattern, attend, kernel_tiles=block)


# JAX's kernels take tiles of 128 alone, of which three are checked.
THREE_TILES = 384


@core
def jax_nn(heads, width, window=0, prefix=0, document=0):
    """`jax.nn.dot_product_attention` as XLA compiles it."""
    pattern = Pattern(window, prefix, document)
    by_index = partial(calls.by_index, pattern.rule, None, implementation="xla")  # without what a rule's mask costs
    return softmax("jax-nn", "jax-xla", heads, width, pattern, None if prefix or document else by_index)


@core
def jax_cudnn(heads, width, window=0):
    """`jax.nn.dot_product_attention` by cuDNN, on NVIDIA's GPUs."""
    return softmax("jax-cudnn", "jax-cudnn", heads, width, Pattern(window))


@core
def jax_triton(heads, width):
    """JAX's own Pallas kernel for GPUs, through Triton."""
    return softmax("jax-triton", "jax-triton", heads, width, Pattern(), checked=THREE_TILES)


@core
def jax_flash(heads, width):
    """JAX's own Pallas kernel for TPUs."""
    return softmax("jax-flash", "tpu-flash", heads, width, Pattern(), checked=THREE_TILES)


@core
def jax_splash(heads, width, window=0):
    """JAX's own Pallas kernel for TPUs that knows windows."""
    return softmax("jax-splash", "tpu-splash", heads, width, Pattern(window), checked=THREE_TILES)


# ── states ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def state(name, inputs, function, definition, heads, useful, at=None) -> Candidate:
    """A recurrence from an empty state; `inputs` makes its arguments of what `heads_first` draws."""
    return Candidate(
        name=name,
        kind="core",
        about=about(CORES[name]),
        backend="minilm",
        inputs=lambda drawn, length: inputs(lambda *last: np.moveaxis(drawn(length, heads, *last), 0, 1)),
        function=function,
        definition=definition,
        useful=lambda length: heads * length * useful,
        at=at,
    )


def stepped(step):
    """A step, from the empty state over all tokens."""

    def function(q, k, v, *gates):
        empty = jnp.zeros((q.shape[0], k.shape[2], v.shape[2]), jnp.promote_types(q.dtype, jnp.float32))
        tokens = [jnp.moveaxis(x, 1, 0) for x in (q, k, v, *gates)]
        return jnp.moveaxis(token_by_token(lambda state, token: step(state, *token), empty, tokens), 0, 1)

    return function


def from_nothing(chunked, chunk):
    """A chunked form from the empty state, its state left aside."""

    def function(q, k, v, *gates):
        empty = jnp.zeros((q.shape[0], k.shape[2], v.shape[2]), jnp.promote_types(q.dtype, jnp.float32))
        return chunked(empty, q, k, v, *gates, chunk=chunk)[1]

    return function


@core
def ssd(heads, width, chunk=64):
    """A state that fades by a number a token, in chunks: what Mamba-2 and RetNet compute."""

    def inputs(drawn):
        return drawn(width) / width**0.5, drawn(width), drawn(width), -softplus(drawn()) / 8

    return state("ssd", inputs, from_nothing(decay_chunked, chunk), stepped(decay_step), heads, 4 * width * width)


@core
def linear(heads, width, chunk=64):
    """Linear attention of elu(x) + 1, with its normaliser, in chunks."""

    def inputs(drawn):
        return np.asarray(elu_plus_one(drawn(width))), np.asarray(elu_plus_one(drawn(width))), drawn(width)

    def function(q, k, v):
        empty = jnp.zeros((heads, width, width + 1), jnp.promote_types(q.dtype, jnp.float32))
        return linear_attention(empty, q, k, v, chunk=chunk)[1]

    def at(rows):
        def some(q, k, v):
            wide = jnp.promote_types(q.dtype, jnp.float32)
            weights = jnp.einsum("gtk,gsk->gts", q[:, rows], k, preferred_element_type=wide)
            weights = jnp.where(rows[:, None] >= np.arange(k.shape[1]), weights, 0)
            return (weights / weights.sum(-1, keepdims=True) @ v.astype(wide)).astype(v.dtype)

        return some

    def definition(q, k, v):
        return at(np.arange(q.shape[1]))(q, k, v)

    return state("linear", inputs, function, definition, heads, 4 * width * (width + 1), at)


@core
def delta(heads, width, chunk=32):
    """The delta rule with a gate, in chunks: what Gated DeltaNet computes."""

    def inputs(drawn):
        k = drawn(width)
        k, beta = k / np.linalg.norm(k, axis=-1, keepdims=True), 1 / (1 + np.exp(-drawn()))
        return drawn(width) / width**0.5, k, drawn(width), beta, -softplus(drawn()) / 8

    return state("delta", inputs, from_nothing(delta_chunked, chunk), stepped(delta_step), heads, 6 * width * width)


@core
def gated(heads, width, chunk=16):
    """A state of which every key dimension fades by itself, in chunks: what GLA computes."""

    def inputs(drawn):
        return drawn(width) / width**0.5, drawn(width), drawn(width), -softplus(drawn(width)) / 16

    return state("gated", inputs, from_nothing(gated_chunked, chunk), stepped(gated_step), heads, 4 * width * width)


def softplus(x):
    """ln(1 + eˣ), without overflow."""
    return np.logaddexp(x, 0)
