"""Elman's network, number by number."""

import math

import numpy as np


def elman_cell(params, state, x):
    """h'[j] = tanh(sum_i x[i] w_x[i, j] + b_x[j] + sum_k h[k] w_h[k, j] + b_h[j]). Returns ((state, y), saved)."""
    h, out = state, np.zeros(len(state))
    for j in range(len(h)):
        from_input = sum(x[i] * params.w_x[i, j] for i in range(len(x))) + params.b_x[j]
        from_state = sum(h[k] * params.w_h[k, j] for k in range(len(h))) + params.b_h[j]
        out[j] = math.tanh(from_input + from_state)
    return (out, out), (params, h, x, out)


def elman_cell_backward(saved, d_out):
    """Gradients with respect to (params, state, x), from d_out = (d_state, d_y), the gradients of both results.

    h' = tanh(a)                    gives  d_a = d_h' (1 - h'^2)
    a = x w_x + b_x + h w_h + b_h   gives  d_w_x[i, j] = x[i] d_a[j],  d_w_h[k, j] = h[k] d_a[j],  d_b_x = d_b_h = d_a,
                                           d_x[i] = sum_j w_x[i, j] d_a[j],  d_h[k] = sum_j w_h[k, j] d_a[j]
    """
    params, h, x, out = saved
    d_a = (d_out[0] + d_out[1]) * (1 - out**2)
    d_params = type(params)(w_x=np.outer(x, d_a), w_h=np.outer(h, d_a), b_x=d_a, b_h=d_a)
    return d_params, params.w_h @ d_a, params.w_x @ d_a
