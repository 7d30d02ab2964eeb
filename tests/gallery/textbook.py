"""What the gallery's correct twins are made of, in NumPy, as a textbook has it."""

import numpy as np

D = 4
RNG = np.random.default_rng(20170612)
W_Q, W_K, W_V = RNG.normal(size=(3, D, D)) / 2


def softmax(scores, axis=-1):
    """Softmax, of which a row of nothing but minus infinity is 0."""
    largest = scores.max(axis, keepdims=True)
    e = np.exp(scores - np.where(np.isfinite(largest), largest, 0))
    total = e.sum(axis, keepdims=True)
    return e / np.where(total == 0, 1, total)


def attend(q, k, v, mask):
    return softmax(np.where(mask, q @ k.T / np.sqrt(q.shape[-1]), -np.inf)) @ v


def causal(t, s=None):
    """Query i of the last t of s positions sees the keys up to its own."""
    s = s or t
    return np.arange(s - t, s)[:, None] >= np.arange(s)


def self_attention(x, mask):
    return attend(x @ W_Q, x @ W_K, x @ W_V, mask)


def rotate(x, position, theta=10000.0):
    """Rotary embedding, half layout: component j turns with component j + k/2."""
    half = x.shape[-1] // 2
    return turn(x, np.asarray(position)[:, None] / theta ** (np.arange(half) / half))


def turn(x, angle):
    """Rows of x by the angles of their planes, (t, k/2)."""
    a, b = np.split(x, 2, axis=1)
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], 1)


def rotary_attention(x, position, mask):
    return attend(rotate(x @ W_Q, position), rotate(x @ W_K, position), x @ W_V, mask)


def softmax_backward(weights, d_weights):
    """a = softmax(s) gives d_s = a (d_a - <a, d_a>)."""
    return weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True))


def attend_backward(q, k, v, d_o, weights):
    """o = a v,  a = softmax(s),  s = q k / sqrt(width)."""
    d_s = softmax_backward(weights, d_o @ v.T) / np.sqrt(q.shape[-1])
    return d_s @ k, d_s.T @ q, weights.T @ d_o


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def cross_entropy(logits, targets, weights):
    """The mean of -log p over positions of weight 1; 0 where there is none."""
    each = -log_softmax(logits)[np.arange(len(targets)), targets]
    return (weights * each).sum() / max(weights.sum(), 1)


def draw(key, logits):
    """The Gumbel trick: arg max of logits + noise is a draw from their softmax."""
    return np.argmax(logits + np.random.default_rng(key).gumbel(size=len(logits)))
