"""Talking heads, pair by pair: what every head says goes to every head; masked pairs are skipped."""

import math

import numpy as np

from minilm.reference.attention.core import _unbroadcast, mix, mix_backward, scores, scores_backward


def talking_heads_attention(params, q, k, v, mask=True, bias=0.0):
    """m[h] = sum_j p[j, h] a[j] + bias,  u = softmax(m) over the allowed,  w[h] = sum_j q[j, h] u[j]."""
    a, _ = scores(q, k)
    heads = list(np.ndindex(a.shape[:2]))
    allowed, added = np.broadcast_to(mask, a.shape), np.broadcast_to(bias, a.shape)
    u, weights = np.zeros(a.shape), np.zeros(a.shape)
    for t in range(a.shape[2]):
        seen = {h: [s for s in range(a.shape[3]) if allowed[h][t, s]] for h in heads}
        for h in heads:
            m = {s: sum(params.w_scores[j + h] * a[j][t, s] for j in heads) + added[h][t, s] for s in seen[h]}
            largest = max(m.values(), default=0.0)
            total = sum(math.exp(one - largest) for one in m.values())
            for s in seen[h]:
                u[h][t, s] = math.exp(m[s] - largest) / total
        for h in heads:
            for s in seen[h]:
                weights[h][t, s] = sum(params.w_weights[j + h] * u[j][t, s] for j in heads)
    o, _ = mix(weights, v)
    return o, (params, q, k, v, a, u, weights, allowed, bias)


def talking_heads_attention_backward(saved, d_o):
    """Gradients with respect to (params, q, k, v, mask, bias).

    o = w v                              gives  d_w (only where h sees s) and d_v as in `mix`
    w[h] = sum_j w_weights[j, h] u[j]    gives  d_w_weights[j, h] = sum of u[j] d_w[h] over all pairs (t, s)
                                         and    d_u[j] = sum_h w_weights[j, h] d_w[h]
    u = softmax(m)                       gives  d_m[s] = u[s] (d_u[s] - sum_r u[r] d_u[r]), row by row
    m[h] = sum_j w_scores[j, h] a[j] + b gives  d_w_scores and d_a likewise,  d_b = d_m
    a = q k / sqrt                       gives  d_q and d_k as in `scores`
    """
    params, q, k, v, a, u, weights, allowed, bias = saved
    heads = list(np.ndindex(a.shape[:2]))
    d_weights, d_v = mix_backward((weights, v), d_o)
    d_w_scores, d_w_weights = np.zeros(params.w_scores.shape), np.zeros(params.w_weights.shape)
    d_u, d_m, d_a = np.zeros(a.shape), np.zeros(a.shape), np.zeros(a.shape)
    for h in heads:
        d_w = d_weights[h] * allowed[h]
        for j in heads:
            d_w_weights[j + h] = np.vdot(u[j], d_w)
            d_u[j] += params.w_weights[j + h] * d_w
    for row in np.ndindex(a.shape[:3]):
        d_m[row] = u[row] * (d_u[row] - np.dot(u[row], d_u[row]))
    for h in heads:
        for j in heads:
            d_w_scores[j + h] = np.vdot(a[j], d_m[h])
            d_a[j] += params.w_scores[j + h] * d_m[h]
    d_q, d_k = scores_backward((q, k), d_a)
    d_params = type(params)(w_scores=d_w_scores, w_weights=d_w_weights)
    return d_params, d_q, d_k, d_v, None, _unbroadcast(d_m, np.shape(bias))
