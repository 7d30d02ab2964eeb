"""word2vec, pair by pair: who predicts whom, and what each pair changes. Parameters and batches as in the model."""

import math

import numpy as np

from minilm.reference.activation import _logistic


def skip_gram(params, batch):
    """L = -sum over words t, neighbours s of t:  sum_l log sigma(sign_tl v_s . u_tl) + k/z sum_i log sigma(-v_s . u_i).

    Returns (L, saved).
    """
    total = 0.0
    for b, t, s in zip(*np.nonzero(batch.near), strict=True):
        total += _prediction(params, batch, b, t, params.embedding[batch.context[b, s]])
    return total, (params, batch)


def skip_gram_backward(saved, d_loss=1.0):
    """Gradients with respect to (params, batch).

    loss = -log sigma(x),  x = sign v . u   gives  d_x = -(1 - sigma(x)),  d_v = d_x sign u,  d_u = d_x sign v:
    a score that is right already changes nothing, one that is wrong moves both vectors by nearly the other.
    """
    params, batch = saved
    d_params = type(params)(np.zeros(params.embedding.shape), np.zeros(params.output.shape))
    for b, t, s in zip(*np.nonzero(batch.near), strict=True):
        word = batch.context[b, s]
        d_v = _prediction_backward(params, batch, b, t, params.embedding[word], d_params.output, d_loss)
        d_params.embedding[word] += d_v
    return d_params, None


def cbow(params, batch):
    """L = -sum over words t:  sum_l log sigma(sign_tl h_t . u_tl) + k/z sum_i log sigma(-h_t . u_i), h_t the mean v_s.

    Returns (L, saved).
    """
    total = 0.0
    for b, t in zip(*np.nonzero(batch.near.any(-1)), strict=True):
        total += _prediction(params, batch, b, t, _mean(params, batch, b, t))
    return total, (params, batch)


def cbow_backward(saved, d_loss=1.0):
    """Gradients with respect to (params, batch).

    The prediction from h gives d_h and d_u as in skip-gram;  h = sum_s v_s / N  gives  d_v_s = d_h / N.
    """
    params, batch = saved
    d_params = type(params)(np.zeros(params.embedding.shape), np.zeros(params.output.shape))
    for b, t in zip(*np.nonzero(batch.near.any(-1)), strict=True):
        d_h = _prediction_backward(params, batch, b, t, _mean(params, batch, b, t), d_params.output, d_loss)
        neighbours = np.flatnonzero(batch.near[b, t])
        for s in neighbours:
            d_params.embedding[batch.context[b, s]] += d_h / len(neighbours)
    return d_params, None


def _mean(params, batch, b, t):
    neighbours = np.flatnonzero(batch.near[b, t])
    return sum(params.embedding[batch.context[b, s]] for s in neighbours) / len(neighbours)


def _rows(batch, b, t):
    """(row of u, sign, weight) of every logistic regression that predicts word t."""
    for row, sign in zip(batch.output[b, t], batch.sign[b, t], strict=True):
        if sign != 0:
            yield row, float(sign), 1.0
    for row in batch.noise:
        yield row, -1.0, float(batch.noise_weight)


def _prediction(params, batch, b, t, h):
    return sum(-w * math.log(_logistic(sign * np.dot(h, params.output[row]))) for row, sign, w in _rows(batch, b, t))


def _prediction_backward(params, batch, b, t, h, d_output, d_loss):
    """Adds the gradients of u to d_output, and returns that of h."""
    d_h = np.zeros(len(h))
    for row, sign, w in _rows(batch, b, t):
        d_x = -d_loss * w * (1 - _logistic(sign * np.dot(h, params.output[row])))
        d_h += d_x * sign * params.output[row]
        d_output[row] += d_x * sign * h
    return d_h
