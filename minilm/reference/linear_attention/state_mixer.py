"""Into heads and out of them, one head and one token at a time."""

import numpy as np


def split_heads(w, x):
    """y[g, t] = x[t] w[:, g]."""
    y = np.zeros((w.shape[1], len(x), w.shape[2]))
    for g, t in np.ndindex(y.shape[:2]):
        y[g, t] = [np.dot(x[t], w[:, g, j]) for j in range(w.shape[2])]
    return y, (w, x)


def split_heads_backward(saved, d_y):
    """Gradients with respect to (w, x).

    y[g, t] = x[t] w[:, g]   gives  d_w[:, g] = sum_t of the outer products of x[t] and d_y[g, t],
                                    d_x[t] = sum_g w[:, g] d_y[g, t].
    """
    w, x = saved
    d_w, d_x = np.zeros(w.shape), np.zeros(x.shape)
    for g, t in np.ndindex(d_y.shape[:2]):
        d_w[:, g] += np.outer(x[t], d_y[g, t])
        d_x[t] += w[:, g] @ d_y[g, t]
    return d_w, d_x


def merge_heads(w, o):
    """y[t] = sum_g o[g, t] w[g]."""
    y = np.zeros((o.shape[1], w.shape[2]))
    for g, t in np.ndindex(o.shape[:2]):
        y[t] += o[g, t] @ w[g]
    return y, (w, o)


def merge_heads_backward(saved, d_y):
    """Gradients with respect to (w, o).

    y[t] = sum_g o[g, t] w[g]   gives  d_w[g] = sum_t of the outer products of o[g, t] and d_y[t],
                                       d_o[g, t] = w[g] d_y[t].
    """
    w, o = saved
    d_w, d_o = np.zeros(w.shape), np.zeros(o.shape)
    for g, t in np.ndindex(o.shape[:2]):
        d_w[g] += np.outer(o[g, t], d_y[t])
        d_o[g, t] = w[g] @ d_y[t]
    return d_w, d_o
