"""Attention, number by number; masked keys are skipped, never given a large negative score."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


def scores(q, k):
    """a[g, r, t, s] = sum_i q[g, r, t, i] k[g, s, i] / sqrt(width)."""
    a = np.zeros((*q.shape[:3], k.shape[1]))
    for g, r, t, s in np.ndindex(a.shape):
        a[g, r, t, s] = sum(q[g, r, t, i] * k[g, s, i] for i in range(q.shape[3])) / math.sqrt(q.shape[3])
    return a, (q, k)


def scores_backward(saved, d_a):
    """Gradients with respect to (q, k).

    a[t, s] = sum_i q[t, i] k[s, i] / sqrt(width)   gives  d_q[t, i] = sum_s d_a[t, s] k[s, i] / sqrt(width),
    and d_k[s, i] = sum_t d_a[t, s] q[t, i] / sqrt(width), added over the r queries that share a key.
    """
    q, k = saved
    d_q, d_k = np.zeros(q.shape), np.zeros(k.shape)
    for g, r, t, s in np.ndindex(d_a.shape):
        d_q[g, r, t] += d_a[g, r, t, s] * k[g, s] / math.sqrt(q.shape[3])
        d_k[g, s] += d_a[g, r, t, s] * q[g, r, t] / math.sqrt(q.shape[3])
    return d_q, d_k


def mix(weights, v):
    """o[g, r, t, j] = sum_s weights[g, r, t, s] v[g, s, j]."""
    o = np.zeros((*weights.shape[:3], v.shape[2]))
    for g, r, t, j in np.ndindex(o.shape):
        o[g, r, t, j] = sum(weights[g, r, t, s] * v[g, s, j] for s in range(v.shape[1]))
    return o, (weights, v)


def mix_backward(saved, d_o):
    """Gradients with respect to (weights, v).

    o[t, j] = sum_s w[t, s] v[s, j]   gives  d_w[t, s] = sum_j d_o[t, j] v[s, j],  d_v[s, j] = sum_t w[t, s] d_o[t, j].
    """
    weights, v = saved
    d_weights, d_v = np.zeros(weights.shape), np.zeros(v.shape)
    for g, r, t, s in np.ndindex(weights.shape):
        d_weights[g, r, t, s] = np.dot(d_o[g, r, t], v[g, s])
        d_v[g, s] += weights[g, r, t, s] * d_o[g, r, t]
    return d_weights, d_v


def dot_product_attention(q, k, v, mask=True, bias=0.0):
    """Each query by itself: the exponentials of its allowed scores, divided by their sum, weigh the allowed values."""
    a, _ = scores(q, k)
    allowed = np.broadcast_to(mask, a.shape)
    a = a + bias
    weights = np.zeros(a.shape)
    for row in np.ndindex(a.shape[:3]):
        seen = [s for s in range(a.shape[3]) if allowed[row][s]]
        largest = max((a[row][s] for s in seen), default=0.0)
        exponentials = {s: math.exp(a[row][s] - largest) for s in seen}
        for s in seen:
            weights[row][s] = exponentials[s] / sum(exponentials.values())
    o, _ = mix(weights, v)
    return o, (q, k, v, weights, bias)


def dot_product_attention_backward(saved, d_o):
    """Gradients with respect to (q, k, v, mask, bias).

    o = w v              gives  d_w and d_v as in `mix`
    w = softmax(a)       gives  d_a[s] = w[s] (d_w[s] - sum_u w[u] d_w[u]), zero where masked since w is
    a = q k / sqrt + b   gives  d_q and d_k as in `scores`, d_b = d_a, summed over the axes that b was broadcast along
    """
    q, k, v, weights, bias = saved
    d_weights, d_v = mix_backward((weights, v), d_o)
    d_a = np.zeros(weights.shape)
    for row in np.ndindex(weights.shape[:3]):
        d_a[row] = weights[row] * (d_weights[row] - np.dot(weights[row], d_weights[row]))
    d_q, d_k = scores_backward((q, k), d_a)
    return d_q, d_k, d_v, None, _unbroadcast(d_a, np.shape(bias))


@dataclass(frozen=True)
class Dense:
    """The rule asks pair by pair, and an empty slot (position -1) is seen by none."""

    rule: Any
    bias: Any = None

    def __call__(self, q, k, v, query, key):
        """One sequence: (o, saved)."""
        mask = self.rule(query, key) & (np.asarray(key.position) >= 0)
        bias = 0.0 if self.bias is None else self.bias(query, key)[0]
        return dot_product_attention(q, k, v, mask, bias)

    def backward(self, saved, d_o):
        """Gradients with respect to (q, k, v)."""
        return dot_product_attention_backward(saved, d_o)[:3]


@dataclass(frozen=True)
class DenseWithWeights(Dense):
    """The same, with its weights beside the output."""

    def __call__(self, q, k, v, query, key):
        """One sequence: ((o, weights), saved)."""
        o, saved = Dense.__call__(self, q, k, v, query, key)
        return (o, saved[3]), saved


class Prepared:
    """`prepare`, then the attention that it holds."""

    def __call__(self, q, k, v, query, key):
        """One sequence: (what `attend` gives, saved)."""
        (q, k), prepared = self.prepare(q, k, query, key)
        o, attended = self.attend(q, k, v, query, key)
        return o, (prepared, attended)

    def backward(self, saved, d_o):
        """Gradients with respect to (q, k, v): those of the attention, through `prepare`."""
        prepared, attended = saved
        d_q, d_k, d_v = self.attend.backward(attended, d_o)
        return (*self.prepare_backward(prepared, d_q, d_k), d_v)


def _unbroadcast(d, shape):
    d = d.sum(tuple(range(d.ndim - len(shape))))
    return d.sum(tuple(axis for axis, size in enumerate(shape) if size != d.shape[axis]), keepdims=True)
