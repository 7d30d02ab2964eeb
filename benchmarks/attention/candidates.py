"""What is measured: a core, the attention between heads that are given, or a mixer, with its projections around it."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from minilm import variants
from minilm.precision import cast_weights
from minilm.shapes import Mixer, Tokens

CHECKED = 320  # tokens of a check, unless a candidate says fewer: two tiles of 128 and a half, more than most windows
BACKWARD, LONGEST_BACKWARD = 96, 512  # of a variant, whose definition goes token by token
LAWS = ("normal", "outliers")


class Spec(NamedTuple):
    """What a candidate is asked whether it supports."""

    dtype: str
    mode: str
    platform: str = "cpu"
    length: int = 1024


def everywhere(spec: Spec) -> str | None:
    """`supports` of what has no limits."""
    return None


@dataclass(frozen=True)
class Candidate:
    """Functions of the same arguments, `inputs(draw, length)`, whose first results are the outputs `(..., t, ·)`.

    `function` is what is timed. `definition` computes the same by another way, as short as possible; given arguments
    in float64 it is the truth. Where a long sequence would be too much for it, `at` gives it of some tokens alone.
    """

    name: str
    kind: Literal["core", "mixer"]
    about: str
    backend: str
    inputs: Callable[..., tuple]  # (draw, length) -> arguments, in float64; the first n tokens do not depend on length
    function: Callable[..., Any]
    definition: Callable[..., Any]
    useful: Callable[[int], int | None]  # length -> FLOPs forward, of pairs that are not masked
    supports: Callable[[Spec], str | None] = everywhere
    turns: Callable[[int], float | None] = lambda length: None  # -> how often a kernel's loop turns, on the mean
    checked: int = CHECKED  # tokens
    checked_backward: int = CHECKED
    longest_backward: int = 2**20  # beyond which only results are compared, for gradients would take minutes
    cast: Callable[..., Any] = lambda inputs, dtype: jax.tree.map(lambda a: jnp.asarray(a, dtype), inputs)
    mixer: Mixer | None = None
    slots: Callable[[int], int] = lambda context: context  # of a decoding state
    convolution: int = 0  # how wide the short convolution before the mixer is
    at: Callable[[Any], Callable] | None = None  # rows -> the definition's results of these tokens, from all arguments

    def definition_at(self, rows):
        """The definition's results of these tokens: by `at`, or picked from all."""
        return self.at(rows) if self.at else lambda *inputs: self.definition(*inputs)[..., rows, :]


def draw(law: str, seed: int):
    """Arrays `(t, ...)` under a law: N(0, 1), or with one in a thousand from N(0, 100) added.

    The outliers are those by which FlashAttention-3 is judged (arXiv:2407.08608, section 4.3). Every array has its own
    stream, read row by row, so that a longer sequence begins as the shorter one.
    """
    streams = iter(np.random.SeedSequence([seed, LAWS.index(law)]).spawn(64))

    def drawn(*shape):
        rng, rare, far = (np.random.default_rng(s) for s in next(streams).spawn(3))
        x = rng.standard_normal(shape)
        return x if law == "normal" else x + 10 * far.standard_normal(shape) * (rare.random(shape) < 1e-3)

    return drawn


def prefilling(candidate: Candidate) -> Candidate:
    """A mixer that reads all tokens into its empty state, which comes back with the outputs, as before generation.

    There is room for one token more, which comes next.
    """

    def refused(spec):
        return "A core has no state that could be filled: prefill is of variants."

    def function(params, x):
        state = candidate.mixer.init_state(params, len(x) + 1)
        return candidate.mixer.step(params, state, x, Tokens.arange(len(x)))[::-1]

    return replace(candidate, **{"function": function} if candidate.mixer else {"supports": refused})


def token_by_token(one, state, tokens):
    """The outputs of `jax.lax.scan`, whose backward pass would hold every state; here it holds those of √t, twice."""
    length = len(jax.tree.leaves(tokens)[0])
    size = math.isqrt(length)
    whole = length - length % size
    pieces = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), tokens)
    state, outputs = jax.lax.scan(jax.checkpoint(lambda state, piece: jax.lax.scan(one, state, piece)), state, pieces)
    rest = jax.lax.scan(one, state, jax.tree.map(lambda x: x[whole:], tokens))[1]
    return jnp.concatenate([outputs.reshape(whole, *outputs.shape[2:]), rest])


# A window needs no more slots than it is wide, however long the context: row -> the option, or their product.
WINDOWS = {"window": ("width",), "dilated": ("width", "rate"), "chunked": ("size",)}


def mixer(text: str, d: int, heads: int, seed: int = 0) -> Candidate:
    """A row of `minilm.variants`, or one elsewhere, as a model's block takes it.

    Its definition is its own `step`, token by token, which shares with `apply` its weights and little else.
    """
    made, (row, options) = variants.make(text, d, heads), variants.table.read(text)
    name, options = text.partition(":")[0], row.options | options
    window = np.prod([options[option] for option in WINDOWS.get(name, ())], dtype=int) if name in WINDOWS else None

    def slots(context):
        return context if window is None else min(context, int(window))

    @functools.cache
    def params():
        return jax.tree.map(np.asarray, jax.jit(lambda key: made.init(key, d))(jax.random.key(seed)))

    def apply(params, x):
        return made.apply(params, x, Tokens.arange(len(x)))

    def stepped(params, x):
        def one(state, here):
            x, position = here
            state, y = made.step(params, state, x[None], Tokens(position[None], jnp.zeros(1, jnp.int32)))
            return state, y[0]

        state = made.init_state(params, slots(len(x)))
        return token_by_token(one, state, (x, jnp.arange(len(x), dtype=jnp.int32)))

    def cast(inputs, dtype):
        params, x = inputs
        if jnp.dtype(dtype) != jnp.float64:  # norms and biases stay in float32, as in training
            params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
            return cast_weights(params, dtype), jnp.asarray(x, dtype)
        return jax.tree.map(lambda a: jnp.asarray(a, dtype), inputs)

    return Candidate(
        name=text,
        kind="mixer",
        about=row.about,
        backend="minilm",
        inputs=lambda drawn, length: (params(), drawn(length, d)),
        function=apply,
        definition=stepped,
        useful=lambda length: None,  # a mixer does not show its rule
        checked_backward=BACKWARD,
        longest_backward=LONGEST_BACKWARD,
        cast=cast,
        mixer=made,
        slots=slots,
        convolution=options.get("convolution", 0),
    )
