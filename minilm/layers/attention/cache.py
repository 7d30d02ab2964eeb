"""The keys and values of tokens already read, so that the next ones need not compute them again."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minilm.layers.attention.core import Prepared
from minilm.shapes import Tokens


class KVCache(NamedTuple):
    """Slots for keys and values of one sequence, and where their tokens stand; a slot at position −1 is empty.

    The keys of a `Prepared` attend are held as it prepares them: turned, or normalised.
    """

    k: Float[Array, "g s k"]
    v: Float[Array, "g s v"]
    tokens: Tokens


def init_cache(params, size: int, dtype=None) -> KVCache:
    """An empty cache of `size` slots for an attention layer of these parameters, in its weights' dtype unless given.

    A window may roll through a cache smaller than the sequence. While a chunk is read, its last token is already
    written and its first still looks `window − 1` back, so the cache needs `size >= window + chunk − 1`.
    """
    (_, g, k), (_, _, v) = params.w_k.shape, params.w_v.shape
    dtype = params.w_k.dtype if dtype is None else dtype
    empty = Tokens(jnp.full(size, -1, jnp.int32), jnp.zeros(size, jnp.int32))
    return KVCache(k=jnp.zeros((g, size, k), dtype), v=jnp.zeros((g, size, v), dtype), tokens=empty)


@jax.jit
def write_slots(
    held: Float[Array, "g s k"], slot: Int[Array, " t"], new: Float[Array, "g t k"]
) -> Float[Array, "g s k"]:
    r"""Rows into the slots of a cache, in its dtype; a slot beyond the last takes none.

    $$ Y_{:,\, \mathrm{slot}(t)} = X_{:,\, t} $$

    A row that no slot takes is written with them. A single row, of a batch of one sequence, XLA's CPU compiler would
    write in a copy of all the cache: among 8,192 slots, thirty times as slow a step. (That is of float32; where slots
    are narrower it copies them whatever is written.)

    Args:
      held: what the slots hold, `(g, s, k)`.
      slot: where each row goes, from 0, `(t,)`; no slot twice.
      new: X, the rows, `(g, t, k)`.
    Returns:
      Y `(g, s, k)`.

    Reference: `minilm.reference.attention.cache.write_slots`.

    >>> write_slots(jnp.zeros((1, 3, 1)), jnp.array([2, 3]), jnp.array([[[5.0], [7.0]]])).ravel().tolist()
    [0.0, 0.0, 5.0]
    """
    slot, new = jnp.append(slot, held.shape[1]), jnp.pad(new, ((0, 0), (0, 1), (0, 0)))
    return held.at[:, slot].set(new.astype(held.dtype), mode="drop")


@jax.jit
def append(cache: KVCache, k: Float[Array, "g t k"], v: Float[Array, "g t v"], tokens: Tokens) -> KVCache:
    r"""Write a chunk of one sequence into the cache, over the oldest slots once it is full.

    $$ \mathrm{slot}(p) = p \bmod \mathit{size} $$

    Padding, at position −1, is written nowhere. (−1 mod size would be the last slot.)

    Args:
      cache: `size` slots.
      k, v: the chunk's keys `(g, t, k)` and values `(g, t, v)`.
      tokens: where its t tokens stand.
    Returns:
      the cache with the chunk in it.
    Raises:
      ValueError: for a chunk longer than the cache, two of whose tokens would share a slot.

    Reference: `minilm.reference.attention.cache.append`.
    """
    size, t = cache.tokens.position.shape[0], tokens.position.shape[0]
    if t > size:
        raise ValueError(f"a chunk of {t} tokens does not fit a cache of {size} slots: read it in smaller chunks")
    slot = jnp.where(tokens.position >= 0, tokens.position % size, size)

    def write(held, new):
        return held.at[slot].set(new.astype(held.dtype), mode="drop")

    return KVCache(
        k=write_slots(cache.k, slot, k),
        v=write_slots(cache.v, slot, v),
        tokens=jax.tree.map(write, cache.tokens, tokens),
    )


def append_and_attend(
    cache: KVCache,
    q: Float[Array, "g r t k"],
    k: Float[Array, "g t k"],
    v: Float[Array, "g t v"],
    tokens: Tokens,
    attend: Callable,
):
    r"""Write a chunk of one sequence into the cache, and let its queries attend to all that is then held.

    $$ \hat Q, \hat K = \mathrm{prepare}(Q, K), \qquad
       O = \mathrm{attend}(\hat Q,\ [\hat K_{\text{held}}, \hat K],\ [V_{\text{held}}, V]) $$

    What a `Prepared` attend does to each query and key by itself is done before they are written, once for a token,
    however many read it; what it holds then attends. Any other attend has nothing to prepare. (To turn the keys of
    4,096 tokens again for every new one would take most of its time.)

    Args:
      cache: keys and values of the tokens before.
      q, k, v: the chunk's queries `(g, r, t, k)`, keys `(g, t, k)` and values `(g, t, v)`.
      tokens: where its t tokens stand.
      attend: `attend(q, k, v, query, key)`, as `multi_head`'s.
    Returns:
      `(cache, out)`: the cache with the chunk in it, and what `attend` returns.
    Raises:
      ValueError: as `append`.

    Reference: `minilm.reference.attention.cache.append_and_attend`.

    >>> empty = Tokens(jnp.full(2, -1, jnp.int32), jnp.zeros(2, jnp.int32))
    >>> cache, one = KVCache(jnp.zeros((1, 2, 2)), jnp.zeros((1, 2, 1)), empty), jnp.ones((1, 1, 1, 2))
    >>> def mean(q, k, v, query, key):
    ...     return v.mean(1, where=key.position[:, None] >= 0)
    >>> for place, v in enumerate([5.0, 7.0]):
    ...     cache, out = append_and_attend(cache, one, one[0], jnp.full((1, 1, 1), v), Tokens.arange(1, place), mean)
    >>> out.item(), cache.tokens.position.tolist()
    (6.0, [0, 1])
    """
    while type(attend).__call__ is Prepared.__call__:
        (q, k), attend = attend.prepare(q, k, tokens, tokens), attend.attend
    cache = append(cache, k, v, tokens)
    return cache, attend(q, cache.k, cache.v, tokens, cache.tokens)
