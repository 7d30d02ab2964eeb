"""Batch normalisation, column by column."""

import math

import numpy as np


def batch_norm_training(params, state, x, mask=True, momentum=0.1, eps=1e-5):
    """y = (x - mean) / sqrt(variance + eps) scale + bias, column by column; the state moves towards the batch's."""
    mask = np.broadcast_to(mask, x.shape[:-1])
    counted = [row for row in np.ndindex(mask.shape) if mask[row]]
    y, normal, deviation = np.zeros(x.shape), np.zeros(x.shape), np.zeros(x.shape[-1])
    running_mean, running_variance = np.array(state.mean, float), np.array(state.variance, float)
    n = len(counted)
    for j in range(x.shape[-1]):
        mean = math.fsum(x[row][j] for row in counted) / n if n else 0.0
        variance = math.fsum((x[row][j] - mean) ** 2 for row in counted) / n if n else 0.0
        deviation[j] = math.sqrt(variance + eps)
        for row in np.ndindex(mask.shape):
            normal[row][j] = (x[row][j] - mean) / deviation[j]
            y[row][j] = normal[row][j] * params.scale[j] + params.bias[j]
        if n:
            unbiased = variance * n / (n - 1) if n > 1 else 0.0
            running_mean[j] = (1 - momentum) * state.mean[j] + momentum * mean
            running_variance[j] = (1 - momentum) * state.variance[j] + momentum * unbiased
    after = type(state)(mean=running_mean, variance=running_variance)
    return (after, y), (params, counted, normal, deviation, momentum)


def batch_norm_training_backward(saved, d_out):
    """Gradients with respect to (params, state, x, mask), from d_out = (d_state, d_y); the mask has none.

    y = n scale + bias                   gives  d_scale = d_y n,  d_bias = d_y, added over all rows;  d_n = d_y scale
    n[r] = (x[r] - mean) / s             gives  d_x[r] = d_n[r] / s,  d_mean = -sum d_n / s  and  d_s = -sum d_n n / s
    s = sqrt(variance + eps)             gives  d_variance = d_s / (2 s)
    mean' = (1 - m) mean_0 + m mean      gives  d_mean_0 = (1 - m) d_mean'  and  d_mean += m d_mean'
    variance' likewise, with m N/(N-1) for the N rows that count (nothing for one)
    variance = sum (x[r] - mean)^2 / N   gives  d_x[r] += d_variance 2 (x[r] - mean) / N, and nothing for the mean
    mean = sum x[r] / N                  gives  d_x[r] += d_mean / N, both for the rows that count.
    Without any row the state passes its gradient on whole.
    """
    params, counted, normal, deviation, momentum = saved
    d_after, d_y = d_out
    N = len(counted)
    m = momentum if N else 0.0
    d_params = type(params)(scale=np.zeros(params.scale.shape), bias=np.zeros(params.bias.shape))
    d_before = type(d_after)(mean=(1 - m) * d_after.mean, variance=(1 - m) * d_after.variance)
    d_x = np.zeros(d_y.shape)
    for j in range(d_y.shape[-1]):
        s = deviation[j]
        d_mean = m * d_after.mean[j]
        d_variance = m * d_after.variance[j] * N / (N - 1) if N > 1 else 0.0
        for row in np.ndindex(d_y.shape[:-1]):
            d_params.scale[j] += d_y[row][j] * normal[row][j]
            d_params.bias[j] += d_y[row][j]
            d_n = d_y[row][j] * params.scale[j]
            d_x[row][j] += d_n / s
            d_mean -= d_n / s
            d_variance -= d_n * normal[row][j] / s / (2 * s)
        for row in counted:
            d_x[row][j] += d_mean / N + d_variance * 2 * normal[row][j] * s / N
    return d_params, d_before, d_x, None


def batch_norm_inference(params, state, x, eps=1e-5):
    """y = (x - running mean) / sqrt(running variance + eps) scale + bias, for each entry."""
    y, normal = np.zeros(x.shape), np.zeros(x.shape)
    deviation = np.array([math.sqrt(variance + eps) for variance in state.variance])
    for place in np.ndindex(x.shape):
        j = place[-1]
        normal[place] = (x[place] - state.mean[j]) / deviation[j]
        y[place] = normal[place] * params.scale[j] + params.bias[j]
    return y, (params, state, normal, deviation)


def batch_norm_inference_backward(saved, d_y):
    """Gradients with respect to (params, state, x).

    y = n scale + bias            gives  d_scale = d_y n,  d_bias = d_y, added over all rows;  d_n = d_y scale
    n = (x - mean) / s            gives  d_x = d_n / s,  d_mean = -sum d_n / s,  d_s = -sum d_n n / s
    s = sqrt(variance + eps)      gives  d_variance = d_s / (2 s)
    """
    params, state, normal, deviation = saved
    d_params = type(params)(scale=np.zeros(params.scale.shape), bias=np.zeros(params.bias.shape))
    d_state = type(state)(mean=np.zeros(state.mean.shape), variance=np.zeros(state.variance.shape))
    d_x = np.zeros(d_y.shape)
    for place in np.ndindex(d_y.shape):
        j = place[-1]
        s = deviation[j]
        d_params.scale[j] += d_y[place] * normal[place]
        d_params.bias[j] += d_y[place]
        d_n = d_y[place] * params.scale[j]
        d_x[place] = d_n / s
        d_state.mean[j] -= d_n / s
        d_state.variance[j] -= d_n * normal[place] / s / (2 * s)
    return d_params, d_state, d_x
