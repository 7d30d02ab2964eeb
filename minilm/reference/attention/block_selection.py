"""Blocks chosen one query at a time, in Python's own order of numbers."""

from typing import Any

import numpy as np

from minilm.reference.attention.core import dot_product_attention, dot_product_attention_backward


def largest(x, *, n):
    """True for the entries that fewer than n others come before."""
    chosen = np.zeros(x.shape, bool)
    for row in np.ndindex(x.shape[:-1]):
        for j in sorted(range(x.shape[-1]), key=lambda j: (-x[row][j], j))[:n]:
            chosen[row][j] = True
    return chosen, None


def moba_mask(q, k, query, key, *, size, n) -> tuple[Any, None]:
    """A query's own block, up to itself, and the n complete ones whose mean key it meets with the largest product."""
    members = {}
    for s, p in enumerate(map(int, key.position)):
        if p >= 0:
            members.setdefault(p // size, []).append(s)
    mask = np.zeros((*q.shape[:3], k.shape[1]), bool)
    for g, r, t in np.ndindex(q.shape[:3]):
        p_t = int(query.position[t])
        products = {
            block: np.dot(q[g, r, t], sum(k[g, s] for s in slots) / len(slots))
            for block, slots in members.items()
            if block < p_t // size
        }
        best = sorted(products, key=lambda block: (-products[block], block))[:n]
        for block in (*best, p_t // size):
            for s in members.get(block, []):
                mask[g, r, t, s] = key.position[s] <= p_t
    return mask, None


def moba_attention(q, k, v, query, key, *, size, n):
    """Attention over the chosen keys."""
    mask, _ = moba_mask(q, k, query, key, size=size, n=n)
    return dot_product_attention(q, k, v, mask)


def moba_attention_backward(saved, d_o):
    """Gradients with respect to (q, k, v, query, key).

    The mask does not move while q and k move a little, so they are those of attention under that mask: a key that is
    not chosen has no weight and receives none, though its block's mean was scored.
    """
    d_q, d_k, d_v, _, _ = dot_product_attention_backward(saved, d_o)
    return d_q, d_k, d_v, None, None
