"""Mamba-2's gate, number by number."""

import math

import numpy as np


def discretize(rate, step):
    """log a[g, t] = -exp(rate[g]) step[g, t]."""
    log_decay = np.zeros(step.shape)
    for g, t in np.ndindex(step.shape):
        log_decay[g, t] = -math.exp(rate[g]) * step[g, t]
    return log_decay, (rate, step, log_decay)


def discretize_backward(saved, d_log_decay):
    """Gradients with respect to (rate, step).

    y = -exp(r) s   gives  d_r = sum_t d_y y,  d_s = -d_y exp(r).
    """
    rate, step, log_decay = saved
    d_rate, d_step = np.zeros(rate.shape), np.zeros(step.shape)
    for g, t in np.ndindex(step.shape):
        d_rate[g] += d_log_decay[g, t] * log_decay[g, t]
        d_step[g, t] = -d_log_decay[g, t] * math.exp(rate[g])
    return d_rate, d_step
