import functools

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minilm import losses
from minilm.reference import losses as reference
from tests.records import Record
from tests.strategies import arrays, seeds, sizes, weights

SIZES = sizes(((), 3, 5), ((4,), 2, 7), ((3, 2), 5, 4))  # leading axes of the tokens, d, n


def targets(leading, n):
    return hnp.arrays(np.int64, leading, elements=st.integers(0, n - 1))


def token_weights(leading):
    """Integers, for a weight is data and has no gradient. Some are 0, now and then all of them."""
    return hnp.arrays(np.int64, leading, elements=st.integers(0, 3))


def logits(*shape):
    """Numbers of which no two are equal: at a tie the count of correct tokens jumps.

    Not so far apart that p − 1 loses its digits: a lone token's gradient would be nothing else.
    """
    return st.builds(
        lambda seed, scale: scale * np.random.default_rng(seed).standard_normal(shape),
        seeds,
        st.sampled_from([0.1, 0.5, 2.0]),
    )


@st.composite
def token_arguments(draw):
    leading, _, n = draw(SIZES)
    return draw(logits(*leading, n)), draw(targets(leading, n))


@st.composite
def loss_arguments(draw):
    leading, _, n = draw(SIZES)
    return draw(logits(*leading, n)), draw(targets(leading, n)), draw(token_weights(leading))


@st.composite
def smoothed_arguments(draw):
    return *draw(loss_arguments()), np.asarray(draw(st.sampled_from([0.0, 0.125, 0.5, 1.0])))


@st.composite
def z_loss_arguments(draw):
    leading, _, n = draw(SIZES)
    return draw(arrays(*leading, n)), draw(token_weights(leading))


@st.composite
def chunked_arguments(draw):
    leading, d, n = draw(SIZES)
    return draw(logits(*leading, d)), draw(weights(n, d)) / d, draw(targets(leading, n)), draw(token_weights(leading))


def with_metrics(function):
    """The reference's result in the layer's own NamedTuple, so that one cotangent fits both."""

    @functools.wraps(function)
    def call(*arguments, **static):
        (loss, metrics), saved = function(*arguments, **static)
        return (np.asarray(loss), losses.Metrics._make(map(np.asarray, metrics))), saved

    return call


def torch_token_cross_entropy(logits, targets):
    import torch

    rows = logits.reshape(-1, logits.shape[-1])
    return torch.nn.functional.cross_entropy(rows, targets.ravel(), reduction="none").reshape(targets.shape)


def optax_token_cross_entropy(logits, targets):
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


RECORDS = (
    Record(
        losses.token_cross_entropy,
        reference.token_cross_entropy,
        reference.token_cross_entropy_backward,
        token_arguments(),
        oracles={"torch": torch_token_cross_entropy, "optax": optax_token_cross_entropy},
        statistic=True,
    ),
    Record(
        losses.cross_entropy,
        with_metrics(reference.cross_entropy),
        reference.cross_entropy_backward,
        loss_arguments(),
        statistic=True,
    ),
    Record(
        losses.label_smoothed_cross_entropy,
        with_metrics(reference.label_smoothed_cross_entropy),
        reference.label_smoothed_cross_entropy_backward,
        smoothed_arguments(),
        statistic=True,
    ),
    Record(losses.z_loss, reference.z_loss, reference.z_loss_backward, z_loss_arguments(), statistic=True),
    Record(
        losses.chunked_cross_entropy,
        with_metrics(reference.chunked_cross_entropy),
        reference.chunked_cross_entropy_backward,
        chunked_arguments(),
        static={"chunk": 4},
        statistic=True,
        precise=False,  # logits rounded to x's dtype tie, and a tie counts as correct
    ),
)
