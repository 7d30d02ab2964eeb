"""Planted bugs of samplers."""

import itertools

import numpy as np

from minilm import laws
from tests.gallery import plant
from tests.gallery.textbook import draw, softmax


def among(kept):
    """Draw from the softmax of the logits that `kept` keeps."""
    return lambda key, logits: draw(key, np.where(kept(logits), logits, -np.inf))


@plant(laws.same_key_same_token)
def a_seed_that_is_not_asked():
    """A request's seed lost its effect when another request of the batch had none: vLLM issue 51226; Marigold issue
    32."""
    calls = itertools.count()
    return lambda key, logits: draw(next(calls), logits), draw


@plant(laws.support, among=laws.top_k(2))
def one_token_more_than_k():
    """`indices_range > top_k` keeps k + 1 tokens, so top-k of 1 was not greedy: mesh-transformer-jax issue 164."""
    return (
        among(lambda logits: logits >= np.sort(logits)[-3]),
        among(lambda logits: logits >= np.sort(logits)[-2]),
    )


@plant(laws.frequencies, among=laws.top_k(50))
def a_k_beyond_the_vocabulary():
    """Clamped to the vocabulary less one, as vLLM pull request 14234 proposed, a k that should keep all loses the last;
    unclamped it raises: TransformerLens pull request 1347."""

    def clamped(spare):
        return among(lambda logits: logits >= np.sort(logits)[-min(50, len(logits) - spare)])

    return clamped(1), clamped(0)


@plant(laws.support, among=laws.min_p(0.3))
def min_p_as_an_absolute_probability():
    """min-p is relative to the likeliest token: a threshold of p itself keeps other tokens. (No thread known to us.)"""
    return (
        among(lambda logits: softmax(logits) >= 0.05),
        among(lambda logits: softmax(logits) >= 0.3 * softmax(logits).max()),
    )


def nucleus(p, reaches):
    def kept(logits):
        order = np.argsort(-logits)
        mass = np.cumsum(softmax(logits)[order])
        keep = np.zeros(len(logits), bool)
        keep[order[reaches(mass, softmax(logits)[order], p)]] = True
        keep[order[0]] = True
        return keep

    return among(kept)


@plant(laws.frequencies, among=laws.top_p(0.6))
def the_token_that_crosses_p_is_lost():
    """`cumsum <= p` drops the crossing token and samples a smaller nucleus: fish-speech pull request 1171, esm pull
    request 360,
    reasoning-from-scratch issue 164."""
    return (
        nucleus(0.6, lambda mass, p_j, p: mass <= p),
        nucleus(0.6, lambda mass, p_j, p: mass - p_j < p),
    )


@plant(laws.support, among=laws.top_p(0.5))
def an_empty_nucleus():
    """If even the likeliest token crosses p nothing is kept, and the fallback draws token 0: google-deepmind/simply
    pull request 42."""

    def sample(key, logits):
        order = np.argsort(-logits)
        kept = order[np.cumsum(softmax(logits)[order]) <= 0.5]
        return kept[draw(key, logits[kept])] if len(kept) else 0

    return sample, nucleus(0.5, lambda mass, p_j, p: mass - p_j < p)


@plant(laws.frequencies, among=lambda logits: softmax(logits / 2))
def a_temperature_applied_twice():
    """Divided once for all backends and once more in one of them; a temperature of 1 hides it: RL-Kernel issue 81."""
    return lambda key, logits: draw(key, logits / 2 / 2), lambda key, logits: draw(key, logits / 2)


def exponentials(largest):
    """Draw by the cumulative sum of exponentials of the logits less `largest` of them."""

    def sample(key, logits):
        with np.errstate(over="ignore", invalid="ignore"):
            weights = np.exp(logits - largest(logits))
            return np.argmax(np.cumsum(weights / weights.sum()) > np.random.default_rng(key).random())

    return sample


@plant(laws.support)
def a_maximum_not_subtracted():
    """Of [0, 1000] the second weight is infinite, every share NaN, and token 0 drawn for ever: colibri issue 369,
    xFasterTransformer pull request 326."""
    return exponentials(lambda logits: 0), exponentials(np.max)


@plant(laws.frequencies)
def a_maximum_that_begins_at_zero():
    """The larger of 0 and the maximum: of logits near -1000 every weight is 0, and 0 / 0 is no share: NNlib.jl pull
    request 43, tinyengine issue 107."""
    return exponentials(lambda logits: max(logits.max(), 0)), exponentials(np.max)


@plant(laws.frequencies)
def tokens_counted_from_the_end():
    """-1 for the last token: a table that it indexes answers as if nothing were wrong. (No thread known to us.)"""
    return lambda key, logits: draw(key, logits) - len(logits), draw


@plant(laws.support)
def a_token_between_two():
    """The middle of the bin in place of its number, which whoever rounds it down never notices. (No thread known to
    us.)"""
    return lambda key, logits: draw(key, logits) + 0.5, draw


@plant(laws.zero_temperature_is_argmax)
def a_temperature_too_small_to_divide_by():
    """exp(z / τ) overflows as τ falls; every weight is then NaN and token 0 wins: gemma issue 562, nanoGPT issue 738,
    lattice pull request 399."""

    def naive(key, logits, temperature):
        with np.errstate(over="ignore", invalid="ignore"):
            weights = np.exp(logits / temperature)
            return np.argmax(np.cumsum(weights / weights.sum()) > np.random.default_rng(key).random())

    return naive, lambda key, logits, temperature: draw(key, logits / temperature)
