"""Feature maps, row by row."""

import math

import numpy as np


def elu_plus_one(x):
    """phi = x + 1 where x is positive, e^x elsewhere."""
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        y[index] = x[index] + 1 if x[index] > 0 else math.exp(x[index])
    return y, (x, y)


def elu_plus_one_backward(saved, d_y):
    """Gradient with respect to x.

    phi = x + 1   gives  d_x = d_y
    phi = e^x     gives  d_x = d_y phi; at x = 0 the two agree.
    """
    x, y = saved
    return np.where(x > 0, d_y, d_y * y)


def taylor_features(x):
    """phi = [1, z[i], z[i] z[j] / sqrt 2],  z = x / k^(1/4)."""
    k = x.shape[-1]
    y = np.zeros((*x.shape[:-1], 1 + k + k * k))
    for row in np.ndindex(x.shape[:-1]):
        z = [a / k**0.25 for a in x[row]]
        y[row] = [1, *z, *(z[i] * z[j] / math.sqrt(2) for i in range(k) for j in range(k))]
    return y, x


def taylor_features_backward(saved, d_y):
    """Gradient with respect to x.

    phi[1 + i] = z[i]                           gives  d_z[i] = d_y[1 + i]
    phi[1 + k + i k + j] = z[i] z[j] / sqrt 2   gives  d_z[i] += d_y z[j] / sqrt 2,  d_z[j] += d_y z[i] / sqrt 2
    z = x / k^(1/4)                             gives  d_x = d_z / k^(1/4).
    """
    x = saved
    k, d_x = x.shape[-1], np.zeros(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        z, d_z = x[row] / k**0.25, d_y[row][1 : 1 + k].copy()
        for i, j in np.ndindex(k, k):
            d_square = d_y[row][1 + k + i * k + j] / math.sqrt(2)
            d_z[i] += d_square * z[j]
            d_z[j] += d_square * z[i]
        d_x[row] = d_z / k**0.25
    return d_x


def random_features(projection, x):
    """phi[j] = e^(w[j] . z - |z|^2 / 2) / sqrt m,  z = x / k^(1/4)."""
    exponents, saved = random_exponents(projection, x)
    y = np.zeros(exponents.shape)
    for index in np.ndindex(y.shape):
        y[index] = math.exp(exponents[index]) / math.sqrt(len(projection))
    return y, (saved, y)


def random_features_backward(saved, d_y):
    """Gradients with respect to (projection, x).

    phi[j] = e^a[j] / sqrt m         gives  d_a[j] = d_y[j] phi[j].
    """
    saved_exponents, y = saved
    return random_exponents_backward(saved_exponents, d_y * y)


def random_exponents(projection, x):
    """a[j] = w[j] . z - |z|^2 / 2,  z = x / k^(1/4)."""
    m, k = projection.shape
    a = np.zeros((*x.shape[:-1], m))
    for row in np.ndindex(x.shape[:-1]):
        z = [entry / k**0.25 for entry in x[row]]
        for j in range(m):
            a[row][j] = sum(projection[j, i] * z[i] - z[i] ** 2 / 2 for i in range(k))
    return a, (projection, x)


def random_exponents_backward(saved, d_a):
    """Gradients with respect to (projection, x).

    a[j] = w[j] . z - |z|^2 / 2      gives  d_w[j] = d_a[j] z,  d_z = sum_j d_a[j] (w[j] - z)
    z = x / k^(1/4)                  gives  d_x = d_z / k^(1/4).
    """
    projection, x = saved
    root = x.shape[-1] ** 0.25
    d_w, d_x = np.zeros(projection.shape), np.zeros(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        for j in range(len(projection)):
            d_w[j] += d_a[row][j] * x[row] / root
            d_x[row] += d_a[row][j] * (projection[j] - x[row] / root) / root
    return d_w, d_x
