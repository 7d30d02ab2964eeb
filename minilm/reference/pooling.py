"""Pooling, number by number; positions that do not count are skipped."""

import math

import numpy as np


def mean_pool(x, mask=True):
    """y[i] = sum_t x[t, i] / number of t, over the t that count; 0 if none does."""
    seen, y = _seen(x, mask), np.zeros(x.shape[1])
    for t in seen:
        y += x[t] / len(seen)
    return y, (x, seen)


def mean_pool_backward(saved, d_y):
    """Gradients with respect to (x, mask).

    y[i] = sum_t x[t, i] / n   gives  d_x[t, i] = d_y[i] / n.
    """
    x, seen = saved
    d_x = np.zeros(x.shape)
    for t in seen:
        d_x[t] = d_y / len(seen)
    return d_x, None


def max_pool(x, mask=True):
    """y[i] = the largest x[t, i] of the t that count; 0 if none does."""
    seen, y = _seen(x, mask), np.zeros(x.shape[1])
    for i in range(x.shape[1] if seen else 0):
        y[i] = max(x[t, i] for t in seen)
    return y, (x, seen, y)


def max_pool_backward(saved, d_y):
    """Gradients with respect to (x, mask).

    A small change moves y[i] with the x[t, i] that it is, and with no other. Where several are, no derivative exists;
    the mean of those from either side, an equal part for each, is what is taken.
    """
    x, seen, y = saved
    d_x = np.zeros(x.shape)
    for i in range(x.shape[1]):
        largest = [t for t in seen if x[t, i] == y[i]]
        for t in largest:
            d_x[t, i] = d_y[i] / len(largest)
    return d_x, None


def last_pool(x, mask=True):
    """y = x[t] of the last t that counts; 0 if none does."""
    seen = _seen(x, mask)
    return x[seen[-1]] if seen else np.zeros(x.shape[1]), (x, seen)


def last_pool_backward(saved, d_y):
    """Gradients with respect to (x, mask): y is a row of x, to which goes d_y."""
    x, seen = saved
    d_x = np.zeros(x.shape)
    if seen:
        d_x[seen[-1]] = d_y
    return d_x, None


def attention_pool_weights(params, x, mask=True):
    """w[t] = exp(a[t]) / sum_s exp(a[s]), where a[t] = sum_j q[j] k[t, j] and k[t] = tanh(x[t] w_k + b_k)."""
    seen, (length, width) = _seen(x, mask), x.shape
    k, a, w = np.zeros((length, len(params.q))), np.zeros(length), np.zeros(length)
    for t in seen:
        for j in range(len(params.q)):
            k[t, j] = math.tanh(sum(x[t, i] * params.w_k[i, j] for i in range(width)) + params.b_k[j])
        a[t] = sum(params.q[j] * k[t, j] for j in range(len(params.q)))
    largest = max((a[t] for t in seen), default=0.0)
    total = sum(math.exp(a[t] - largest) for t in seen)
    for t in seen:
        w[t] = math.exp(a[t] - largest) / total
    return w, (params, x, seen, k, w)


def attention_pool_weights_backward(saved, d_w):
    """Gradients with respect to (params, x, mask).

    w = softmax(a)           gives  d_a[t] = w[t] (d_w[t] - sum_s w[s] d_w[s])
    a[t] = sum_j q[j] k[t, j]  gives  d_q[j] = sum_t d_a[t] k[t, j],  d_k[t, j] = d_a[t] q[j]
    k = tanh(u)              gives  d_u = d_k (1 - k^2)
    u = x w_k + b_k          gives  d_w_k[i, j] = sum_t x[t, i] d_u[t, j],  d_b_k = sum_t d_u[t],
                                    d_x[t, i] = sum_j d_u[t, j] w_k[i, j]
    """
    params, x, seen, k, w = saved
    d_params, d_x = type(params)(*(np.zeros(p.shape) for p in params)), np.zeros(x.shape)
    mean = sum(w[t] * d_w[t] for t in seen)
    for t in seen:
        d_a = w[t] * (d_w[t] - mean)
        d_u = d_a * params.q * (1 - k[t] ** 2)
        d_params.q[:] += d_a * k[t]
        d_params.b_k[:] += d_u
        d_params.w_k[:] += np.outer(x[t], d_u)
        d_x[t] = params.w_k @ d_u
    return d_params, d_x, None


def attention_pool(params, x, mask=True):
    """y = sum_t w[t] x[t] over the t that count."""
    w, saved = attention_pool_weights(params, x, mask)
    y = np.zeros(x.shape[1])
    for t in _seen(x, mask):
        y += w[t] * x[t]
    return y, saved


def attention_pool_backward(saved, d_y):
    """Gradients with respect to (params, x, mask).

    y = sum_t w[t] x[t]   gives  d_w[t] = sum_i d_y[i] x[t, i],  and to d_x[t], beside what comes through w, w[t] d_y.
    """
    _, x, seen, _, w = saved
    d_w = np.zeros(len(x))
    for t in seen:
        d_w[t] = np.dot(d_y, x[t])
    d_params, d_x, _ = attention_pool_weights_backward(saved, d_w)
    for t in seen:
        d_x[t] += w[t] * d_y
    return d_params, d_x, None


def _seen(x, mask):
    return [t for t in range(len(x)) if np.broadcast_to(mask, len(x))[t]]
