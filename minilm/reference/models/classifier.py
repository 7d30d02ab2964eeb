"""A classifier by hand, on any encoder by hand: forward, and backward without automatic differentiation.

Parameters are the NamedTuples of `minilm.models.classifier`, whose fields hold NumPy arrays here; gradients come in the
same structure. `pool` is a name in `POOLS`; where the parameters hold a pooling of their own, it is not asked for.
"""

from typing import Any

import numpy as np

from minilm.reference.linear import linear, linear_backward
from minilm.reference.losses import Metrics, cross_entropy, cross_entropy_backward
from minilm.reference.models import encoders
from minilm.reference.pooling import (
    attention_pool,
    attention_pool_backward,
    last_pool,
    last_pool_backward,
    max_pool,
    max_pool_backward,
    mean_pool,
    mean_pool_backward,
)

POOLS = {
    "mean": (mean_pool, mean_pool_backward),
    "max": (max_pool, max_pool_backward),
    "last": (last_pool, last_pool_backward),
}


def apply(params, tokens, length, pool: Any = None, cell: Any = None):
    """h = encode(tokens);  y = pool(h[:n]) for each text of n places;  logits = y W + b.  Returns (logits, saved)."""
    h, saved_h = encoders.apply(params.encoder, tokens, length, cell)
    y, saved_pools = np.zeros((*length.shape, h.shape[-1])), {}
    for text in np.ndindex(length.shape):
        counts: Any = np.array([t < length[text] for t in range(h.shape[-2])])
        if params.pool is None:
            y[text], saved_pools[text] = POOLS[pool][0](h[text], counts)
        else:
            y[text], saved_pools[text] = attention_pool(params.pool, h[text], counts)
    logits, saved_l = linear(params.output, y)
    return logits, (params, pool, saved_h, h.shape, saved_pools, saved_l)


def apply_backward(saved, d_logits):
    """The gradient with respect to params (tokens and lengths are integers): the lines of `apply` upwards.

    logits = y W + b    gives  d_W, d_b and d_y;
    y = pool(h)         gives  d_h of each text, and the sum over the texts of what each asks of the pooling's own;
    h = encode(tokens)  gives  the encoder's.
    """
    params, pool, saved_h, shape, saved_pools, saved_l = saved
    d_output, d_y = linear_backward(saved_l, d_logits)
    d_h, d_pools = np.zeros(shape), []
    for text, saved_pool in saved_pools.items():
        if params.pool is None:
            d_h[text], _ = POOLS[pool][1](saved_pool, d_y[text])
        else:
            d_pool, d_h[text], _ = attention_pool_backward(saved_pool, d_y[text])
            d_pools.append(d_pool)
    d_pool = type(params.pool)(*map(sum, zip(*d_pools, strict=True))) if d_pools else None
    return type(params)(encoder=encoders.apply_backward(saved_h, d_h), pool=d_pool, output=d_output)


def loss(params, batch, pool: Any = None, cell: Any = None):
    """The mean cross-entropy of the batch: ((loss, metrics), saved)."""
    logits, saved_logits = apply(params, batch.tokens, batch.length, pool, cell)
    out, saved_loss = cross_entropy(logits, batch.labels, batch.weights)
    return out, (saved_logits, saved_loss)


def loss_backward(saved, d_loss=1.0):
    """The gradient of every parameter, in the structure of the parameters."""
    saved_logits, saved_loss = saved
    d_logits, _, _ = cross_entropy_backward(saved_loss, (d_loss, Metrics(0.0, 0.0, 0.0)))
    return apply_backward(saved_logits, d_logits)
