"""How attention is called that is not minilm's own: `call(rule, bias, q, k, v, query, key)`, one sequence, heads first.

What is looked at of rule, bias and tokens is what `limits` lets each take.
"""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from minilm.backends.limits import ALL, WINDOW, index_rule
from minilm.layers.attention.masks import Causal
from minilm.reference.attention import core as reference


def by_hand(rule, bias, q, k, v, query, key):
    """The reference, called back from the compiled program, and its own gradient."""
    return _in_numpy(q, k, v, _mask(rule, query, key), 0.0 if bias is None else bias(query, key))


@jax.custom_vjp
def _in_numpy(*arrays):
    return _in_numpy_forward(*arrays)[0]


def _in_numpy_forward(*arrays):
    def on_host(*arrays):
        return reference.dot_product_attention(*arrays)[0]

    q, _, v, *_ = arrays
    return _called_back(on_host, jax.ShapeDtypeStruct((*q.shape[:3], v.shape[2]), v.dtype), *arrays), arrays


def _in_numpy_backward(arrays, d_o):
    def on_host(d_o, *arrays):
        d_q, d_k, d_v, _, d_bias = reference.dot_product_attention_backward(
            reference.dot_product_attention(*arrays)[1], d_o
        )
        return d_q, d_k, d_v, np.asarray(d_bias)

    q, k, v, _, bias = arrays
    like = tuple(jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in (q, k, v, bias))
    d_q, d_k, d_v, d_bias = _called_back(on_host, like, d_o, *arrays)
    return d_q, d_k, d_v, None, d_bias


_in_numpy.defvjp(_in_numpy_forward, _in_numpy_backward)


def _called_back(on_host, like, *arrays):
    """What a function of NumPy's float64 arrays gives, in the shapes and dtypes of `like`."""

    def rounded(*arrays):
        out = on_host(*(np.asarray(x) if x.dtype == bool else np.asarray(x, np.float64) for x in arrays))
        return jax.tree.map(lambda x, like: np.asarray(x, like.dtype), out, like)

    return jax.pure_callback(rounded, like, *arrays, vmap_method="sequential")


def xla(rule, bias, q, k, v, query, key):
    """`jax.nn.dot_product_attention` under the rule's mask; where that is empty, 0 and not the mean of all values."""
    mask = _mask(rule, query, key)
    b = None if bias is None else bias(query, key).reshape(-1, *mask.shape)[None].astype(q.dtype)
    q_last, k, v = _heads_last(q, k, v)
    o = jax.nn.dot_product_attention(q_last, k, v, b, mask[None, None], implementation="xla")
    return jnp.where(mask.any(1)[:, None], _heads_first(o, q), 0)


def by_index(rule, bias, q, k, v, query, key, implementation: Literal["xla", "cudnn"] = "cudnn"):
    """`jax.nn.dot_product_attention` under its own names for the rule, by cuDNN unless told otherwise."""
    window = (_width(rule) - 1, 0) if index_rule(rule) == WINDOW else None
    attention = partial(jax.nn.dot_product_attention, is_causal=index_rule(rule) != ALL, local_window_size=window)
    return _heads_first(attention(*_heads_last(q, k, v), implementation=implementation), q)


def triton(rule, bias, q, k, v, query, key, interpret: bool = False):
    """JAX's `mha` for GPUs."""
    from jax.experimental.pallas.ops.gpu.attention import mha

    q_last, k, v = (x[None] for x in _heads_last(q, k, v))
    scale, causal = 1 / math.sqrt(q.shape[3]), index_rule(rule) != ALL
    o = mha(q_last, k, v, None, sm_scale=scale, causal=causal, interpret=interpret)
    return _heads_first(jnp.asarray(o)[0], q)


def flash(rule, bias, q, k, v, query, key):
    """JAX's `flash_attention` for TPUs."""
    from jax.experimental.pallas.ops.tpu.flash_attention import flash_attention

    scale = 1 / math.sqrt(q.shape[3])
    return flash_attention(q[:, 0][None], k[None], v[None], causal=index_rule(rule) != ALL, sm_scale=scale)[0][:, None]


def splash(rule, bias, q, k, v, query, key, interpret: bool = False):
    """JAX's `splash_attention` for TPUs, which leaves the scale to its caller."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    (g, r, t, _), s = q.shape, k.shape[1]
    which = index_rule(rule)
    one = masks.FullMask((t, s)) if which == ALL else masks.CausalMask((t, s))
    one = masks.LocalMask((t, s), (_width(rule) - 1, 0), 0) if which == WINDOW else one
    attend = kernel.make_splash_mha(
        masks.MultiHeadMask(g * r * [one]), head_shards=1, q_seq_shards=1, interpret=interpret
    )
    return attend((q / math.sqrt(q.shape[3])).astype(q.dtype).reshape(g * r, t, -1), k, v).reshape(g, r, t, -1)


def _mask(rule, query, key):
    return rule(query, key) & (key.position >= 0)


def _width(rule):
    """Of a causal window."""
    return (rule.right if isinstance(rule.left, Causal) else rule.left).width


def _heads_last(q, k, v):
    return jnp.moveaxis(q.reshape(-1, *q.shape[2:]), 0, 1), jnp.moveaxis(k, 0, 1), jnp.moveaxis(v, 0, 1)


def _heads_first(o, q):
    return jnp.moveaxis(o, 0, 1).reshape(*q.shape[:3], -1)
