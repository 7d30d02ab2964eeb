"""Gated attention: each head's output times a gate that the query's own token opens and closes."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.initializers import normal
from minilm.layers.activation import sigmoid
from minilm.layers.attention.cache import append_and_attend, init_cache
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Causal
from minilm.layers.attention.multi_head import MultiHeadParams, init_multi_head, merge, project
from minilm.layers.linear import matmul
from minilm.shapes import Mixer, Tokens


class OutputGateParams(NamedTuple):
    """From a token to a gate for every entry of every head's output; `b_gate=None` where there is no bias."""

    w_gate: Float[Array, "d g r v"]
    b_gate: Float[Array, "g r v"] | None


class GatedParams(NamedTuple):
    """Heads, and the gate of what they bring."""

    multi_head: MultiHeadParams
    gate: OutputGateParams


def init_output_gate(key, d: int, *, g: int, r: int, v: int, bias: bool = True, dtype=jnp.float32) -> OutputGateParams:
    """Weights N(0, 1/d), bias zero: of a gate of unit variance before its sigmoid the mean is one half."""
    b_gate = jnp.zeros((g, r, v), dtype) if bias else None
    return OutputGateParams(w_gate=normal(key, (d, g, r, v), fan_in=d, dtype=dtype), b_gate=b_gate)


def init_gated(key, d: int, *, g: int, r: int, k: int, v: int, bias: bool = True, dtype=jnp.float32) -> GatedParams:
    """Heads as `init_multi_head`'s, the gate as `init_output_gate`'s."""
    heads_key, gate_key = jax.random.split(key)
    heads = init_multi_head(heads_key, d, g=g, r=r, k=k, v=v, bias=bias, dtype=dtype)
    return GatedParams(heads, init_output_gate(gate_key, d, g=g, r=r, v=v, bias=bias, dtype=dtype))


@jax.jit
def gated_output(
    params: OutputGateParams, x: Float[Array, "... t d"], o: Float[Array, "... g r t v"]
) -> Float[Array, "... g r t v"]:
    r"""What attention has found, let through as far as the token that asked for it wants it.

    $$ y = o \odot \sigma(x W_g + b_g) $$

    It stands between attention and `merge`, a gate for every head and entry. A softmax has to give its weight to
    something; behind a gate, a head can give nothing. The gate depends on the query's token x, not on what was found.
    With zero weights and biases half of o passes, and with a large bias o itself: ungated attention. The paper has no
    bias, which is `b_gate=None`.

    Args:
      params: W `(d, g, r, v)`, b `(g, r, v)` or None.
      x: the input of the attention layer, `(..., t, d)`.
      o: the output of its heads, `(..., g, r, t, v)`.
    Returns:
      `(..., g, r, t, v)`, in o's dtype.

    Reference: `minilm.reference.attention.gated.gated_output`. Paper: arXiv:2505.06708 (its position G1).

    >>> params = OutputGateParams(w_gate=jnp.zeros((2, 1, 1, 3)), b_gate=jnp.array([[[-1e4, 0.0, 1e4]]]))
    >>> gated_output(params, jnp.ones((1, 2)), 6 * jnp.ones((1, 1, 1, 3))).tolist()
    [[[[0.0, 3.0, 6.0]]]]
    """
    a = matmul(x, params.w_gate.reshape(x.shape[-1], -1)).reshape(*x.shape[:-1], *params.w_gate.shape[1:])
    a = a if params.b_gate is None else a + params.b_gate.astype(a.dtype)
    return (o * jnp.moveaxis(sigmoid(a), -4, -2)).astype(o.dtype)


def gated_mixer(
    attend: Callable = Dense(Causal()),  # noqa: B008 (it holds nothing that could change)
    *,
    g: int,
    r: int,
    k: int,
    v: int,
    bias: bool = True,
) -> Mixer:
    """Multi-head attention with a gated output: `gated_mixer(g=2, r=4, k=16, v=16)`.

    Args:
      attend: as `multi_head`'s.
      g, r, k, v: key/value heads, query heads of each, and the widths of a key and of a value.
      bias: whether the projections and the gate have one.
    Returns:
      a `Mixer` of `GatedParams`, whose state is a `KVCache`.
    """

    def merged(params, x, o):
        return merge(params.multi_head, gated_output(params.gate, x, o.astype(x.dtype)))

    def to_itself(q, k, v, position, document):
        tokens = Tokens(position, document)
        return attend(q, k, v, tokens, tokens)

    def apply(params, x, tokens):
        attend_each = jnp.vectorize(to_itself, signature="(g,r,t,k),(g,t,k),(g,t,v),(t),(t)->(g,r,t,v)")
        return merged(params, x, attend_each(*project(params.multi_head, x, x), *tokens))

    def step(params, cache, x, tokens):
        q, k, v = project(params.multi_head, x, x)
        cache, o = append_and_attend(cache, q, k, v, tokens, attend)
        return cache, merged(params, x, o)

    return Mixer(
        init=partial(init_gated, g=g, r=r, k=k, v=v, bias=bias),
        apply=apply,
        init_state=lambda params, size, dtype=None: init_cache(params.multi_head, size, dtype),
        step=step,
    )
