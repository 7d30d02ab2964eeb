"""Who may see whom: rules of positions and documents, composed by `&`, `|` and `~`.

A rule is asked with the `Tokens` of queries and keys and answers with booleans `(t, s)`. It never sees an index, so one
rule serves training, decoding from a cache, tiles and kernels. Rules are pytrees: one may hold arrays (a length for
each sequence, say), differ in their values without a new compilation, and be mapped over by `vmap`.

`rule.reach(first, last)` bounds the keys that a tile of queries can need: `first` and `last` are `Tokens`, the tile's
smallest and largest position and document, and so are the two it returns, both ends included. It may name too many
keys, never too few; blockwise attention and kernels skip the rest.
"""

import abc
from dataclasses import dataclass
from typing import Any, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from minilm.pytrees import register
from minilm.shapes import Tokens

Number = Any  # an integer, or an array of them; not narrower, for JAX also builds its pytrees of placeholders
_SMALLEST, _LARGEST = (int(limit) for limit in (np.iinfo(np.int32).min, np.iinfo(np.int32).max))


class Rule(abc.ABC):
    """What all rules share: they compose, and they reach everywhere unless they say otherwise."""

    @abc.abstractmethod
    def __call__(self, query: Tokens, key: Tokens) -> Bool[Array, "t s"]:
        """True where the query may see the key."""

    def reach(self, first: Tokens, last: Tokens) -> tuple[Tokens, Tokens]:
        """The smallest and the largest key that queries between `first` and `last` can need."""
        return Tokens(_SMALLEST, _SMALLEST), Tokens(_LARGEST, _LARGEST)

    def picture(self, query: Tokens, key: Tokens | None = None) -> str:
        """The rule as text: a line for each query, ■ for each key that it sees."""
        allowed = np.asarray(self(query, query if key is None else key))
        return "\n".join("".join("■" if seen else "·" for seen in row) for row in allowed)

    def plot(self, query: Tokens, key: Tokens | None = None, axes=None):
        """The rule as a matplotlib picture, queries downwards and keys to the right; returns its axes."""
        import matplotlib.pyplot as plt

        key = query if key is None else key
        axes = plt.figure().subplots() if axes is None else axes
        axes.imshow(np.asarray(self(query, key)), cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel="key position", ylabel="query position")
        axes.set_xticks(range(len(key.position)), np.asarray(key.position))
        axes.set_yticks(range(len(query.position)), np.asarray(query.position))
        return axes

    def __and__(self, other: "Rule") -> "Rule":
        return And(self, other)

    def __or__(self, other: "Rule") -> "Rule":
        return Or(self, other)

    def __invert__(self) -> "Rule":
        return Not(self)


@dataclass_transform(frozen_default=True)
def _rule(cls):
    return register(dataclass(frozen=True)(cls))


@_rule
class And(Rule):
    """`left & right`: what both allow."""

    left: Rule
    right: Rule

    def __call__(self, query: Tokens, key: Tokens) -> Bool[Array, "t s"]:
        """Allowed by both."""
        return self.left(query, key) & self.right(query, key)

    def reach(self, first: Tokens, last: Tokens) -> tuple[Tokens, Tokens]:
        """What both reach; empty, its first beyond its last, where they reach apart."""
        (a, b), (c, d) = self.left.reach(first, last), self.right.reach(first, last)
        return jax.tree.map(jnp.maximum, a, c), jax.tree.map(jnp.minimum, b, d)


@_rule
class Or(Rule):
    """`left | right`: what either allows."""

    left: Rule
    right: Rule

    def __call__(self, query: Tokens, key: Tokens) -> Bool[Array, "t s"]:
        """Allowed by either."""
        return self.left(query, key) | self.right(query, key)

    def reach(self, first: Tokens, last: Tokens) -> tuple[Tokens, Tokens]:
        """From the first that either reaches to the last."""
        (a, b), (c, d) = self.left.reach(first, last), self.right.reach(first, last)
        return jax.tree.map(jnp.minimum, a, c), jax.tree.map(jnp.maximum, b, d)


@_rule
class Not(Rule):
    """`~rule`: what it forbids, which may lie anywhere: around its interval, and inside."""

    rule: Rule

    def __call__(self, query: Tokens, key: Tokens) -> Bool[Array, "t s"]:
        """Not allowed by the rule."""
        return ~self.rule(query, key)


@_rule
class Everything(Rule):
    """Every query sees every key: an encoder's attention, and the unit of `&`."""

    def __call__(self, query: Tokens, key: Tokens) -> Bool[Array, "t s"]:
        """True everywhere."""
        return jnp.ones((query.position.shape[0], key.position.shape[0]), bool)


@_rule
class Causal(Rule):
    r"""No query sees the future: $p_s \le p_t$.

    By positions, not indices: a query that stands at 7 with its cache behind it sees 0 to 7. (An index mask "aligned
    to the top left", as `is_causal` of PyTorch and JAX, would let it see only the first.)

    >>> print(Causal().picture(Tokens.arange(3)))
    ■··
    ■■·
    ■■■
    """

    def __call__(self, query: Tokens, key: Tokens) -> Bool[Array, "t s"]:
        """p_s ≤ p_t."""
        return _distance(query, key) >= 0

    def reach(self, first: Tokens, last: Tokens) -> tuple[Tokens, Tokens]:
        """Up to the last query's own position."""
        return Tokens(_SMALLEST, _SMALLEST), Tokens(last.position, _LARGEST)


@_rule
class SlidingWindow(Rule):
    r"""Only keys nearer than `width` to either side, the token itself counted: $|p_t - p_s| < w$.

    `Causal() & SlidingWindow(w)` sees exactly w tokens: itself and the w − 1 before it. Others count otherwise:

    | this library                              | there                                                         |
    |-------------------------------------------|---------------------------------------------------------------|
    | `Causal() & SlidingWindow(w)`             | Hugging Face, Mistral, Gemma: `sliding_window=w`              |
    |                                           | FlashAttention: `window_size=(w - 1, 0)`, `causal=True`       |
    |                                           | `jax.nn`: `local_window_size=(w - 1, 0)`, `is_causal=True`    |
    | `SlidingWindow(w)`                        | FlashAttention, `jax.nn`: `(w - 1, w - 1)`                    |
    |                                           | Longformer: `attention_window=2 * (w - 1)`                    |

    Paper: arXiv:2004.05150, section 3.1.

    >>> print((Causal() & SlidingWindow(2)).picture(Tokens.arange(4)))
    ■···
    ■■··
    ·■■·
    ··■■
    """

    width: Number

    def __call__(self, query: Tokens, key: Tokens) -> Bool[Array, "t s"]:
        """|p_t − p_s| < width."""
        return jnp.abs(_distance(query, key)) < self.width

    def reach(self, first: Tokens, last: Tokens) -> tuple[Tokens, Tokens]:
        """A window's width around the tile, as far as there are integers: a width may stand for no bound at all."""
        before = self.width - 1
        return Tokens(first.position - before, _SMALLEST), Tokens(_later(last.position, before), _LARGEST)


@_rule
class Prefix(Rule):
    """The first `length` positions are seen by all: `Causal() | Prefix(n)` is the prefix language model of T5's paper.

    >>> print((Causal() | Prefix(2)).picture(Tokens.arange(4)))
    ■■··
    ■■··
    ■■■·
    ■■■■
    """

    length: Number

    def __call__(self, query: Tokens, key: Tokens) -> Bool[Array, "t s"]:
        """p_s < length."""
        return jnp.broadcast_to(key.position < self.length, (query.position.shape[0], key.position.shape[0]))

    def reach(self, first: Tokens, last: Tokens) -> tuple[Tokens, Tokens]:
        """The prefix itself."""
        return Tokens(_SMALLEST, _SMALLEST), Tokens(self.length - 1, _LARGEST)


@_rule
class SameDocument(Rule):
    """Tokens see only their own document: several, packed into one sequence, stay apart.

    >>> documents = Tokens(position=jnp.array([0, 1, 0, 1]), document=jnp.array([0, 0, 1, 1]))
    >>> print(SameDocument().picture(documents))
    ■■··
    ■■··
    ··■■
    ··■■
    """

    def __call__(self, query: Tokens, key: Tokens) -> Bool[Array, "t s"]:
        """The documents are the same."""
        return query.document[:, None] == key.document

    def reach(self, first: Tokens, last: Tokens) -> tuple[Tokens, Tokens]:
        """The tile's own documents."""
        return Tokens(_SMALLEST, first.document), Tokens(_LARGEST, last.document)


@_rule
class Padding(Rule):
    """Only the first `length` positions are real: what stands behind them neither sees nor is seen.

    >>> print(Padding(2).picture(Tokens.arange(3)))
    ■■·
    ■■·
    ···
    """

    length: Number

    def __call__(self, query: Tokens, key: Tokens) -> Bool[Array, "t s"]:
        """p_t < length and p_s < length."""
        return (query.position[:, None] < self.length) & (key.position < self.length)

    def reach(self, first: Tokens, last: Tokens) -> tuple[Tokens, Tokens]:
        """The real positions; none for a tile of padding."""
        last_real = jnp.where(first.position < self.length, self.length - 1, _SMALLEST)
        return Tokens(_SMALLEST, _SMALLEST), Tokens(last_real, _LARGEST)


@_rule
class Dilated(Rule):
    r"""Every `rate`-th key, counted from the token itself: $p_t \equiv p_s \pmod{\mathit{rate}}$.

    With `SlidingWindow(rate * w)` it is Longformer's dilated window, w keys to each side. Paper: arXiv:2004.05150.

    >>> print(Dilated(2).picture(Tokens.arange(4)))
    ■·■·
    ·■·■
    ■·■·
    ·■·■
    """

    rate: Number

    def __call__(self, query: Tokens, key: Tokens) -> Bool[Array, "t s"]:
        """p_t ≡ p_s, modulo the rate."""
        return _distance(query, key) % self.rate == 0


@_rule
class Chunked(Rule):
    r"""Chunks of `size` positions, of which none sees another: $\lfloor p_t / c \rfloor = \lfloor p_s / c \rfloor$.

    `Causal() & Chunked(c)` is the local attention of Llama 4.

    >>> print((Causal() & Chunked(2)).picture(Tokens.arange(4)))
    ■···
    ■■··
    ··■·
    ··■■
    """

    size: Number

    def __call__(self, query: Tokens, key: Tokens) -> Bool[Array, "t s"]:
        """⌊p_t / size⌋ = ⌊p_s / size⌋."""
        return (query.position // self.size)[:, None] == key.position // self.size

    def reach(self, first: Tokens, last: Tokens) -> tuple[Tokens, Tokens]:
        """From the beginning of the first query's chunk to the end of the last one's, as far as there are integers."""
        beginning = first.position // self.size * self.size
        behind = self.size - 1 - last.position % self.size
        return Tokens(beginning, _SMALLEST), Tokens(_later(last.position, behind), _LARGEST)


def _later(position, n):
    """The position n behind, or the last that there is."""
    return position + jnp.minimum(n, _LARGEST - jnp.maximum(position, 0))


def _distance(query, key):
    return query.position[:, None] - key.position
