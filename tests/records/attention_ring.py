from functools import wraps

import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import ring
from minilm.reference.attention import ring as reference
from tests.records import Record
from tests.strategies import arrays, seeds, sizes

OUTPUT, LSE = 0, 1


@st.composite
def merge_arguments(draw, rows_are_empty):
    """Two outputs and their lse, of which either is −∞ here and there; if rows may be empty, also both."""
    g, r, t, v = draw(sizes((2, 3, 5, 4), (3, 1, 4, 2)))
    o, lse, o_2, lse_2 = (draw(arrays(*shape)) for shape in 2 * ((g, r, t, v), (g, r, t)))
    rng = np.random.default_rng(draw(seeds))
    unseen, unseen_2 = rng.random(lse.shape) < 0.3, rng.random(lse.shape) < 0.3
    unseen_2 &= rows_are_empty | ~unseen
    nothing = (np.where(unseen, -np.inf, lse), np.where(unseen_2, -np.inf, lse_2))
    return np.where(unseen[..., None], 0, o), nothing[0], np.where(unseen_2[..., None], 0, o_2), nothing[1]


def part(function, which):
    """The output alone or the lse alone."""

    @wraps(function)
    def one(*arguments):
        return function(*arguments)[which]

    return one


def reference_part(which):
    @wraps(reference.merge)
    def one(*arguments):
        out, saved = reference.merge(*arguments)
        return out[which], saved

    return one


def backward_part(which):
    def gradients(saved, d_out):
        o, _, w, _ = saved
        return reference.merge_backward(
            saved, (d_out, np.zeros(w.shape)) if which == OUTPUT else (np.zeros(o.shape), d_out)
        )

    return gradients


def scipy_merge(which):
    """A softmax of the two lse, or the logarithm that it divides by."""

    def merge(o, lse, o_2, lse_2):
        from scipy.special import logsumexp, softmax

        both = np.stack([lse, lse_2])
        empty = np.isneginf(both).all(0)
        weights = np.where(empty, 0, softmax(np.where(empty, 0, both), axis=0))
        return (np.stack([o, o_2]) * weights[..., None]).sum(0) if which == OUTPUT else logsumexp(both, axis=0)

    return merge


def record(which, label, **how):
    arguments = merge_arguments(rows_are_empty=which == OUTPUT)
    oracles = {"scipy": scipy_merge(which)}
    layer = part(ring.merge, which)
    return Record(layer, reference_part(which), backward_part(which), arguments, oracles=oracles, label=label, **how)


RECORDS = (record(OUTPUT, "output"), record(LSE, "lse", statistic=True))
