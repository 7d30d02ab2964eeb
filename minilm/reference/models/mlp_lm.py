"""Bengio's neural n-gram by hand, forward and backward.

Parameters are the NamedTuples of `minilm.models.mlp_lm`, whose fields hold NumPy arrays here; gradients come in the
same structure. How many tokens it reads is the hidden layer's input width over the width of a token's vector.
"""

import numpy as np

from minilm.reference.activation import tanh, tanh_backward
from minilm.reference.embedding import embed, embed_backward
from minilm.reference.linear import linear, linear_backward, matmul, matmul_backward
from minilm.reference.losses import Metrics, cross_entropy, cross_entropy_backward


def apply(params, tokens):
    """x_t = (e_{t-m+1}, ..., e_t), e = E[tokens];  h = tanh(x W + b);  logits = h U + c, and x D where there is a D."""
    e, saved_e = embed(params.embedding, tokens)
    x, saved_x = windows(e, len(params.hidden.w) // e.shape[-1])
    a, saved_a = linear(params.hidden, x)
    h, saved_h = tanh(a)
    logits, saved_u = linear(params.output, h)
    if params.w_direct is not None:
        logits = logits + matmul(x, params.w_direct)[0]
    return logits, (params, x, saved_e, saved_x, saved_a, saved_h, saved_u)


def apply_backward(saved, d_logits):
    """Gradients with respect to (params, tokens), the lines of `apply` upwards.

    logits = h U + c + x D   gives  d_U, d_c, d_D, d_h = d_logits U^T  and a first part of d_x = d_logits D^T;
    h = tanh(a)              gives  d_a = d_h (1 - h^2);
    a = x W + b              gives  d_W, d_b  and a second part of d_x = d_a W^T;
    x_t = (..., e_t)         gives  d_e: every vector was read by the m positions from its own on;
    e = E[tokens]            gives  d_E.
    """
    params, x, saved_e, saved_x, saved_a, saved_h, saved_u = saved
    d_output, d_h = linear_backward(saved_u, d_logits)
    d_hidden, d_x = linear_backward(saved_a, tanh_backward(saved_h, d_h))
    d_direct = None
    if params.w_direct is not None:
        d_shortcut, d_direct = matmul_backward((x, params.w_direct), d_logits)
        d_x = d_x + d_shortcut
    d_e, _ = windows_backward(saved_x, d_x)
    d_embedding, _ = embed_backward(saved_e, d_e)
    return type(params)(embedding=d_embedding, hidden=d_hidden, output=d_output, w_direct=d_direct), None


def windows(e, m):
    """x[t] = (e[t - m + 1], ..., e[t]) side by side, oldest first; what would stand before the text is zero."""
    t, d = e.shape[-2:]
    x = np.zeros((*e.shape[:-1], m * d))
    for place in range(t):
        for j in range(m):
            if place - j >= 0:
                x[..., place, (m - 1 - j) * d : (m - j) * d] = e[..., place - j, :]
    return x, (e.shape, m)


def windows_backward(saved, d_x):
    """Gradients with respect to (e, m): x[t] holds e[t - j], so d_e[t - j] += that part of d_x[t]; m is an integer."""
    (*leading, t, d), m = saved
    d_e = np.zeros((*leading, t, d))
    for place in range(t):
        for j in range(m):
            if place - j >= 0:
                d_e[..., place - j, :] += d_x[..., place, (m - 1 - j) * d : (m - j) * d]
    return d_e, None


def loss(params, batch):
    """The mean cross-entropy of the batch: ((loss, metrics), saved)."""
    logits, saved_logits = apply(params, batch.tokens)
    out, saved_loss = cross_entropy(logits, batch.targets, batch.weights)
    return out, (saved_logits, saved_loss)


def loss_backward(saved, d_loss=1.0):
    """The gradient of every parameter, in the structure of the parameters."""
    saved_logits, saved_loss = saved
    d_logits, _, _ = cross_entropy_backward(saved_loss, (d_loss, Metrics(0.0, 0.0, 0.0)))
    d_params, _ = apply_backward(saved_logits, d_logits)
    return d_params
