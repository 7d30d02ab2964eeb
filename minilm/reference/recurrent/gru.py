"""The gated recurrent unit, number by number."""

import math

import numpy as np

from minilm.reference.activation import _logistic


def gru_cell(params, state, x):
    """The reset gate applied to sums over the state. Returns ((state, y), saved for the backward pass)."""
    h, width = state, len(state)
    r, z, n, h_n, out = (np.zeros(width) for _ in range(5))
    for j in range(width):
        r[j] = _logistic(_affine(x, params.w_x, params.b_x, j) + _affine(h, params.w_h, params.b_h, j))
        z[j] = _logistic(_affine(x, params.w_x, params.b_x, width + j) + _affine(h, params.w_h, params.b_h, width + j))
        h_n[j] = _affine(h, params.w_h, params.b_h, 2 * width + j)
        n[j] = math.tanh(_affine(x, params.w_x, params.b_x, 2 * width + j) + r[j] * h_n[j])
        out[j] = (1 - z[j]) * n[j] + z[j] * h[j]
    return (out, out), (params, h, x, r, z, n, h_n)


def gru_cell_backward(saved, d_out):
    """Gradients with respect to (params, state, x), from d_out = (d_state, d_y), the gradients of both results.

    h' = (1 - z) n + z h               gives  d_n = d_h' (1 - z),  d_z = d_h' (h - n),  d_h += d_h' z
    n = tanh(a_n),  a_n = x_n + r h_n  gives  d_a_n = d_n (1 - n^2),  d_r = d_a_n h_n,  d_h_n = d_a_n r
    z = sigma(a_z)                     gives  d_a_z = d_z z (1 - z);  r likewise
    a = v w + b                        gives  d_w[i, j] = v[i] d_a[j],  d_b = d_a,  d_v[i] = sum_j w[i, j] d_a[j]
    """
    params, h, x, r, z, n, h_n = saved
    d_next = d_out[0] + d_out[1]
    d_a_n = d_next * (1 - z) * (1 - n**2)
    d_a_z = d_next * (h - n) * z * (1 - z)
    d_a_r = d_a_n * h_n * r * (1 - r)
    d_a_x = np.concatenate([d_a_r, d_a_z, d_a_n])
    d_a_h = np.concatenate([d_a_r, d_a_z, d_a_n * r])
    d_params = type(params)(w_x=np.outer(x, d_a_x), w_h=np.outer(h, d_a_h), b_x=d_a_x, b_h=d_a_h)
    return d_params, d_next * z + params.w_h @ d_a_h, params.w_x @ d_a_x


def gru_cell_reset_before(params, state, x):
    """The reset gate applied to the state. Returns ((state, y), saved for the backward pass)."""
    h, width = state, len(state)
    r, z, n, out = (np.zeros(width) for _ in range(4))
    for j in range(width):
        r[j] = _logistic(_affine(x, params.w_x, params.b_x, j) + _affine(h, params.w_h, params.b_h, j))
        z[j] = _logistic(_affine(x, params.w_x, params.b_x, width + j) + _affine(h, params.w_h, params.b_h, width + j))
    kept = [r[k] * h[k] for k in range(width)]
    for j in range(width):
        column = 2 * width + j
        n[j] = math.tanh(_affine(x, params.w_x, params.b_x, column) + _affine(kept, params.w_h, params.b_h, column))
        out[j] = (1 - z[j]) * n[j] + z[j] * h[j]
    return (out, out), (params, h, x, r, z, n)


def gru_cell_reset_before_backward(saved, d_out):
    """Gradients with respect to (params, state, x), from d_out = (d_state, d_y), the gradients of both results.

    h' = (1 - z) n + z h               gives  d_n = d_h' (1 - z),  d_z = d_h' (h - n),  d_h += d_h' z
    n = tanh(a_n)                      gives  d_a_n = d_n (1 - n^2)
    a_n = x_n + k w_n + b_n,  k = r h  gives  d_k[i] = sum_j w_n[i, j] d_a_n[j],  d_w_n[i, j] = k[i] d_a_n[j],
                                              d_r = d_k h,  d_h += d_k r
    z = sigma(a_z)                     gives  d_a_z = d_z z (1 - z);  r likewise
    a = v w + b                        gives  d_w[i, j] = v[i] d_a[j],  d_b = d_a,  d_v[i] = sum_j w[i, j] d_a[j]
    """
    params, h, x, r, z, n = saved
    gates, candidate = params.w_h[:, : 2 * len(h)], params.w_h[:, 2 * len(h) :]
    d_next = d_out[0] + d_out[1]
    d_a_n = d_next * (1 - z) * (1 - n**2)
    d_kept = candidate @ d_a_n
    d_a_z = d_next * (h - n) * z * (1 - z)
    d_a_r = d_kept * h * r * (1 - r)
    d_a_gates = np.concatenate([d_a_r, d_a_z])
    d_a = np.concatenate([d_a_gates, d_a_n])
    d_w_h = np.concatenate([np.outer(h, d_a_gates), np.outer(r * h, d_a_n)], axis=1)
    d_params = type(params)(w_x=np.outer(x, d_a), w_h=d_w_h, b_x=d_a, b_h=d_a)
    return d_params, d_next * z + d_kept * r + gates @ d_a_gates, params.w_x @ d_a


def _affine(v, w, b, j):
    return sum(v[i] * w[i, j] for i in range(len(v))) + b[j]
