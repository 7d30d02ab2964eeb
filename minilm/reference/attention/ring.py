"""Two attentions to different keys become one, query by query; and who holds which token of a causal sequence."""

import math

import numpy as np


def merge(o, lse, o_2, lse_2):
    """Each output is an average of values; the averages are weighted with the sums that they were divided by."""
    out, out_lse = np.zeros(o.shape), np.full(lse.shape, -np.inf)
    w, w_2 = np.zeros(lse.shape), np.zeros(lse.shape)
    for row in np.ndindex(lse.shape):
        there = [(x, y) for x, y in ((lse[row], o[row]), (lse_2[row], o_2[row])) if x > -math.inf]
        if there:
            largest = max(x for x, _ in there)
            out_lse[row] = largest + math.log(sum(math.exp(x - largest) for x, _ in there))
            out[row] = sum(math.exp(x - out_lse[row]) * y for x, y in there)
            w[row], w_2[row] = math.exp(lse[row] - out_lse[row]), math.exp(lse_2[row] - out_lse[row])
    return (out, out_lse), (o, o_2, w, w_2)


def merge_backward(saved, d_out):
    """Gradients with respect to (o, lse, o_2, lse_2), with w = exp(lse - lse'') and w_2 likewise, so that w + w_2 = 1.

    lse'' = ln(exp lse + exp lse_2)  gives  d_lse  = w d_lse'',  and of a weight:  dw/dlse = w w_2 = -dw_2/dlse
    o'' = w o + w_2 o_2              gives  d_o    = w d_o'',    d_lse += w w_2 d_o'' . (o - o_2)
    """
    o, o_2, w, w_2 = saved
    d_o, d_lse = d_out
    d = [np.zeros(o.shape), np.zeros(w.shape), np.zeros(o.shape), np.zeros(w.shape)]
    for row in np.ndindex(w.shape):
        apart = np.dot(d_o[row], o[row] - o_2[row])
        d[0][row], d[2][row] = w[row] * d_o[row], w_2[row] * d_o[row]
        d[1][row] = w[row] * (d_lse[row] + w_2[row] * apart)
        d[3][row] = w_2[row] * (d_lse[row] - w[row] * apart)
    return tuple(d)


def zigzag(t, devices):
    """Token by token: those of chunk r, then those of its mirror image, for every device r."""
    size, order = t // (2 * devices), []
    for device in range(devices):
        for chunk in (device, 2 * devices - 1 - device):
            order += [chunk * size + i for i in range(size)]
    return np.array(order)
