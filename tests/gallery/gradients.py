"""Planted bugs of gradients that a sum, a sign or finite numbers do not give away."""

import numpy as np

from minilm import laws
from tests.gallery import plant
from tests.gallery.attention import scores
from tests.gallery.losses import gradient, smoothed
from tests.gallery.mixers import a_backward_kernel_without_the_mask
from tests.gallery.textbook import (
    D,
    attend,
    attend_backward,
    causal,
    cross_entropy,
    self_attention,
    softmax,
)


def loss_gradient(logits, targets, weights):
    return gradient(lambda weights: weights)(logits, targets, weights)


def attention_gradient(q, k, v, mask, d_o):
    return attend_backward(q, k, v, d_o, softmax(np.where(mask, scores(q, k), -np.inf)))


@plant(laws.loss_gradient_equals_differences)
def a_mean_over_all_positions_in_the_backward_pass():
    """The forward pass divides by the number of targets, the backward pass by the length: fetchai/ledger pull request
    1580, whose review took such a division out again."""

    def diluted(logits, targets, weights):
        return loss_gradient(logits, targets, weights) * weights.sum() / len(weights)

    return (cross_entropy, diluted), (cross_entropy, loss_gradient)


@plant(laws.loss_gradient_equals_differences)
def a_step_up_the_hill():
    """y - p in place of p - y: its rows sum to 0 as well. (No thread known to us.)"""
    return (cross_entropy, lambda *batch: -loss_gradient(*batch)), (cross_entropy, loss_gradient)


@plant(laws.loss_gradient_equals_differences)
def a_gradient_that_nobody_wrote():
    """A buffer of zeros that the kernel never filled: no law of sums can tell. (No thread known to us.)"""
    return (cross_entropy, lambda logits, targets, weights: 0 * logits), (cross_entropy, loss_gradient)


@plant(laws.loss_gradient_equals_differences)
def smoothing_forgotten_in_the_backward_pass():
    """A smoothed loss with the plain one's gradient. (No thread known to us.)"""
    epsilon = 0.1
    loss = smoothed(epsilon, lambda log_p, targets: log_p.mean(-1))

    def grad(logits, targets, weights):
        y = (1 - epsilon) * np.eye(logits.shape[-1])[targets] + epsilon / logits.shape[-1]
        return weights[:, None] * (softmax(logits) - y) / max(weights.sum(), 1)

    return (loss, loss_gradient), (loss, grad)


@plant(laws.attention_gradient_equals_differences)
def a_scale_of_another_width_in_the_backward_pass():
    """The backward kernel took the root of the padded width: tilelang-ascend pull request 1670."""

    def padded(q, k, v, mask, d_o):
        d_q, d_k, d_v = attention_gradient(q, k, v, mask, d_o)
        return d_q * np.sqrt(2 / 16), d_k * np.sqrt(2 / 16), d_v

    return (attend, padded), (attend, attention_gradient)


@plant(laws.empty_rows_have_finite_gradients)
def zeros_that_are_finite():
    """A gradient of zeros has no NaN in it. (No thread known to us.)"""
    return lambda q, k, v, mask, d_o: (0 * q, 0 * k, 0 * v), attention_gradient


@plant(laws.gradient_equals_differences, d=D)
def a_gradient_cut_off():
    """A `detach` too many: no gradient is no leak either. (No thread known to us.)"""
    _, grad = a_backward_kernel_without_the_mask()
    mixer = lambda x: self_attention(x, causal(len(x)))  # noqa: E731
    return (mixer, lambda x, d_y: 0 * x), (mixer, grad)
