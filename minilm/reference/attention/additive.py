"""Bahdanau's attention, pair by pair; masked keys are skipped."""

import math

import numpy as np


def additive_scores(params, q, k):
    """a[t, s] = sum_j v[j] tanh(sum_i q[t, i] w_q[i, j] + sum_i k[s, i] w_k[i, j])."""
    width = len(params.v)
    hidden, a = np.zeros((len(q), len(k), width)), np.zeros((len(q), len(k)))
    for t, s in np.ndindex(a.shape):
        for j in range(width):
            from_query = sum(q[t, i] * params.w_q[i, j] for i in range(q.shape[1]))
            from_key = sum(k[s, i] * params.w_k[i, j] for i in range(k.shape[1]))
            hidden[t, s, j] = math.tanh(from_query + from_key)
            a[t, s] += params.v[j] * hidden[t, s, j]
    return a, (params, q, k, hidden)


def additive_scores_backward(saved, d_a):
    """Gradients with respect to (params, q, k).

    a = sum_j v[j] u[j]           gives  d_v[j] = d_a u[j],  d_u[j] = d_a v[j]
    u = tanh(b)                   gives  d_b = d_u (1 - u^2)
    b[j] = q w_q + k w_k          gives  d_w_q[i, j] = q[i] d_b[j],  d_q[i] = sum_j w_q[i, j] d_b[j];  k likewise,
    each added over the pairs (t, s) in which it takes part.
    """
    params, q, k, hidden = saved
    d_w_q, d_w_k, d_v = (np.zeros(p.shape) for p in (params.w_q, params.w_k, params.v))
    d_q, d_k = np.zeros(q.shape), np.zeros(k.shape)
    for t, s in np.ndindex(d_a.shape):
        u = hidden[t, s]
        d_v += d_a[t, s] * u
        d_b = d_a[t, s] * params.v * (1 - u**2)
        d_w_q += np.outer(q[t], d_b)
        d_w_k += np.outer(k[s], d_b)
        d_q[t] += params.w_q @ d_b
        d_k[s] += params.w_k @ d_b
    return type(params)(w_q=d_w_q, w_k=d_w_k, v=d_v), d_q, d_k


def projected_additive_scores(v, q, k):
    """a[t, s] = sum_j v[j] tanh(q[t, j] + k[s, j])."""
    hidden, a = np.zeros((len(q), len(k), len(v))), np.zeros((len(q), len(k)))
    for t, s, j in np.ndindex(hidden.shape):
        hidden[t, s, j] = math.tanh(q[t, j] + k[s, j])
        a[t, s] += v[j] * hidden[t, s, j]
    return a, (v, hidden)


def projected_additive_scores_backward(saved, d_a):
    """Gradients with respect to (v, q, k).

    a = sum_j v[j] u[j]   gives  d_v[j] = sum_ts d_a u[j],  d_u[j] = d_a v[j]
    u = tanh(q + k)       gives  d_q[t] = sum_s d_u (1 - u^2),  d_k[s] = sum_t d_u (1 - u^2).
    """
    v, hidden = saved
    d_v, d_q, d_k = (np.zeros(shape) for shape in (v.shape, hidden[:, 0].shape, hidden[0].shape))
    for t, s in np.ndindex(d_a.shape):
        u = hidden[t, s]
        d_v += d_a[t, s] * u
        d_b = d_a[t, s] * v * (1 - u**2)
        d_q[t] += d_b
        d_k[s] += d_b
    return d_v, d_q, d_k


def additive_attention(params, q, k, v, mask=True):
    """Each query by itself: the exponentials of its allowed scores, divided by their sum, weigh the allowed values."""
    a, saved = additive_scores(params, q, k)
    allowed = np.broadcast_to(mask, a.shape)
    weights, o = np.zeros(a.shape), np.zeros((len(q), v.shape[1]))
    for t in range(len(q)):
        seen = [s for s in range(len(k)) if allowed[t, s]]
        largest = max((a[t, s] for s in seen), default=0.0)
        total = sum(math.exp(a[t, s] - largest) for s in seen)
        for s in seen:
            weights[t, s] = math.exp(a[t, s] - largest) / total
            o[t] += weights[t, s] * v[s]
    return o, (saved, weights, v)


def additive_attention_backward(saved, d_o):
    """Gradients with respect to (params, q, k, v, mask).

    o = sum_s w[s] v[s]   gives  d_w[s] = d_o . v[s],  d_v[s] = sum_t w[t, s] d_o[t]
    w = softmax(a)        gives  d_a[s] = w[s] (d_w[s] - sum_u w[u] d_w[u]), zero where masked since w is;
    the scores then pass d_a on.
    """
    saved, weights, v = saved
    d_a, d_v = np.zeros(weights.shape), np.zeros(v.shape)
    for t in range(len(weights)):
        d_w = np.array([np.dot(d_o[t], v[s]) for s in range(len(v))])
        d_a[t] = weights[t] * (d_w - np.dot(weights[t], d_w))
        for s in range(len(v)):
            d_v[s] += weights[t, s] * d_o[t]
    return *additive_scores_backward(saved, d_a), d_v, None
