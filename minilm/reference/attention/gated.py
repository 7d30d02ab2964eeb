"""The gate of attention's output, number by number."""

import numpy as np

from minilm.reference.activation import _logistic


def gated_output(params, x, o):
    """y[g, r, t, j] = o[g, r, t, j] sigma(sum_i x[t, i] w[i, g, r, j] + b[g, r, j])."""
    y, opening = np.zeros(o.shape), np.zeros(o.shape)
    for index in np.ndindex(o.shape):
        *batch, g, r, t, j = index
        a = 0.0 if params.b_gate is None else params.b_gate[g, r, j]
        for i in range(x.shape[-1]):
            a += x[(*batch, t, i)] * params.w_gate[i, g, r, j]
        opening[index] = _logistic(a)
        y[index] = o[index] * opening[index]
    return y, (params, x, o, opening)


def gated_output_backward(saved, d_y):
    """Gradients with respect to (params, x, o).

    y = o e             gives  d_o = d_y e,  d_e = d_y o
    e = sigma(a)        gives  d_a = d_e e (1 - e)
    a[j] = x w[j] + b   gives  d_w[i, j] = x[i] d_a[j] and d_b[j] = d_a[j], added over all tokens,
                               and d_x[i] = w[i, j] d_a[j], added over all heads and entries.
    """
    params, x, o, opening = saved
    d_w, d_x, d_o = np.zeros(params.w_gate.shape), np.zeros(x.shape), np.zeros(o.shape)
    d_b = None if params.b_gate is None else np.zeros(params.b_gate.shape)
    for index in np.ndindex(o.shape):
        *batch, g, r, t, j = index
        e = opening[index]
        d_o[index] = d_y[index] * e
        d_a = d_y[index] * o[index] * e * (1 - e)
        d_w[:, g, r, j] += x[(*batch, t)] * d_a
        d_x[(*batch, t)] += params.w_gate[:, g, r, j] * d_a
        if d_b is not None:
            d_b[g, r, j] += d_a
    return type(params)(w_gate=d_w, b_gate=d_b), d_x, d_o
