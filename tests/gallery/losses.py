"""Planted bugs of the cross-entropy."""

import numpy as np

from minilm import laws
from tests.gallery import plant
from tests.gallery.textbook import cross_entropy, log_softmax, softmax


def pick(values, targets):
    return values[np.arange(len(targets)), targets]


@plant(laws.non_negative)
def likelihoods_taken_for_logarithms():
    """`NLLLoss` takes logarithms; given probabilities it returns -p, always negative:
    Text-Classification-Models-Pytorch issue 9."""
    return (
        lambda logits, targets, weights: -(weights * pick(softmax(logits), targets)).sum() / weights.sum(),
        cross_entropy,
    )


@plant(laws.equals_minus_log_p)
def a_softmax_too_many():
    """`CrossEntropyLoss` fed with probabilities takes their softmax again, and the loss never falls below a floor.
    (Too common for one thread.)"""
    return lambda logits, targets, weights: cross_entropy(softmax(logits), targets, weights), cross_entropy


@plant(laws.equals_minus_log_p)
def an_exponential_that_overflows():
    """No maximum subtracted before exp: NNlib.jl issue 68, deeplearning4j issue 6039."""

    def naive(logits, targets, weights):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            return -(weights * np.log(pick(p, targets))).sum() / weights.sum()

    return naive, cross_entropy


def smoothed(epsilon, uniform, count=None):
    def loss(logits, targets, weights):
        log_p = log_softmax(logits)
        spread = -uniform(log_p, targets)
        total = (weights * (1 - epsilon) * -pick(log_p, targets)).sum()
        return (total + epsilon * (spread * (weights if count is None else count)).sum()) / max(weights.sum(), 1)

    return loss


@plant(laws.equals_minus_log_p, smoothing=0.1)
def smoothing_over_the_other_classes_only():
    """ε/(n−1) on the n−1 wrong classes is another loss than ε/n on all; OpenNMT's divided by n−2: OpenNMT issue 570."""

    def others(log_p, targets):
        return (log_p.sum(-1) - pick(log_p, targets)) / (log_p.shape[-1] - 1)

    return smoothed(0.1, others), smoothed(0.1, lambda log_p, targets: log_p.mean(-1))


@plant(laws.ignored_positions_do_not_count)
def smoothing_that_counts_the_ignored():
    """The uniform part of the smoothed loss summed over ignored positions too: PyTorch issue 73205."""

    def uniform(log_p, targets):
        return log_p.mean(-1)

    return smoothed(0.2, uniform, count=1), smoothed(0.2, uniform)


@plant(laws.ignored_positions_do_not_count)
def a_mean_over_all_positions():
    """Padding in the denominator: long padding, small loss; the attention mask never reached the loss:
    TransformerLens issue 1607."""

    def diluted(logits, targets, weights):
        return cross_entropy(logits, targets, weights) * weights.sum() / len(weights)

    return diluted, cross_entropy


@plant(laws.all_ignored_gives_zero)
def nothing_divided_by_nothing():
    """A batch of nothing but ignored positions is NaN, and after the next step so is the model: PyTorch issues 70348,
    75181, 116349."""

    def naive(logits, targets, weights):
        with np.errstate(invalid="ignore"):
            return -(weights * pick(log_softmax(logits), targets)).sum() / weights.sum()

    return naive, cross_entropy


def gradient(keep, count=lambda weights: max(weights.sum(), 1)):
    def grad(logits, targets, weights):
        one_hot = np.eye(logits.shape[-1])[targets]
        with np.errstate(invalid="ignore"):
            return keep(weights)[:, None] * (softmax(logits) - one_hot) / count(weights)

    return grad


@plant(laws.all_ignored_gives_no_gradient)
def nothing_divided_by_nothing_and_hidden():
    """`where(n > 0, sum / n, 0)` is 0 where all is ignored, but its gradient 0 · NaN: both sides of a `where` are
    differentiated, as JAX's page of frequently asked questions warns."""
    return gradient(lambda weights: weights, np.sum), gradient(lambda weights: weights)


@plant(laws.order_of_positions_irrelevant)
def the_mean_of_the_means():
    """Accumulation that averages micro-batch means: x₁/n₁ + x₂/n₂ is not (x₁ + x₂)/(n₁ + n₂): transformers issue
    24725 and pull request 34191, torchtune pull request 1875."""

    def accumulated(logits, targets, weights):
        first, second = slice(0, 1 + len(targets) // 3), slice(1 + len(targets) // 3, None)
        return (
            cross_entropy(logits[first], targets[first], weights[first])
            + cross_entropy(logits[second], targets[second], weights[second])
        ) / 2

    return accumulated, cross_entropy


@plant(laws.gradient_sums_to_zero)
def a_gradient_at_ignored_positions():
    """The forward pass skipped ignored positions, the backward kernel did not: Paddle pull request 28622."""
    return gradient(np.ones_like), gradient(lambda weights: weights)


@plant(laws.gradient_sums_to_zero)
def a_gradient_without_the_target():
    """p in place of p − y: the target's one-hot never subtracted. (No thread known to us.)"""
    return lambda logits, targets, weights: weights[:, None] * softmax(logits), gradient(lambda weights: weights)
