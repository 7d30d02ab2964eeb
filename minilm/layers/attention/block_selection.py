"""Attention that chooses what it reads: keys stand in blocks, and a query picks the few blocks that promise most.

What is chosen is a mask, so these are `dot_product_attention` with masks that the data draws. A choice is a step
function of the scores that make it: it passes no gradient on, while the keys and values that it lets through do.
"""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from minilm.layers.attention.core import dot_product_attention, scores
from minilm.layers.attention.masks import Causal
from minilm.layers.attention.multi_head import softmax_mixer
from minilm.pytrees import register
from minilm.shapes import Mixer, Tokens


@partial(jax.jit, static_argnames="n")
def largest(x: Float[Array, "... i"], *, n: int) -> Bool[Array, "... i"]:
    r"""Where the n largest entries of each row stand; of equal ones, the earlier.

    $$ y_j = 1 \iff \#\{i : x_i > x_j \;\text{ or }\; x_i = x_j,\ i < j\} < n $$

    Args:
      x: `(..., i)`; 0 and −0 are equal.
      n: how many; with n ≥ i it is all of them.
    Returns:
      booleans `(..., i)`, n of them True in each row.

    Reference: `minilm.reference.attention.block_selection.largest`.

    >>> largest(jnp.array([3.0, 7.0, 3.0, 3.0]), n=2).tolist()
    [True, True, False, False]
    """
    best = jax.lax.top_k(jnp.where(x == 0, 0, x), min(n, x.shape[-1]))[1]  # of equal ones the earlier; −0 made 0
    return (best[..., None] == jnp.arange(x.shape[-1])).any(-2)


@partial(jax.jit, static_argnames=("size", "n"))
def moba_mask(
    q: Float[Array, "g r t k"], k: Float[Array, "g s k"], query: Tokens, key: Tokens, *, size: int, n: int
) -> Bool[Array, "g r t s"]:
    r"""Which keys the queries of a mixture of block attention choose.

    $$ \bar k_b = \operatorname{mean}_{s \in b} k_s, \qquad
       C_t = \operatorname{top}_n \{\, q_t \cdot \bar k_b : b < b_t \,\} \cup \{b_t\}, \qquad
       M_{ts} = 1 \iff b_s \in C_t,\ p_s \le p_t $$

    with $b_s = \lfloor p_s / \mathit{size} \rfloor$ the block of position $p_s$. A query scores complete blocks of its
    past alone, and always reads its own, up to itself: a mean over its own block would hold keys of the future. Of
    equally good blocks the earlier is chosen.

    Args:
      q, k: `(g, r, t, k)`, `(g, s, k)`. Each of the g · r heads chooses for itself, as in the paper.
      query, key: where they stand, `(t,)` and `(s,)`, in any order: positions of one document, from 0 to s − 1; keys
        at −1 are in no block.
      size: positions in a block.
      n: past blocks to choose. The paper's k, and `moba_topk` of its code, count the query's own block too: n + 1.
    Returns:
      booleans `(g, r, t, s)`, which have no gradient.

    Reference: `minilm.reference.attention.block_selection.moba_mask`. Paper: arXiv:2502.13189, section 2.2.

    >>> q, k, tokens = jnp.ones((1, 1, 5, 1)), jnp.array([[[2.0], [0.0], [9.0], [9.0], [0.0]]]), Tokens.arange(5)
    >>> moba_mask(q, k, tokens, tokens, size=2, n=1)[0, 0].astype(int)[2:].tolist()
    [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    """
    q, k = (jax.lax.stop_gradient(x).astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (q, k))
    b_t, b_s, b = query.position[:, None] // size, key.position // size, jnp.arange(-(-k.shape[1] // size))
    # Every key is added where it belongs: to multiply by a matrix of who belongs where takes twice the time, and more.
    own = jnp.where(key.position < 0, b.size, b_s)  # out of range, where "drop" adds nothing
    count = jnp.zeros(b.shape, k.dtype).at[own].add(1, mode="drop")
    sums = jnp.zeros((k.shape[0], *b.shape, k.shape[2]), k.dtype).at[:, own].add(k, mode="drop")
    means = sums / jnp.maximum(count, 1)[:, None]
    past = (b < b_t) & (count > 0)
    chosen = largest(jnp.where(past, scores(q, means), -jnp.inf), n=n) & past
    return (chosen[..., b_s] | (b_s == b_t)) & Causal()(query, key) & (key.position >= 0)


@partial(jax.jit, static_argnames=("size", "n"))
def moba_attention(
    q: Float[Array, "g r t k"],
    k: Float[Array, "g s k"],
    v: Float[Array, "g s v"],
    query: Tokens,
    key: Tokens,
    *,
    size: int,
    n: int,
) -> Float[Array, "g r t v"]:
    r"""Mixture of block attention: causal attention to the blocks that a query chooses.

    $$ o_t = \sum_s \operatorname{softmax}_{s : M_{ts}} \left(\frac{q_t \cdot k_s}{\sqrt k}\right) v_s,
       \qquad M = \text{moba\_mask}(q, k) $$

    With n no less than the number of blocks it *is* causal `dot_product_attention`; with n = 0 it is that of chunks.
    All s keys and values are held, and a mean for each block; a query reads s / size means and (n + 1) size keys and
    values. (Written here for its mathematics: all scores are taken, and most are masked.)

    Args:
      q, k, v: `(g, r, t, k)`, `(g, s, k)`, `(g, s, v)`, in one dtype.
      query, key, size, n: as `moba_mask`'s.
    Returns:
      `(g, r, t, v)`, in the dtype of v.

    Reference: `minilm.reference.attention.block_selection.moba_attention`. Paper: arXiv:2502.13189, section 2.

    >>> q, k, tokens = jnp.zeros((1, 1, 3, 1)), jnp.zeros((1, 3, 1)), Tokens.arange(3)
    >>> moba_attention(q, k, jnp.array([[[2.0], [4.0], [7.0]]]), tokens, tokens, size=2, n=0).ravel().tolist()
    [2.0, 3.0, 7.0]
    """
    return dot_product_attention(q, k, v, moba_mask(q, k, query, key, size=size, n=n))


@register
@dataclass(frozen=True)
class MoBA:
    """`moba_attention` as an `attend`, causal within: `MoBA(size=64, n=2)`."""

    size: int = field(metadata={"static": True})
    n: int = field(metadata={"static": True})

    def __call__(self, q, k, v, query, key):
        """Attention of one sequence, `(g, r, t, v)`."""
        return moba_attention(q, k, v, query, key, size=self.size, n=self.n)


def moba_mixer(*, g: int, r: int, k: int, v: int, size: int, n: int, bias: bool = True) -> Mixer:
    """Mixture of block attention as a block takes it: `moba_mixer(g=2, r=4, k=16, v=16, size=64, n=2)`.

    Args:
      g, r, k, v, bias: as `softmax_mixer`'s.
      size, n: as `moba_mask`'s.
    Returns:
      a `Mixer`, whose state is a `KVCache` that must have a slot for every position.
    """
    return softmax_mixer(MoBA(size, n), g=g, r=r, k=k, v=v, bias=bias)
