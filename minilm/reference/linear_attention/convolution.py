"""The short convolution, number by number; padding is passed over."""

import numpy as np


def short_convolution(w, state, x, real):
    """y[t, j] = sum_m w[m, j] past[m][j], where past[m] is the m-th last real token, x[t] itself for m = 0."""
    width, past, sources = len(w), list(state[::-1]), [("state", len(state) - 1 - m) for m in range(len(state))]
    y, read = np.zeros(x.shape), {}
    for t in range(len(x)):
        if real[t]:
            past, sources = [x[t], *past][:width], [("x", t), *sources][:width]
            for j in range(x.shape[1]):
                y[t, j] = sum(w[m, j] * past[m][j] for m in range(width))
            read[t] = list(zip(sources, past, strict=True))
            past, sources = past[: width - 1], sources[: width - 1]
    after = np.array(past[::-1]).reshape(state.shape)
    return (after, y), (w, state.shape, x.shape, read, sources)


def short_convolution_backward(saved, d_out):
    """Gradients with respect to (w, state, x, real), from d_out = (d_state, d_y).

    y[t, j] = sum_m w[m, j] past[m][j]   gives  d_w[m, j] = sum_t d_y[t, j] past[m][j],
                                                d_past[m][j] += d_y[t, j] w[m, j], which goes to the row it came from
    state' holds the last of them         gives  d_past[m] += d_state'[width - 2 - m].
    """
    w, state, x, read, sources = saved
    d_state, d_y = d_out
    d_w, d = np.zeros(w.shape), {"state": np.zeros(state), "x": np.zeros(x)}
    for t, terms in read.items():
        for m, ((name, row), value) in enumerate(terms):
            d_w[m] += d_y[t] * value
            d[name][row] += d_y[t] * w[m]
    for m, (name, row) in enumerate(sources):
        d[name][row] += d_state[len(d_state) - 1 - m]
    return d_w, d["state"], d["x"], None
