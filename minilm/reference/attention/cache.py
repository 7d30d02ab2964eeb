"""The cache, one token at a time."""

import numpy as np


def append(cache, k, v, tokens):
    """Each token that is no padding replaces what stood in slot position mod size."""
    new_k, new_v = np.array(cache.k, float), np.array(cache.v, float)
    position, document = np.array(cache.tokens.position), np.array(cache.tokens.document)
    written = {}
    for t, p in enumerate(map(int, tokens.position)):
        if p >= 0:
            slot = p - p // len(position) * len(position)
            new_k[:, slot], new_v[:, slot] = k[:, t], v[:, t]
            position[slot], document[slot] = p, tokens.document[t]
            written[t] = slot
    return type(cache)(k=new_k, v=new_v, tokens=type(tokens)(position, document)), (k.shape, v.shape, written)


def append_backward(saved, d_cache):
    """Gradients with respect to (cache, k, v, tokens).

    A slot holds the new token, or else the old one: its gradient goes to whichever it holds.
    """
    k_shape, v_shape, written = saved
    d_old_k, d_old_v = np.array(d_cache.k), np.array(d_cache.v)
    d_k, d_v = np.zeros(k_shape), np.zeros(v_shape)
    for t, slot in written.items():
        d_k[:, t], d_v[:, t] = d_cache.k[:, slot], d_cache.v[:, slot]
        d_old_k[:, slot] = d_old_v[:, slot] = 0
    return type(d_cache)(k=d_old_k, v=d_old_v, tokens=d_cache.tokens), d_k, d_v, None
