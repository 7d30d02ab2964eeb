"""Forgetting, token by token."""

import math

import numpy as np

from minilm.reference.activation import _logistic


def log_forget(params, x):
    """y[g, r, t] = -log(1 + exp(-a)),  a = sum_i x[t, i] w[i, g, r] + b[g, r]."""
    d, n_groups, n_queries = params.w_f.shape
    a = np.zeros((*x.shape[:-2], n_groups, n_queries, x.shape[-2]))
    y = np.zeros(a.shape)
    for index in np.ndindex(a.shape):
        *batch, g, r, t = index
        a[index] = sum(x[(*batch, t, i)] * params.w_f[i, g, r] for i in range(d)) + params.b_f[g, r]
        y[index] = min(a[index], 0.0) - math.log1p(math.exp(-abs(a[index])))
    return y, (params, x, a)


def log_forget_backward(saved, d_y):
    """Gradients with respect to (params, x).

    y = -log(1 + e^-a)     gives  d_a = d_y e^-a / (1 + e^-a) = d_y / (1 + e^a) = d_y sigma(-a)
    a = sum_i x w + b      gives  d_w[i] = x[i] d_a and d_b = d_a, added over all tokens,
                                  d_x[i] = w[i] d_a, added over all heads.
    """
    params, x, a = saved
    d_w, d_b, d_x = np.zeros(params.w_f.shape), np.zeros(params.b_f.shape), np.zeros(x.shape)
    for index in np.ndindex(a.shape):
        *batch, g, r, t = index
        d_a = d_y[index] * _logistic(-a[index])
        d_w[:, g, r] += x[(*batch, t)] * d_a
        d_b[g, r] += d_a
        d_x[(*batch, t)] += params.w_f[:, g, r] * d_a
    return type(params)(w_f=d_w, b_f=d_b), d_x


def forgetting_bias(log_forget, query, key):
    """B[t, s] is the sum of log_forget[l] over the tokens l up to t that stand behind s in its document."""
    n_groups, n_queries, n_tokens = log_forget.shape
    between = {
        (t, s): [l for l in range(t + 1) if _stands_behind(query, l, key, s)]
        for t, s in np.ndindex(n_tokens, len(key.position))
    }
    b = np.zeros((n_groups, n_queries, n_tokens, len(key.position)))
    for g, r, t, s in np.ndindex(b.shape):
        b[g, r, t, s] = math.fsum(log_forget[g, r, l] for l in between[t, s])
    return b, (log_forget.shape, between)


def forgetting_bias_backward(saved, d_b):
    """Gradients with respect to (log_forget, query, key).

    B[t, s] = sum of log_forget[l] over its l   gives  d_log_forget[l] = sum of d_B[t, s] over the pairs with this l.
    """
    shape, between = saved
    d_log_forget = np.zeros(shape)
    for (t, s), tokens in between.items():
        for l in tokens:
            d_log_forget[:, :, l] += d_b[:, :, t, s]
    return d_log_forget, None, None


def _stands_behind(query, l, key, s):
    return query.position[l] > key.position[s] >= 0 and query.document[l] == key.document[s]
