"""The affine map, number by number."""

import numpy as np


def linear(params, x):
    """y[..., j] = sum_i x[..., i] w[i, j] + b[j]."""
    y, _ = matmul(x, params.w)
    return y if params.b is None else y + params.b, (params, x)


def linear_backward(saved, d_y):
    """Gradients with respect to (params, x).

    y = x w + b   gives  d_b = d_y summed over the leading axes;  d_w and d_x are those of the product.
    """
    params, x = saved
    d_x, d_w = matmul_backward((x, params.w), d_y)
    d_b = None if params.b is None else d_y.reshape(-1, d_y.shape[-1]).sum(0)
    return type(params)(w=d_w, b=d_b), d_x


def matmul(x, w):
    """y[..., j] = sum_i x[..., i] w[i, j]."""
    y = np.zeros((*x.shape[:-1], w.shape[1]))
    for row in np.ndindex(x.shape[:-1]):
        for j in range(w.shape[1]):
            y[row][j] = sum(x[row][i] * w[i, j] for i in range(w.shape[0]))
    return y, (x, w)


def matmul_backward(saved, d_y):
    """Gradients with respect to (x, w).

    y[j] = sum_i x[i] w[i, j]   gives  d_x[i] = sum_j d_y[j] w[i, j],  d_w[i, j] = x[i] d_y[j], added over all rows.
    """
    x, w = saved
    d_x, d_w = np.zeros(x.shape), np.zeros(w.shape)
    for row in np.ndindex(x.shape[:-1]):
        for i in range(w.shape[0]):
            d_x[row][i] = np.dot(d_y[row], w[i])
            d_w[i] += x[row][i] * d_y[row]
    return d_x, d_w
