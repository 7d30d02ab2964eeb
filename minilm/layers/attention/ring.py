r"""Attention of a sequence in pieces on several devices: keys travel in a ring, or heads change places.

What is here is what one device does with its piece, inside of a `shard_map` over a mesh axis (`minilm.parallel`'s
`over_sequence` makes one). Rules and biases see positions, and every token brings its own. So the pieces may hold the
tokens in any order, and masks, documents and padding are right without a further thought.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from minilm.layers.attention.blockwise import blockwise_attention, blockwise_gradients
from minilm.pytrees import register
from minilm.shapes import Tokens


@jax.jit
def merge(
    o: Float[Array, "g r t v"],
    lse: Float[Array, "g r t"],
    o_2: Float[Array, "g r t v"],
    lse_2: Float[Array, "g r t"],
) -> tuple[Float[Array, "g r t v"], Float[Array, "g r t"]]:
    r"""Attention to some keys and attention to others give attention to all of them.

    $$ m = \max(\mathrm{lse}_1, \mathrm{lse}_2), \qquad c_i = e^{\mathrm{lse}_i - m} $$
    $$ o = \frac{c_1 o_1 + c_2 o_2}{c_1 + c_2}, \qquad \mathrm{lse} = m + \ln(c_1 + c_2) $$

    It is commutative and associative, and a query that saw nothing, with o = 0 and lse = −∞, is its neutral element.

    Args:
      o, lse: the output `(g, r, t, v)` of one attention, and the logarithms of its softmax's denominators `(g, r, t)`.
      o_2, lse_2: those of the other, which saw other keys.
    Returns:
      both of attention to the keys of the two, o in its own dtype, lse in float32 or wider.

    Reference: `minilm.reference.attention.ring.merge`. Papers: arXiv:2205.14135, arXiv:2310.01889.

    >>> o, lse = merge(*(jnp.full((1, 1, 1, 1), 4.0), jnp.log(jnp.full((1, 1, 1), 1.0))),
    ...                *(jnp.full((1, 1, 1, 1), 8.0), jnp.log(jnp.full((1, 1, 1), 3.0))))
    >>> round(o.item(), 5), round(jnp.exp(lse).item(), 5)
    (7.0, 4.0)
    """
    wide = jnp.promote_types(lse.dtype, jnp.float32)
    lse, lse_2 = lse.astype(wide), lse_2.astype(wide)
    # Never −∞, from which −∞ could be subtracted. What m is doesn't change the result, so it has no gradient.
    m = jax.lax.stop_gradient(jnp.maximum(jnp.maximum(lse, lse_2), jnp.finfo(wide).min))
    c, c_2 = jnp.exp(lse - m), jnp.exp(lse_2 - m)
    empty = c + c_2 == 0
    total = jnp.where(empty, 1, c + c_2)
    mixed = (c[..., None] * o + c_2[..., None] * o_2) / total[..., None]
    return mixed.astype(o.dtype), jnp.where(empty, -jnp.inf, m + jnp.log(total))


def ring_attention(
    q: Float[Array, "g r t k"],
    k: Float[Array, "g s k"],
    v: Float[Array, "g s v"],
    query: Tokens,
    key: Tokens,
    rule,
    bias=None,
    *,
    axis: str,
    t_block: int = 128,
    s_block: int = 128,
) -> tuple[Float[Array, "g r t v"], Float[Array, "g r t"]]:
    r"""Attention to the keys of all R devices, which pass them on, each to its neighbour, R times.

    $$ (o, \mathrm{lse}) \leftarrow \operatorname{merge}\bigl((o, \mathrm{lse}),\;
       \operatorname{attend}(q, K_j, V_j)\bigr), \qquad j = r, r - 1, \dots, r + 1 \pmod R $$

    While a device attends to the keys that it holds, they are already on their way to the next. The gradient takes a
    second round, in which those of keys and values travel with them: after R steps they are at home. Nothing but
    its own piece, output and lse is kept for it, and a device needs room for a visitor beside, O(t / R), where autodiff
    would keep all that ever visited, O(t): with its gradient at 16,384 positions of 8 heads of 64, in float32, 67 MB
    on each of eight devices, arguments and results included, where autodiff takes 248 (177 if every step is
    rematerialised), one device 274, and `ulysses_attention` 59. With one device it *is* `blockwise_attention`.

    The steps are simultaneous: under a causal rule, tokens in their own order leave most of the first device's time
    unused, for nearly everything that visits it is its future. `zigzag` is the order that gives all the same work.

    Args:
      q, k, v, query, key: this device's pieces, as `blockwise_attention` takes them whole.
      rule, bias, t_block, s_block: as `blockwise_attention`'s, the same on all devices.
      axis: the name of the mesh axis around which the keys travel. Of the `shard_map`, `check_vma` must be False.
    Returns:
      the output of this device's queries `(g, r, t, v)`, in v's dtype, and their lse `(g, r, t)`; 0 and −∞ for a query
      that sees nothing. Both have gradients.

    Papers: arXiv:2310.01889 (ring attention), arXiv:2311.09431 (balanced).
    """
    return _ring((axis, t_block, s_block), q, k, v, query, key, rule, bias)


def ulysses_attention(
    q: Float[Array, "g r t k"],
    k: Float[Array, "g s k"],
    v: Float[Array, "g s v"],
    query: Tokens,
    key: Tokens,
    attend: Callable,
    *,
    axis: str,
) -> Float[Array, "g r t v"]:
    r"""R devices, each with all heads of a piece of the sequence, become R with a few heads of all of it, and go back.

    $$ O = \operatorname{exchange}^{-1}\bigl(\operatorname{attend}(\operatorname{exchange}(Q),
       \operatorname{exchange}(K), \operatorname{exchange}(V))\bigr) $$

    Any attention may stand in the middle; one that learned something for each head, or a bias that has heads, must take
    its own part of them, as `OwnHeads` does.

    Args:
      q, k, v, query, key: this device's pieces, as every `attend` takes them whole.
      attend: attention of one sequence, asked for g / R key/value heads.
      axis: the name of the mesh axis over whose devices the heads are dealt out.
    Returns:
      the output of this device's queries `(g, r, t, v)`.
    Raises:
      ValueError: R doesn't divide g, or `attend` answers for another number of heads than it was asked for.

    Paper: arXiv:2309.14509.
    """
    devices, g = jax.lax.axis_size(axis), q.shape[0]
    if g % devices:
        raise ValueError(
            f"{g} key/value heads can't be dealt out to {devices} devices: choose a number of devices that divides "
            f"{g}, or let keys travel instead of heads: `Ring` takes any number of heads."
        )
    q, k, v = (jax.lax.all_to_all(x, axis, 0, x.ndim - 2, tiled=True) for x in (q, k, v))
    query, key = (jax.tree.map(lambda x: jax.lax.all_gather(x, axis, tiled=True), where) for where in (query, key))
    o = attend(q, k, v, query, key)
    if o.shape[0] != g // devices:
        raise ValueError(
            f"The attention was asked for {g // devices} of {g} key/value heads and answered for {o.shape[0]}. A bias "
            f"with heads must take its own part of them: OwnHeads(bias, {axis!r})."
        )
    return jax.lax.all_to_all(o, axis, 2, 0, tiled=True)


def zigzag(t: int, devices: int) -> np.ndarray:
    r"""The order of t tokens in which each of R devices has the same share of a causal attention's work.

    $$ \text{device } r \text{ holds chunks } r \text{ and } 2R - 1 - r \text{ of } 2R $$

    What the early chunk sees less, the late one sees more, and in every step of a ring: of the four pairs of chunks
    that meet, two are in order. (Tiles that divide a chunk waste nothing of that.) Tokens are put in order once,
    `x[zigzag(t, R)]`, and their `Tokens` with them; `np.argsort(zigzag(t, R))` is the way back.

    Args:
      t: tokens of the sequence.
      devices: R; t must be a multiple of 2R.
    Returns:
      an array of t indices.
    Raises:
      ValueError: t is no multiple of 2R.

    Reference: `minilm.reference.attention.ring.zigzag`. Papers: arXiv:2311.09431; the chunks are Llama 3's,
    arXiv:2407.21783, section 3.3.2.

    >>> zigzag(8, 2).tolist(), np.argsort(zigzag(8, 2)).tolist()
    ([0, 1, 6, 7, 2, 3, 4, 5], [0, 1, 4, 5, 6, 7, 2, 3])
    """
    if t % (2 * devices):
        raise ValueError(
            f"Two chunks for each of {devices} devices need a multiple of {2 * devices} tokens, and there are {t}: pad "
            f"them with tokens at position −1, or choose fewer devices."
        )
    chunks = np.arange(t).reshape(2 * devices, -1)
    return np.concatenate([chunks[:devices], chunks[: devices - 1 : -1]], axis=1).reshape(-1)


@register
@dataclass(frozen=True)
class Ring:
    """`Blockwise` over the devices of a mesh axis: `over_sequence(Ring(Causal()), make_mesh("sequence=8"))`."""

    rule: Any
    bias: Any = None
    axis: str = field(default="sequence", metadata={"static": True})
    t_block: int = field(default=128, metadata={"static": True})
    s_block: int = field(default=128, metadata={"static": True})

    def __call__(self, q, k, v, query, key):
        """Attention of this device's queries to the keys of all, `(g, r, t, v)`."""
        how = {"axis": self.axis, "t_block": self.t_block, "s_block": self.s_block}
        return ring_attention(q, k, v, query, key, self.rule, self.bias, **how)[0]


@register
@dataclass(frozen=True)
class Ulysses:
    """Any attention over the devices of a mesh axis, by heads: `over_sequence(Ulysses(Blockwise(Causal())), mesh)`."""

    attend: Any
    axis: str = field(default="sequence", metadata={"static": True})

    def __call__(self, q, k, v, query, key):
        """Attention of this device's queries to the keys of all, `(g, r, t, v)`."""
        return ulysses_attention(q, k, v, query, key, self.attend, axis=self.axis)


@register
@dataclass(frozen=True)
class OwnHeads:
    """Of a bias for all heads, those that `Ulysses` dealt to this device: `Dense(Causal(), OwnHeads(Alibi.of(8)))`."""

    bias: Any
    axis: str = field(default="sequence", metadata={"static": True})

    def __call__(self, query: Tokens, key: Tokens) -> Float[Array, "g r t s"]:
        """The r-th of R equal parts, along g."""
        bias = self.bias(query, key)
        size = bias.shape[0] // jax.lax.axis_size(self.axis)
        return jax.lax.dynamic_slice_in_dim(bias, size * jax.lax.axis_index(self.axis), size)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(how, q, k, v, query, key, rule, bias):
    (axis, *blocks), wide = how, jnp.promote_types(q.dtype, jnp.float32)

    def visit(carry, _):
        o, lse, visitor = carry
        k, v, key = visitor
        here = blockwise_attention(q, k, v, query, key, rule, bias, **_named(blocks))
        return (*merge(o, lse, *here), _pass_on(visitor, axis)), None

    nothing = jnp.zeros((*q.shape[:3], v.shape[2]), wide), jnp.full(q.shape[:3], -jnp.inf, wide)
    (o, lse, _), _ = jax.lax.scan(visit, (*nothing, (k, v, key)), length=jax.lax.axis_size(axis))
    return o.astype(v.dtype), lse


def _ring_forward(how, q, k, v, query, key, rule, bias):
    o, lse = _ring(how, q, k, v, query, key, rule, bias)
    return (o, lse), (q, k, v, query, key, rule, bias, o, lse)


def _ring_backward(how, saved, d_out):
    """The second round. With o and lse of all keys, every visitor's share of the gradient is its own."""
    (axis, *blocks), (q, k, v, query, key, rule, bias, o, lse) = how, saved

    def visit(carry, _):
        d_mine, visitor, d_visitor = carry
        k, v, key = visitor
        d_q, d_k, d_v, d_bias = blockwise_gradients(q, k, v, query, key, rule, bias, o, lse, *d_out, **_named(blocks))
        d_mine, d_visitor = jax.tree.map(jnp.add, (d_mine, d_visitor), ((d_q, d_bias), (d_k, d_v)))
        return (d_mine, *_pass_on((visitor, d_visitor), axis)), None

    d_mine, d_visitor = jax.tree.map(_wide_zeros, ((q, bias), (k, v)))
    carry, _ = jax.lax.scan(visit, (d_mine, (k, v, key), d_visitor), length=jax.lax.axis_size(axis))
    (d_q, d_bias), _, (d_k, d_v) = carry
    d_q, d_k, d_v, d_bias = jax.tree.map(lambda d, x: d.astype(x.dtype), (d_q, d_k, d_v, d_bias), (q, k, v, bias))
    return d_q, d_k, d_v, None, None, None, d_bias


_ring.defvjp(_ring_forward, _ring_backward)


def _pass_on(tree, axis):
    """To the next device, from the one before."""
    devices = jax.lax.axis_size(axis)
    neighbours = [(r, (r + 1) % devices) for r in range(devices)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, neighbours), tree)


def _named(blocks):
    return dict(zip(("t_block", "s_block"), blocks, strict=True))


def _wide_zeros(x):
    return jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))
