"""GloVe, pair by pair and number by number. Parameters, batches and hyper-parameters as in the model."""

import math

import numpy as np


def loss(params, batch, *, config):
    """J = sum over pairs with X > 0 of f(X) (w . w~ + b + b~ - log X)^2. Returns (J, saved)."""
    total = 0.0
    for i, j, x in _pairs(batch):
        total += _weight(x, config) * _residual(params, i, j, x) ** 2
    return total, (params, batch, config)


def loss_backward(saved, d_loss=1.0):
    """Gradients with respect to (params, batch).

    J = f e^2,  e = w . w~ + b + b~ - log X   gives  d_e = 2 f e,  d_w = d_e w~,  d_w~ = d_e w,  d_b = d_b~ = d_e.
    """
    params, batch, config = saved
    d_params = type(params)(*(np.zeros(p.shape) for p in params))
    for i, j, x in _pairs(batch):
        for total, (row, g) in zip(d_params, _pair_gradient(params, i, j, x, config), strict=True):
            total[row] += d_loss * g
    return d_params, None


def adagrad(state, batch, *, config):
    """G = G + g^2 for every pair;  then theta = theta - rate g / sqrt(G) for every pair, all g from the old theta."""
    params, squares = state
    new_squares = type(params)(*(G.copy() for G in squares))
    for i, j, x in _pairs(batch):
        for G, (row, g) in zip(new_squares, _pair_gradient(params, i, j, x, config), strict=True):
            G[row] += g**2
    new_params = type(params)(*(p.copy() for p in params))
    for i, j, x in _pairs(batch):
        for p, G, (row, g) in zip(new_params, new_squares, _pair_gradient(params, i, j, x, config), strict=True):
            p[row] -= config.learning_rate * g / np.sqrt(G[row])
    return type(state)(new_params, new_squares)


def _pairs(batch):
    return [(i, j, x) for i, j, x in zip(batch.word, batch.other, batch.count, strict=True) if x > 0]


def _weight(x, config):
    return (x / config.frequent) ** config.power if x < config.frequent else 1.0


def _residual(params, i, j, x):
    product = np.dot(params.embedding[i], params.other_embedding[j])
    return float(product) + params.bias[i] + params.other_bias[j] - math.log(x)


def _pair_gradient(params, i, j, x, config):
    """(row, gradient) for each of the four parameters."""
    d_e = 2 * _weight(x, config) * _residual(params, i, j, x)
    return (i, d_e * params.other_embedding[j]), (i, d_e), (j, d_e * params.embedding[i]), (j, d_e)
