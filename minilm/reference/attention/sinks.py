"""Attention with a sink, row by row; masked keys are skipped, and the sink never is."""

import math

import numpy as np

from minilm.reference.attention.core import _unbroadcast, mix, mix_backward, scores, scores_backward


def sink_attention(sink, q, k, v, mask=True, bias=0.0):
    """w[s] = exp(a[s]) / (exp(sink) + sum over the allowed of exp(a)); the rest of a row's weight is the sink's."""
    a, _ = scores(q, k)
    allowed = np.broadcast_to(mask, a.shape)
    a = a + bias
    weights, rest = np.zeros(a.shape), np.ones(a.shape[:3])
    for row in np.ndindex(a.shape[:3]):
        seen = [s for s in range(a.shape[3]) if allowed[row][s]]
        if seen:
            b = sink[row[:2]]
            largest = max(b, *(a[row][s] for s in seen))
            total = math.exp(b - largest) + sum(math.exp(a[row][s] - largest) for s in seen)
            rest[row] = math.exp(b - largest) / total
            for s in seen:
                weights[row][s] = math.exp(a[row][s] - largest) / total
    o, _ = mix(weights, v)
    return o, (sink, q, k, v, weights, rest, bias)


def sink_attention_backward(saved, d_o):
    """Gradients with respect to (sink, q, k, v, mask, bias).

    o = w v                                    gives  d_w and d_v as in `mix`
    w[s] = e^a[s] / z,  z = e^b + sum e^a      has    dw[s]/da[u] = w[s] ((s == u) - w[u]),  dw[s]/db = -w[s] e^b / z,
                                               hence  d_a[s] = w[s] (d_w[s] - sum_u w[u] d_w[u])
                                               and    d_b = -(e^b / z) sum_u w[u] d_w[u], added over a head's queries
    a = q k / sqrt + bias                      gives  d_q and d_k as in `scores`, d_bias = d_a
    """
    sink, q, k, v, weights, rest, bias = saved
    d_weights, d_v = mix_backward((weights, v), d_o)
    d_a, d_sink = np.zeros(weights.shape), np.zeros(sink.shape)
    for row in np.ndindex(weights.shape[:3]):
        mean = np.dot(weights[row], d_weights[row])
        d_a[row] = weights[row] * (d_weights[row] - mean)
        d_sink[row[:2]] -= rest[row] * mean
    d_q, d_k = scores_backward((q, k), d_a)
    return d_sink, d_q, d_k, d_v, None, _unbroadcast(d_a, np.shape(bias))
