"""Chunks, entry by entry."""

import numpy as np


def in_chunks(x, *, chunk):
    """y[n, g, c] = x[g, n C + c], and 0 beyond the end."""
    g, t = x.shape[:2]
    y = np.zeros((-(-t // chunk), g, chunk, *x.shape[2:]))
    for place in range(t):
        n, c = divmod(place, chunk)
        y[n, :, c] = x[:, place]
    return y, x.shape


def in_chunks_backward(saved, d_y):
    """The gradient with respect to x: each entry goes back to where it came from; the filling has none."""
    d_x, chunk = np.zeros(saved), d_y.shape[2]
    for place in range(saved[1]):
        n, c = divmod(place, chunk)
        d_x[:, place] = d_y[n, :, c]
    return d_x


def out_of_chunks(x, *, t):
    """y[g, n C + c] = x[n, g, c]."""
    y = np.zeros((x.shape[1], t, *x.shape[3:]))
    for place in range(t):
        n, c = divmod(place, x.shape[2])
        y[:, place] = x[n, :, c]
    return y, x.shape


def out_of_chunks_backward(saved, d_y):
    """The gradient with respect to x: as above, and zero for what was cut off."""
    d_x = np.zeros(saved)
    for place in range(d_y.shape[1]):
        n, c = divmod(place, saved[2])
        d_x[n, :, c] = d_y[:, place]
    return d_x
