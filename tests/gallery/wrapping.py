"""Planted bugs of the way in which code is called, not of what it computes."""

import numpy as np

from minilm import laws
from tests.gallery import plant
from tests.gallery.textbook import D, causal, self_attention


@plant(laws.positions_mixed, d=D)
def a_batch_of_texts_of_one_token():
    """(1, t, d) given to a layer whose first axis is the sequence, as it is without `batch_first=True`: IBM/TabFormer
    pull request 14, DaoyuanLi2816/Molecule-Generator pull request 22, TorchLeet issue 5."""

    def layer(x):
        return np.stack([self_attention(x[:, b], causal(len(x))) for b in range(x.shape[1])], axis=1)

    return lambda x: layer(x[None])[0], lambda x: layer(x[:, None])[:, 0]


@plant(laws.positions_mixed, d=D)
def nothing_but_the_residual():
    """A mixer that gives back what it got is as causal as can be. (No thread known to us.)"""
    return lambda x: x, lambda x: x + self_attention(x, causal(len(x)))


def into_one_buffer(mixer):
    """Its results lie where the last ones of the same shape lay."""
    buffers = {}

    def reusing(x):
        out = buffers.setdefault(x.shape, np.empty_like(x))
        out[:] = mixer(x)
        return out

    return reusing


@plant(laws.causality, d=D)
def a_result_that_the_next_call_overwrites():
    """Two results in the same memory are equal, whatever was computed; a review of mlc-ai/relax pull request 89 kept a
    graph's outputs out of it. Of the twin, nothing is broken."""
    return into_one_buffer(lambda x: self_attention(x, True)), into_one_buffer(
        lambda x: self_attention(x, causal(len(x)))
    )


@plant(laws.permutation_equivariance, d=D)
def an_order_seen_through_one_buffer():
    """The same of a law that permutes: a running mean is no set's. Of the twin, nothing is broken."""
    running = lambda x: np.cumsum(x, 0) / np.arange(1, len(x) + 1)[:, None]  # noqa: E731
    return into_one_buffer(running), into_one_buffer(lambda x: self_attention(x, True))


def masked(x):
    return self_attention(x, causal(len(x)))


@plant(laws.padding_ignored, d=D, mixer=masked)
def a_padding_mask_in_the_place_of_the_causal_one():
    """The mask built from the padding alone, so that a padded batch sees its future: candle pull request 3609."""
    return lambda x, real: self_attention(x, real), lambda x, real: self_attention(x, causal(len(x)) & real)


@plant(laws.padding_ignored, d=D)
def nothing_but_the_real_rows():
    """Unpadded on the way in, and on the way out not padded again: results of four tokens for a row of six. (No thread
    known to us.)"""
    padded = lambda x, real: self_attention(x, causal(len(x)) & real)  # noqa: E731
    return lambda x, real: padded(x, real)[real], padded


@plant(laws.documents_kept_apart, d=D, mixer=masked)
def documents_that_see_their_own_future():
    """A packed row whose documents are kept apart, and whose tokens are not. (No thread known to us.)"""

    def packed(x, document, mask):
        return self_attention(x, mask & (document[:, None] == document))

    return lambda x, document: packed(x, document, True), lambda x, document: packed(x, document, causal(len(x)))


@plant(laws.documents_kept_apart, d=D, mixer=masked)
def a_row_that_nobody_wrote():
    """Zeros are kept apart from zeros. (No thread known to us.)"""
    same = lambda document: document[:, None] == document  # noqa: E731
    return (
        lambda x, document: 0 * x,
        lambda x, document: self_attention(x, causal(len(x)) & same(document)),
    )


@plant(laws.batch_equals_one_by_one, d=D, mixer=masked)
def a_batch_of_zeros():
    """A batch whose results are zeros, whatever is asked: TensorRT issue 642. Zeros one by one are the same zeros."""
    return lambda x: 0 * x, lambda x: np.stack([masked(one) for one in x])
