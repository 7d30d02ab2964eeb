"""Tokens into vectors and back, row by row."""

import numpy as np


def embed(embedding, tokens):
    """y[place] = E[tokens[place]]."""
    y = np.zeros((*tokens.shape, embedding.shape[1]))
    for place in np.ndindex(tokens.shape):
        y[place] = embedding[tokens[place]]
    return y, (embedding, tokens)


def embed_backward(saved, d_y):
    """Gradients with respect to (embedding, tokens); integers have none.

    y[place] = E[tokens[place]]   gives  d_E[tokens[place]] += d_y[place]: a row read twice hears from both readers.
    """
    embedding, tokens = saved
    d_embedding = np.zeros(embedding.shape)
    for place in np.ndindex(tokens.shape):
        d_embedding[tokens[place]] += d_y[place]
    return d_embedding, None


def unembed(embedding, x):
    """y[..., j] = sum_d x[..., d] E[j, d]."""
    y = np.zeros((*x.shape[:-1], embedding.shape[0]))
    for row in np.ndindex(x.shape[:-1]):
        for j in range(embedding.shape[0]):
            y[row][j] = sum(a * b for a, b in zip(x[row], embedding[j], strict=True))
    return y, (embedding, x)


def unembed_backward(saved, d_y):
    """Gradients with respect to (embedding, x).

    y[j] = sum_d x[d] E[j, d]   gives  d_E[j] = d_y[j] x, added over all rows;  d_x = sum_j d_y[j] E[j].
    """
    embedding, x = saved
    d_embedding, d_x = np.zeros(embedding.shape), np.zeros(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        for j in range(embedding.shape[0]):
            d_embedding[j] += d_y[row][j] * x[row]
            d_x[row] += d_y[row][j] * embedding[j]
    return d_embedding, d_x
