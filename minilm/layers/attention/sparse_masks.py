"""Rules that keep most keys out by where they stand: tokens that all see, neighbouring blocks, blocks drawn by lot.

They compose with those of `masks`: Longformer is `SlidingWindow(w) | Global(n)`, BigBird is `big_bird_rule`. A window
costs t · w scores; the few global tokens, whose row and column are full, let any two tokens meet in two layers.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from minilm.layers.attention.masks import Number, Rule
from minilm.pytrees import register
from minilm.shapes import Tokens


@register
@dataclass(frozen=True)
class Global(Rule):
    """The first `length` positions see all and are seen by all: $p_t < n$ or $p_s < n$.

    `SlidingWindow(w) | Global(n)` is Longformer's attention. (Longformer's global tokens may stand anywhere, and have
    projections of their own.) Under `Causal() &` they still are seen by all that follow, and see no future. Paper:
    arXiv:2004.05150, section 3.1.

    >>> from minilm.layers.attention.masks import SlidingWindow
    >>> print((SlidingWindow(2) | Global(1)).picture(Tokens.arange(5)))
    ■■■■■
    ■■■··
    ■■■■·
    ■·■■■
    ■··■■
    """

    length: Number

    def __call__(self, query: Tokens, key: Tokens) -> Bool[Array, "t s"]:
        """p_t < length or p_s < length."""
        return (query.position[:, None] < self.length) | (key.position < self.length)

    def reach(self, first: Tokens, last: Tokens) -> tuple[Tokens, Tokens]:
        """Everything for a tile that holds a global query, and the global keys for any other."""
        low, high = Rule.reach(self, first, last)
        end = jnp.where(first.position < self.length, high.position, self.length - 1)
        return low, high._replace(position=end)


@register
@dataclass(frozen=True)
class BlockWindow(Rule):
    r"""Only blocks nearer than n to either side, the query's own counted: $|\lfloor p_t/c \rfloor - \lfloor p_s/c
    \rfloor| < n$.

    A `SlidingWindow` of whole blocks: of size 1 it is `SlidingWindow(n)`, and with n = 1 it is `Chunked(size)`. Of
    BigBird's three blocks, n is 2. Paper: arXiv:2007.14062, section 2.

    >>> print(BlockWindow(size=2, n=2).picture(Tokens.arange(7)))
    ■■■■···
    ■■■■···
    ■■■■■■·
    ■■■■■■·
    ··■■■■■
    ··■■■■■
    ····■■■
    """

    size: Number
    n: Number

    def __call__(self, query: Tokens, key: Tokens) -> Bool[Array, "t s"]:
        """|⌊p_t / size⌋ − ⌊p_s / size⌋| < n."""
        return jnp.abs((query.position // self.size)[:, None] - key.position // self.size) < self.n

    def reach(self, first: Tokens, last: Tokens) -> tuple[Tokens, Tokens]:
        """From n − 1 blocks before the first query's to the end of the one n − 1 after the last one's."""
        low, high = Rule.reach(self, first, last)
        first_b, last_b, blocks = (x.position // self.size for x in (first, last, high))
        n = jnp.minimum(self.n, blocks)  # of all that integers count
        beginning = jnp.where(self.n > blocks, low.position, (first_b - n + 1) * self.size)
        end = jnp.where(self.n > blocks - last_b, high.position, (last_b + n) * self.size - 1)
        return low._replace(position=beginning), high._replace(position=end)


@register
@dataclass(frozen=True)
class RandomBlocks(Rule):
    r"""Each block of queries sees the blocks of keys drawn for it: $\lfloor p_s / c \rfloor \in
    \mathrm{chosen}_{\lfloor p_t / c \rfloor}$.

    `RandomBlocks.of(key, size, n_blocks, n)` draws them; queries beyond the last block see nothing by it. Random edges
    keep the distance between any two tokens small, as in a random graph. Paper: arXiv:2007.14062, section 2.

    >>> print(RandomBlocks(size=2, chosen=jnp.array([[1], [2], [0]])).picture(Tokens.arange(6)))
    ··■■··
    ··■■··
    ····■■
    ····■■
    ■■····
    ■■····
    """

    size: Number
    chosen: Any  # integers (n_blocks, n)

    @classmethod
    def of(cls, key, size: int, n_blocks: int, n: int) -> "RandomBlocks":
        """For each of `n_blocks` blocks of queries, n different ones of as many blocks of keys, all alike likely.

        The published code draws among those alone that no window and no global block covers yet.
        """
        if not 0 <= n <= n_blocks:
            raise ValueError(f"of {n_blocks} blocks {n} were to be drawn: expected 0 to {n_blocks}")
        rows = jax.random.split(key, n_blocks)
        return cls(size, jax.vmap(lambda row: jax.random.permutation(row, n_blocks)[:n])(rows))

    def __call__(self, query: Tokens, key: Tokens) -> Bool[Array, "t s"]:
        """⌊p_s / size⌋ is among chosen[⌊p_t / size⌋]."""
        b_t, b_s = query.position // self.size, key.position // self.size
        drawn = (b_t >= 0) & (b_t < len(self.chosen))
        return drawn[:, None] & (jnp.asarray(self.chosen)[b_t][:, :, None] == b_s).any(1)

    def reach(self, first: Tokens, last: Tokens) -> tuple[Tokens, Tokens]:
        """From the first block that was drawn for a block of the tile to the end of the last."""
        low, high = Rule.reach(self, first, last)
        b = jnp.arange(len(self.chosen))[:, None]
        first_b, last_b = (jnp.asarray(x.position)[..., None, None] // self.size for x in (first, last))
        asked, chosen = (first_b <= b) & (b <= last_b), jnp.asarray(self.chosen)
        begin = jnp.where(asked, chosen * self.size, high.position).min((-2, -1), initial=high.position)
        end = jnp.where(asked, chosen * self.size + self.size - 1, low.position).max((-2, -1), initial=low.position)
        return low._replace(position=begin), high._replace(position=end)


def big_bird_rule(key, *, size: int, n_blocks: int, window: int = 2, n_global: int = 2, n_random: int = 3) -> Rule:
    r"""BigBird's attention: a window of blocks, global blocks at the beginning, and random blocks.

    $$ \mathrm{BlockWindow}(c, w) \mid \mathrm{Global}(c\, n_{\text{global}}) \mid \mathrm{RandomBlocks}(c,
       \mathrm{chosen}) $$

    It is an encoder's; `Causal() &` makes it a decoder's. The paper's base models have blocks of 64, a window of three,
    two global blocks and three random ones. (Its internal construction; the external one adds global tokens to the
    text. The published code's two global blocks are the first and the last.)

    Args:
      key: of JAX, that draws the blocks.
      size: positions in a block.
      n_blocks: blocks in the longest sequence.
      window: blocks seen to either side, the own one counted: 2 is the paper's three.
      n_global: blocks that see all and are seen by all.
      n_random: blocks drawn for each block.
    Returns:
      a `Rule`.
    """
    blocks = RandomBlocks.of(key, size, n_blocks, n_random)
    return BlockWindow(size, window) | Global(n_global * size) | blocks
