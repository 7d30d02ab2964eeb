"""Dropout, entry by entry."""

import numpy as np


def dropout(x, rate, key=None):
    """y = x / (1 - rate) where the entry is kept, 0 where it is dropped.

    NumPy cannot draw what a JAX key draws, so here `key` is the draw itself: an array of x's shape, true where an
    entry is kept. None keeps everything and enlarges nothing.
    """
    y = np.array(x, float)
    if key is not None:
        for place in np.ndindex(x.shape):
            y[place] = x[place] / (1 - rate) if key[place] else 0.0
    return y, (rate, key)


def dropout_backward(saved, d_y):
    """Gradient with respect to x.

    y = m x / (1 - rate)   gives  d_x = m d_y / (1 - rate): what was dropped hears nothing.
    """
    rate, key = saved
    d_x, _ = dropout(d_y, rate, key)
    return d_x
