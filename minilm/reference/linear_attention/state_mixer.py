"""Into heads and out of them, one head and one token at a time."""

import numpy as np


def split_heads(w, x):
    """y[g, t] = x[t] w[:, g]."""
    *batch, t, _ = x.shape
    y = np.zeros((*batch, w.shape[1], t, w.shape[2]))
    for *b, g, i in np.ndindex(y.shape[:-1]):
        y[(*b, g, i)] = [np.dot(x[(*b, i)], w[:, g, j]) for j in range(w.shape[2])]
    return y, (w, x)


def split_heads_backward(saved, d_y):
    """Gradients with respect to (w, x).

    y[g, t] = x[t] w[:, g]   gives  d_w[:, g] = sum_t of the outer products of x[t] and d_y[g, t],
                                    d_x[t] = sum_g w[:, g] d_y[g, t].
    """
    w, x = saved
    d_w, d_x = np.zeros(w.shape), np.zeros(x.shape)
    for *b, g, i in np.ndindex(d_y.shape[:-1]):
        d_w[:, g] += np.outer(x[(*b, i)], d_y[(*b, g, i)])
        d_x[(*b, i)] += w[:, g] @ d_y[(*b, g, i)]
    return d_w, d_x


def merge_heads(w, o):
    """y[t] = sum_g o[g, t] w[g]."""
    *batch, _, t, _ = o.shape
    y = np.zeros((*batch, t, w.shape[2]))
    for *b, i in np.ndindex(y.shape[:-1]):
        y[(*b, i)] = sum(o[(*b, g, i)] @ w[g] for g in range(len(w)))
    return y, (w, o)


def merge_heads_backward(saved, d_y):
    """Gradients with respect to (w, o).

    y[t] = sum_g o[g, t] w[g]   gives  d_w[g] = sum_t of the outer products of o[g, t] and d_y[t],
                                       d_o[g, t] = w[g] d_y[t].
    """
    w, o = saved
    d_w, d_o = np.zeros(w.shape), np.zeros(o.shape)
    for *b, g, i in np.ndindex(o.shape[:-1]):
        d_w[g] += np.outer(o[(*b, g, i)], d_y[(*b, i)])
        d_o[(*b, g, i)] = w[g] @ d_y[(*b, i)]
    return d_w, d_o
