r"""Streaming with attention sinks: a text without end is read with a cache that does not grow.

The cache keeps the last w tokens and the first n, the *sinks*, on which trained models rest the weight that they need
nowhere else. Positions are counted inside the cache: what stands in its i-th place is turned to position i, so no angle
exceeds those of the training. In terms of positions in the text, a query at p sees

| the key at j                     | at the distance                    |
|----------------------------------|------------------------------------|
| a window key, $p - w < j \le p$  | $p - j$, as ever                   |
| a sink, $j < n$                  | $\min(p, n + w - 1) - j$           |

for the whole cache is counted through: beyond place n + w − 1 no query stands. A sink that is still in the window is at
the same distance by both lines. As a rule of masks it is `Causal() & (SlidingWindow(w) | Prefix(n))`.
"""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.layers.activation import softmax
from minilm.layers.attention.cache import KVCache, init_cache, write_slots
from minilm.layers.attention.core import mix, scores
from minilm.layers.attention.masks import Causal, Prefix, Rule, SlidingWindow
from minilm.layers.attention.multi_head import init_multi_head, merge, multi_head, project
from minilm.layers.position import rotary
from minilm.pytrees import register
from minilm.shapes import Mixer, Tokens


@partial(jax.jit, static_argnames=("sinks", "window", "theta"))
def streaming_attention(
    q: Float[Array, "g r t k"],
    k: Float[Array, "g s k"],
    v: Float[Array, "g s v"],
    query: Tokens,
    key: Tokens,
    *,
    sinks: int,
    window: int,
    theta: float = 10000.0,
) -> Float[Array, "g r t v"]:
    r"""Rotary attention to the sinks and the window, at distances inside the cache.

    $$ A_{ts} = \frac{1}{\sqrt k} \begin{cases} q_t \cdot R_{j - \min(p,\, n + w - 1)}\, k_s & j < n \\
       q_t \cdot R_{j - p}\, k_s & j \ge n \end{cases}, \qquad
       O = \operatorname{softmax}_{s:\; j \le p,\; j < n \,\vee\, p - j < w}(A)\, V $$

    where the query stands at p and the key at j. In a text no longer than n + w it is rotary causal attention.

    Args:
      q, k, v: unturned, `(g, r, t, k)`, `(g, s, k)`, `(g, s, v)`.
      query, key: where they stand in the text, `(t,)` and `(s,)`; a key at −1 is an empty slot, or padding.
      sinks: n.
      window: w, the token itself counted.
      theta: as `rotary`'s.
    Returns:
      `(g, r, t, v)`, in the dtype of v; the softmax between is in float32 or wider.

    Reference: `minilm.reference.attention.streaming.streaming_attention`. Paper: arXiv:2309.17453, section 3.2.

    >>> q, k, v, where = jnp.ones((1, 1, 4, 2)), jnp.zeros((1, 4, 2)), jnp.arange(4.0)[None, :, None], Tokens.arange(4)
    >>> streaming_attention(q, k, v, where, where, sinks=1, window=2)[0, 0, :, 0].round(6).tolist()
    [0.0, 0.5, 1.0, 1.666667]
    """
    last = sinks + window - 1
    # Only distances count, so all of the window moves down together until its last query stands at the last place. Its
    # angles then stay small, however long the text, and a single query needs no second turn: it stands there for both.
    moved = jnp.maximum(query.position.max(initial=-1) - last, 0)
    place = jnp.where(key.position < sinks, key.position, key.position - moved)
    k = rotary(k, place, theta)
    to_sinks = scores(rotary(q, jnp.minimum(query.position, last), theta), k)
    to_window = scores(rotary(q, query.position - moved, theta), k)
    a = jnp.where(key.position < sinks, to_sinks, to_window)
    return mix(softmax(a, where=_rule(sinks, window)(query, key) & (key.position >= 0)), v)


@partial(jax.jit, static_argnames="sinks")
def streaming_append(
    cache: KVCache, k: Float[Array, "g t k"], v: Float[Array, "g t v"], tokens: Tokens, *, sinks: int
) -> KVCache:
    r"""Write a chunk of any length into a cache of n + w slots, which keeps the sinks and the last w tokens.

    $$ \mathrm{slot}(p) = \begin{cases} p & p < n \\ n + (p - n) \bmod w & p \ge n \end{cases} $$

    Of a chunk longer than the window, the tokens that have left it at its end are not written at all; nor is padding.

    Args:
      cache: n + w slots, for unturned keys.
      k, v: the chunk's keys `(g, t, k)` and values `(g, t, v)`.
      tokens: where its t tokens stand.
      sinks: n.
    Returns:
      the cache with the chunk in it.

    Reference: `minilm.reference.attention.streaming.streaming_append`. Paper: arXiv:2309.17453, section 3.2.
    """
    p, size = tokens.position, cache.tokens.position.shape[0]
    window = size - sinks
    slot = jnp.where(p < sinks, p, sinks + (p - sinks) % window)
    kept = (p >= 0) & ((p < sinks) | (p > p.max(initial=-1) - window))
    slot = jnp.where(kept, slot, size)  # out of range, where "drop" writes nothing
    return KVCache(
        k=write_slots(cache.k, slot, k),
        v=write_slots(cache.v, slot, v),
        tokens=jax.tree.map(lambda held, new: held.at[slot].set(new, mode="drop"), cache.tokens, tokens),
    )


@register
@dataclass(frozen=True)
class Streaming:
    """`streaming_attention` as `multi_head` takes it: `Streaming(sinks=4, window=1020)`."""

    sinks: int = field(metadata={"static": True})
    window: int = field(metadata={"static": True})
    theta: float = field(default=10000.0, metadata={"static": True})

    def __call__(self, q, k, v, query, key):
        """Attention of one sequence, `(g, r, t, v)`."""
        options = {"sinks": self.sinks, "window": self.window, "theta": self.theta}
        return streaming_attention(q, k, v, query, key, **options)


def streaming_mixer(
    *, g: int, r: int, k: int, v: int, sinks: int = 4, window: int, theta: float = 10000.0, bias: bool = True
) -> Mixer:
    """Attention with sinks, as a block takes it: `streaming_mixer(g=2, r=4, k=16, v=16, window=1020)`.

    Its state is of one size, whatever size it is asked for: it reads on without end, in chunks of any length.

    Args:
      g, r, k, v: key/value heads, query heads of each, and the widths of a key, which is even, and of a value.
      sinks: how many first tokens stay; the paper's 4.
      window: how many last tokens are seen, the token itself counted.
      theta: as `rotary`'s.
      bias: whether the projections have one.
    Returns:
      a `Mixer`, whose state is a `KVCache` of sinks + window slots, with unturned keys.
    Raises:
      ValueError: for less than no sinks or a window that does not hold the token itself.
    """
    if sinks < 0 or window < 1:
        raise ValueError(f"0 or more sinks and a window of 1 or more were expected, but they are {sinks} and {window}.")
    attend = Streaming(sinks, window, theta)

    def step(params, cache, x, tokens):
        q, k, v = project(params, x, x)
        # The chunk is read beside the cache, not through it: its first query still sees what its last one pushes out.
        read_k = jnp.concatenate([cache.k, k.astype(cache.k.dtype)], 1)
        read_v = jnp.concatenate([cache.v, v.astype(cache.v.dtype)], 1)
        read = jax.tree.map(lambda old, new: jnp.concatenate([old, new]), cache.tokens, tokens)
        o = attend(q, read_k, read_v, tokens, read)
        return streaming_append(cache, k, v, tokens, sinks=sinks), merge(params, o.astype(x.dtype))

    return Mixer(
        init=lambda key, d_model: init_multi_head(key, d_model, g=g, r=r, k=k, v=v, bias=bias),
        apply=lambda params, x, tokens: multi_head(params, x, tokens, attend),
        init_state=lambda params, size, dtype=None: init_cache(params, sinks + window, dtype),
        step=step,
    )


def _rule(sinks: int, window: int) -> Rule:
    return Causal() & (SlidingWindow(window) | Prefix(sinks))
