"""The losses, token by token and number by number; a token of weight 0 is skipped, never multiplied by zero."""

import math
from typing import NamedTuple

import numpy as np

from minilm.reference.linear import matmul, matmul_backward


class Metrics(NamedTuple):
    """Sums over tokens, each times its weight: of the cross-entropy, of 1, of "no logit beats the target's"."""

    loss_sum: float
    token_count: float
    correct_count: float


def token_cross_entropy(logits, targets):
    """loss = log sum_j exp(z[j]) - z[y] for each token."""
    losses = np.zeros(targets.shape)
    for token in np.ndindex(targets.shape):
        losses[token] = _log_sum_exp(logits[token]) - logits[token][targets[token]]
    return losses, (logits, targets)


def token_cross_entropy_backward(saved, d_losses):
    """Gradients with respect to (logits, targets).

    loss = log sum_j exp(z[j]) - z[y]   gives  d_z[j] = d_loss (p[j] - [j = y]),  p = softmax(z), for
    d/dz[j] of log sum_j exp(z[j]) is exp(z[j]) / sum_j exp(z[j]) = p[j].
    """
    (logits, targets), d_losses = saved, np.asarray(d_losses)
    d_logits = np.zeros(logits.shape)
    for token in np.ndindex(targets.shape):
        d_logits[token] = d_losses[token] * _softmax(logits[token])
        d_logits[token][targets[token]] -= d_losses[token]
    return d_logits, None


def cross_entropy(logits, targets, weights=None):
    """L = sum_i w_i loss_i / sum_i w_i over the tokens with w_i != 0, and 0 where there are none."""
    weights = np.ones(targets.shape) if weights is None else weights
    loss_sum = token_count = correct_count = 0.0
    for token in _counted(weights):
        z, y, w = logits[token], targets[token], float(weights[token])
        loss_sum += w * (_log_sum_exp(z) - z[y])
        token_count += w
        correct_count += w * all(z[y] >= z_j for z_j in z)
    loss = loss_sum / token_count if token_count else 0.0
    return (loss, Metrics(loss_sum, token_count, correct_count)), (logits, targets, weights, token_count)


def cross_entropy_backward(saved, d_out):
    """Gradients with respect to (logits, targets, weights), from d_out = (d_loss, d_metrics).

    L = loss_sum / sum_i w_i             gives  d_loss_sum += d_L / sum_i w_i;
    loss_sum = sum_i w_i loss_i          gives  d_loss_i = d_loss_sum w_i;
    loss_i = log sum_j exp(z[j]) - z[y]  gives  d_z[j] = d_loss_i (p[j] - [j = y]).
    """
    d_loss, d_metrics = d_out
    logits, targets, weights, token_count = saved
    d_logits = np.zeros(logits.shape)
    for token in _counted(weights):
        d_loss_i = (d_metrics.loss_sum + d_loss / token_count) * float(weights[token])
        for j, p in enumerate(_softmax(logits[token])):
            d_logits[token][j] = d_loss_i * (p - (j == targets[token]))
    return d_logits, None, None


def label_smoothed_cross_entropy(logits, targets, weights=None, smoothing=0.1):
    """L = sum_i w_i loss_i / sum_i w_i, where loss_i = -sum_j q[j] log p[j] and q[j] = (1 - eps) [j = y] + eps / n."""
    (_, metrics), saved = cross_entropy(logits, targets, weights)
    logits, targets, weights, token_count = saved
    total, n = 0.0, logits.shape[-1]
    for token in _counted(weights):
        for j, z_j in enumerate(logits[token]):
            q = (1 - smoothing) * (j == targets[token]) + smoothing / n
            total += float(weights[token]) * -q * (z_j - _log_sum_exp(logits[token]))
    return (total / token_count if token_count else 0.0, metrics), (saved, smoothing)


def label_smoothed_cross_entropy_backward(saved, d_out):
    """Gradients with respect to (logits, targets, weights, smoothing), from d_out = (d_loss, d_metrics).

    loss_i = -sum_j q[j] log p[j]        gives  d_z[j] = d_loss_i (p[j] - q[j]), because q sums to one;
    q[j] = (1 - eps) [j = y] + eps / n   gives  d_eps = sum_j d_loss_i (1 / n - [j = y]) (-log p[j]).
    """
    d_loss, d_metrics = d_out
    saved, smoothing = saved
    d_logits, _, _ = cross_entropy_backward(saved, (0.0, d_metrics))
    logits, targets, weights, token_count = saved
    d_smoothing, n = 0.0, logits.shape[-1]
    for token in _counted(weights):
        d_loss_i = d_loss * float(weights[token]) / token_count
        for j, p in enumerate(_softmax(logits[token])):
            hit = float(j == targets[token])
            d_logits[token][j] += d_loss_i * (p - (1 - smoothing) * hit - smoothing / n)
            d_smoothing += d_loss_i * (1 / n - hit) * -math.log(p)
    return d_logits, None, None, np.asarray(d_smoothing)


def z_loss(logits, weights=None):
    """L = sum_i w_i (log sum_j exp(z_i[j]))^2 / sum_i w_i over the tokens with w_i != 0, and 0 where there are none."""
    weights = np.ones(logits.shape[:-1]) if weights is None else weights
    tokens = _counted(weights)
    token_count = sum(float(weights[token]) for token in tokens)
    total = sum(float(weights[token]) * _log_sum_exp(logits[token]) ** 2 for token in tokens)
    return np.asarray(total / token_count if token_count else 0.0), (logits, weights, tokens, token_count)


def z_loss_backward(saved, d_loss):
    """Gradients with respect to (logits, weights).

    l = log sum_j exp(z[j])   gives  d(l^2)/dz[j] = 2 l p[j].
    """
    logits, weights, tokens, token_count = saved
    d_logits = np.zeros(logits.shape)
    for token in tokens:
        d_logits[token] = (
            d_loss * weights[token] / token_count * 2 * _log_sum_exp(logits[token]) * _softmax(logits[token])
        )
    return d_logits, None


def chunked_cross_entropy(x, unembedding, targets, weights=None, *, chunk=512):
    """The cross-entropy of all the logits x E^T at once: `chunk` says how, not what."""
    logits, product = matmul(x, unembedding.T)
    out, saved = cross_entropy(logits, targets, weights)
    return out, (product, saved)


def chunked_cross_entropy_backward(saved, d_out):
    """Gradients with respect to (x, unembedding, targets, weights): through the loss, then through z = x E^T."""
    product, saved = saved
    d_logits, d_targets, d_weights = cross_entropy_backward(saved, d_out)
    d_x, d_transposed = matmul_backward(product, d_logits)
    return d_x, d_transposed.T, d_targets, d_weights


def _counted(weights):
    return [token for token in np.ndindex(weights.shape) if weights[token] != 0]


def _log_sum_exp(z):
    largest = max(z)
    return largest + math.log(sum(math.exp(z_j - largest) for z_j in z))


def _softmax(z):
    return np.array([math.exp(z_j - _log_sum_exp(z)) for z_j in z])
