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
