"""Normalisation, row by row."""

import math

import numpy as np


def layer_norm(params, x, eps=1e-5):
    """y = (x - mean) / sqrt(variance + eps) scale + bias, for each row."""
    y, normal, deviation = np.zeros(x.shape), np.zeros(x.shape), np.zeros(x.shape[:-1])
    d = x.shape[-1]
    for row in np.ndindex(x.shape[:-1]):
        mean = math.fsum(x[row]) / d
        variance = math.fsum((a - mean) ** 2 for a in x[row]) / d
        deviation[row] = math.sqrt(variance + eps)
        for j in range(d):
            normal[row][j] = (x[row][j] - mean) / deviation[row]
            y[row][j] = normal[row][j] * params.scale[j] + params.bias[j]
    return y, (params, normal, deviation)


def layer_norm_backward(saved, d_y):
    """Gradients with respect to (params, x).

    y = n scale + bias                  gives  d_scale = d_y n,  d_bias = d_y, added over all rows;  d_n = d_y scale
    n[j] = (x[j] - mean) / s, s = sqrt(variance + eps), with dmean/dx[i] = 1/d and ds/dx[i] = n[i] / d,
    has dn[j]/dx[i] = ((i == j) - 1/d - n[j] n[i] / d) / s, hence
                                               d_x[i] = (d_n[i] - mean(d_n) - n[i] mean(d_n n)) / s:
    what a shift or a stretch of the row would have done is taken out of the gradient.
    """
    params, normal, deviation = saved
    d_scale, d_bias, d_x = np.zeros(params.scale.shape), np.zeros(params.bias.shape), np.zeros(d_y.shape)
    d = d_y.shape[-1]
    for row in np.ndindex(d_y.shape[:-1]):
        n = normal[row]
        d_scale += d_y[row] * n
        d_bias += d_y[row]
        d_n = d_y[row] * params.scale
        along_shift, along_stretch = sum(d_n) / d, sum(d_n * n) / d
        for i in range(d):
            d_x[row][i] = (d_n[i] - along_shift - n[i] * along_stretch) / deviation[row]
    return type(params)(scale=d_scale, bias=d_bias), d_x


def rms_norm(params, x, eps=1e-6):
    """y = x / sqrt(mean square + eps) scale, for each row."""
    y, normal, size = np.zeros(x.shape), np.zeros(x.shape), np.zeros(x.shape[:-1])
    d = x.shape[-1]
    for row in np.ndindex(x.shape[:-1]):
        size[row] = math.sqrt(math.fsum(a * a for a in x[row]) / d + eps)
        for j in range(d):
            normal[row][j] = x[row][j] / size[row]
            y[row][j] = normal[row][j] * params.scale[j]
    return y, (params, normal, size)


def rms_norm_backward(saved, d_y):
    """Gradients with respect to (params, x).

    y = n scale                         gives  d_scale = d_y n, added over all rows;  d_n = d_y scale
    n[j] = x[j] / s, s = sqrt(mean square + eps), with ds/dx[i] = n[i] / d,
    has dn[j]/dx[i] = ((i == j) - n[j] n[i] / d) / s, hence
                                               d_x[i] = (d_n[i] - n[i] mean(d_n n)) / s
    """
    params, normal, size = saved
    d_scale, d_x = np.zeros(params.scale.shape), np.zeros(d_y.shape)
    d = d_y.shape[-1]
    for row in np.ndindex(d_y.shape[:-1]):
        n = normal[row]
        d_scale += d_y[row] * n
        d_n = d_y[row] * params.scale
        along_stretch = sum(d_n * n) / d
        for i in range(d):
            d_x[row][i] = (d_n[i] - n[i] * along_stretch) / size[row]
    return type(params)(scale=d_scale), d_x
