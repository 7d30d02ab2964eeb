"""Position biases, one pair of tokens at a time."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


def alibi(slopes, query, key):
    """b[g, r, t, s] = -slopes[g, r] |p_t - p_s|."""
    b = np.zeros((*slopes.shape, len(query.position), len(key.position)))
    for g, r, t, s in np.ndindex(b.shape):
        b[g, r, t, s] = -slopes[g, r] * abs(int(query.position[t]) - int(key.position[s]))
    return b, (slopes, query, key)


def alibi_backward(saved, d_b):
    """Gradients with respect to (slopes, query, key).

    b = -m |p_t - p_s|   gives  d_m = -sum over pairs of d_b |p_t - p_s|.
    """
    slopes, query, key = saved
    d_slopes = np.zeros(slopes.shape)
    for g, r, t, s in np.ndindex(d_b.shape):
        d_slopes[g, r] -= d_b[g, r, t, s] * abs(int(query.position[t]) - int(key.position[s]))
    return d_slopes, None, None


def alibi_slopes(n_heads):
    """2^(-8 (h + 1) / c) for the first c heads, c being the power of two below, then 2^(-4 (2 i + 1) / c)."""
    c = 1
    while 2 * c <= n_heads:
        c *= 2
    return [2.0 ** (-8 * (h + 1) / c) if h < c else 2.0 ** (-4 * (2 * (h - c) + 1) / c) for h in range(n_heads)]


def t5_relative(table, query, key, *, bidirectional=True, max_distance=128):
    """b[g, r, t, s] = table[bucket(p_s - p_t), g, r]."""
    distance = np.array([[int(s) - int(t) for s in key.position] for t in query.position])
    buckets, _ = t5_bucket(distance, n_buckets=len(table), bidirectional=bidirectional, max_distance=max_distance)
    b = np.zeros((*table.shape[1:], *buckets.shape))
    for g, r, t, s in np.ndindex(b.shape):
        b[g, r, t, s] = table[buckets[t, s], g, r]
    return b, (table, buckets)


def t5_relative_backward(saved, d_b):
    """Gradients with respect to (table, query, key).

    b[t, s] = table[bucket]   gives  d_table[bucket] = the sum of d_b over all pairs in that bucket.
    """
    table, buckets = saved
    d_table = np.zeros(table.shape)
    for g, r, t, s in np.ndindex(d_b.shape):
        d_table[buckets[t, s], g, r] += d_b[g, r, t, s]
    return d_table, None, None


def t5_bucket(distance, *, n_buckets=32, bidirectional=True, max_distance=128):
    """The paper's formula with its logarithm; the small addition undoes a rounding down at an exact boundary."""
    bucket = np.zeros(distance.shape, distance.dtype)
    half = n_buckets // 2 if bidirectional else n_buckets
    exact = half // 2
    for index in np.ndindex(distance.shape):
        d = int(distance[index])
        n, first = (abs(d), half * (d > 0)) if bidirectional else (max(-d, 0), 0)
        if n >= exact:
            logarithm = math.log(n / exact) / math.log(max_distance / exact)
            n = min(half - 1, exact + math.floor(logarithm * (half - exact) + 1e-9))
        bucket[index] = first + n
    return bucket, None


@dataclass(frozen=True)
class Alibi:
    """ALiBi as an attend takes it."""

    slopes: Any

    def __call__(self, query, key):
        """(bias, saved)."""
        return alibi(self.slopes, query, key)

    def backward(self, saved, d_b):
        """The gradient with respect to the bias itself, that is, to its slopes."""
        return Alibi(alibi_backward(saved, d_b)[0])


@dataclass(frozen=True)
class T5Relative:
    """T5's table as an attend takes it."""

    table: Any
    bidirectional: bool = True
    max_distance: int = 128

    def __call__(self, query, key):
        """(bias, saved)."""
        return t5_relative(self.table, query, key, bidirectional=self.bidirectional, max_distance=self.max_distance)

    def backward(self, saved, d_b):
        """The gradient with respect to the bias itself, that is, to its table."""
        return T5Relative(t5_relative_backward(saved, d_b)[0], self.bidirectional, self.max_distance)
