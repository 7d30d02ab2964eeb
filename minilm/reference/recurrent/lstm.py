"""Long short-term memory, number by number."""

import math

import numpy as np

from minilm.reference.activation import _logistic


def lstm_cell(params, state, x):
    """Each unit reads its four sums, then moves its own cell. Returns ((state, y), saved for the backward pass)."""
    width = len(state.h)
    i, f, g, o, c, h = (np.zeros(width) for _ in range(6))
    for j in range(width):
        a_i, a_f, a_g, a_o = _four_sums(params, state.h, x, j)
        i[j], f[j], g[j], o[j] = _logistic(a_i), _logistic(a_f), math.tanh(a_g), _logistic(a_o)
        c[j] = f[j] * state.c[j] + i[j] * g[j]
        h[j] = o[j] * math.tanh(c[j])
    return (type(state)(h=h, c=c), h), (params, state, x, i, f, g, o, c)


def lstm_cell_backward(saved, d_out):
    """Gradients with respect to (params, state, x), from d_out = (d_state, d_y), the gradients of both results.

    h' = o tanh(c')      gives  d_o = d_h' tanh(c'),  d_c' += d_h' o (1 - tanh(c')^2);  h' is both state and output
    c' = f c + i g       gives  d_f = d_c' c,  d_c = d_c' f,  d_i = d_c' g,  d_g = d_c' i
    i = sigma(a_i)       gives  d_a_i = d_i i (1 - i);  f and o likewise
    g = tanh(a_g)        gives  d_a_g = d_g (1 - g^2)
    a = v w + b          gives  d_w[k, j] = v[k] d_a[j],  d_b = d_a,  d_v[k] = sum_j w[k, j] d_a[j]
    """
    params, state, x, i, f, g, o, c = saved
    d_state, d_y = d_out
    d_h = d_state.h + d_y
    d_c = d_state.c + d_h * o * (1 - np.tanh(c) ** 2)
    d_a_i = d_c * g * i * (1 - i)
    d_a_f = d_c * state.c * f * (1 - f)
    d_a_g = d_c * i * (1 - g**2)
    d_a_o = d_h * np.tanh(c) * o * (1 - o)
    d_a = np.concatenate([d_a_i, d_a_f, d_a_g, d_a_o])
    d_params = type(params)(w_x=np.outer(x, d_a), w_h=np.outer(state.h, d_a), b_x=d_a, b_h=d_a)
    return d_params, type(state)(h=params.w_h @ d_a, c=d_c * f), params.w_x @ d_a


def lstm_cell_peephole(params, state, x):
    """As `lstm_cell`, where i and f see the unit's old cell and o its new one. Returns ((state, y), saved)."""
    width = len(state.h)
    i, f, g, o, c, h = (np.zeros(width) for _ in range(6))
    for j in range(width):
        a_i, a_f, a_g, a_o = _four_sums(params, state.h, x, j)
        i[j] = _logistic(a_i + params.w_c[j] * state.c[j])
        f[j] = _logistic(a_f + params.w_c[width + j] * state.c[j])
        g[j] = math.tanh(a_g)
        c[j] = f[j] * state.c[j] + i[j] * g[j]
        o[j] = _logistic(a_o + params.w_c[2 * width + j] * c[j])
        h[j] = o[j] * math.tanh(c[j])
    return (type(state)(h=h, c=c), h), (params, state, x, i, f, g, o, c)


def lstm_cell_peephole_backward(saved, d_out):
    """Gradients with respect to (params, state, x), from d_out = (d_state, d_y), the gradients of both results.

    h' = o tanh(c')             gives  d_o = d_h' tanh(c'),  d_c' += d_h' o (1 - tanh(c')^2)
    o = sigma(a_o + w_o c')     gives  d_a_o = d_o o (1 - o),  d_w_o = d_a_o c',  d_c' += d_a_o w_o
    c' = f c + i g              gives  d_f = d_c' c,  d_c += d_c' f,  d_i = d_c' g,  d_g = d_c' i
    i = sigma(a_i + w_i c)      gives  d_a_i = d_i i (1 - i),  d_w_i = d_a_i c,  d_c += d_a_i w_i;  f likewise
    g = tanh(a_g)               gives  d_a_g = d_g (1 - g^2)
    a = v w + b                 gives  d_w[k, j] = v[k] d_a[j],  d_b = d_a,  d_v[k] = sum_j w[k, j] d_a[j]
    """
    params, state, x, i, f, g, o, c = saved
    d_state, d_y = d_out
    w_i, w_f, w_o = params.w_c.reshape(3, -1)
    d_h = d_state.h + d_y
    d_a_o = d_h * np.tanh(c) * o * (1 - o)
    d_c = d_state.c + d_h * o * (1 - np.tanh(c) ** 2) + d_a_o * w_o
    d_a_i = d_c * g * i * (1 - i)
    d_a_f = d_c * state.c * f * (1 - f)
    d_a_g = d_c * i * (1 - g**2)
    d_a = np.concatenate([d_a_i, d_a_f, d_a_g, d_a_o])
    d_w_c = np.concatenate([d_a_i * state.c, d_a_f * state.c, d_a_o * c])
    d_params = type(params)(w_x=np.outer(x, d_a), w_h=np.outer(state.h, d_a), w_c=d_w_c, b_x=d_a, b_h=d_a)
    d_old = d_c * f + d_a_i * w_i + d_a_f * w_f
    return d_params, type(state)(h=params.w_h @ d_a, c=d_old), params.w_x @ d_a


def _four_sums(params, h, x, j):
    columns = range(j, 4 * len(h), len(h))
    return [
        sum(x[k] * params.w_x[k, column] for k in range(len(x)))
        + params.b_x[column]
        + sum(h[k] * params.w_h[k, column] for k in range(len(h)))
        + params.b_h[column]
        for column in columns
    ]
