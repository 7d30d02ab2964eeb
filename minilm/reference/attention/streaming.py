"""Attention with sinks as its paper tells it: for each query a cache is laid out, and its places are counted."""

import cmath
import math

import numpy as np


def streaming_attention(q, k, v, query, key, *, sinks, window, theta=10000.0):
    """What the query at p finds in its cache, in order: the sinks, and the last tokens up to its own.

    The keys may stand in any order; of those that a query keeps none may be missing, for their number is their place.
    """
    o, rows = np.zeros((*q.shape[:3], v.shape[2])), []
    for t, p in enumerate(map(int, query.position)):
        held = sorted((int(j), s) for s, j in enumerate(key.position) if 0 <= j <= p)
        cache = [s for j, s in held if j < sinks or j > p - window]
        for g, r in np.ndindex(q.shape[:2]):
            turned = [_turned(k[g, s], place - (len(cache) - 1), theta) for place, s in enumerate(cache)]
            a = [np.dot(q[g, r, t], one) / math.sqrt(len(one)) for one in turned]
            exponentials = [math.exp(one - max(a)) for one in a]
            weights = [one / sum(exponentials) for one in exponentials]
            for weight, s in zip(weights, cache, strict=True):
                o[g, r, t] += weight * v[g, s]
            rows.append(((g, r, t), cache, turned, weights))
    return o, (q, k, v, rows, theta)


def streaming_attention_backward(saved, d_o):
    """Gradients with respect to (q, k, v, query, key).

    o = sum_s w[s] v[s]                       gives  d_v[s] = w[s] d_o,  d_w[s] = d_o . v[s]
    w = softmax(a)                            gives  d_a[s] = w[s] (d_w[s] - sum_u w[u] d_w[u])
    a[s] = q . R k[s] / sqrt(width),          gives  d_q = sum_s d_a[s] R k[s] / sqrt(width),
        R the turn from the query's place            d_k[s] = d_a[s] R^T q / sqrt(width), and R^T turns the other way,
                                                     added over the queries that keep the key.
    """
    q, k, v, rows, theta = saved
    d_q, d_k, d_v = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    for (g, r, t), cache, turned, weights in rows:
        d_weights = [np.dot(d_o[g, r, t], v[g, s]) for s in cache]
        mean = np.dot(weights, d_weights)
        for place, s in enumerate(cache):
            d_a = weights[place] * (d_weights[place] - mean) / math.sqrt(q.shape[3])
            d_v[g, s] += weights[place] * d_o[g, r, t]
            d_q[g, r, t] += d_a * turned[place]
            d_k[g, s] += d_a * _turned(q[g, r, t], len(cache) - 1 - place, theta)
    return d_q, d_k, d_v, None, None


def streaming_append(cache, k, v, tokens, *, sinks):
    """One token after the other, each in the slot of a sink or in the next one of the ring behind them."""
    new_k, new_v = np.array(cache.k, float), np.array(cache.v, float)
    position, document = np.array(cache.tokens.position), np.array(cache.tokens.document)
    ring = range(sinks, len(position))
    holder = {}
    for p, t in sorted((int(p), t) for t, p in enumerate(tokens.position) if p >= 0):
        slot = p if p < sinks else ring[(p - sinks) % len(ring)]
        holder[slot] = t
        new_k[:, slot], new_v[:, slot] = k[:, t], v[:, t]
        position[slot], document[slot] = p, tokens.document[t]
    return type(cache)(k=new_k, v=new_v, tokens=type(tokens)(position, document)), (k.shape, v.shape, holder)


def streaming_append_backward(saved, d_cache):
    """Gradients with respect to (cache, k, v, tokens).

    A slot holds the last token that was written to it, or else what it held: its gradient goes to whichever it holds.
    """
    k_shape, v_shape, holder = saved
    d_old_k, d_old_v = np.array(d_cache.k), np.array(d_cache.v)
    d_k, d_v = np.zeros(k_shape), np.zeros(v_shape)
    for slot, t in holder.items():
        d_k[:, t], d_v[:, t] = d_cache.k[:, slot], d_cache.v[:, slot]
        d_old_k[:, slot] = d_old_v[:, slot] = 0
    return type(d_cache)(k=d_old_k, v=d_old_v, tokens=d_cache.tokens), d_k, d_v, None


def _turned(x, steps, theta):
    half, y = len(x) // 2, np.zeros(len(x))
    for m in range(half):
        z = complex(x[m], x[m + half]) * cmath.exp(1j * steps * theta ** (-m / half))
        y[m], y[m + half] = z.real, z.imag
    return y
