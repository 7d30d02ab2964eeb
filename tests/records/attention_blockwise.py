from functools import wraps

import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import biases, blockwise, masks
from minilm.reference.attention import biases as reference_biases
from minilm.reference.attention import blockwise as reference
from minilm.reference.attention import masks as reference_masks
from minilm.shapes import Tokens
from tests.records import Record
from tests.strategies import arrays, seeds, sizes

OUTPUT, LSE = 0, 1


SHAPES = (2, 3, 5, 7, 4, 1), (3, 1, 4, 2, 1, 2)


@st.composite
def blockwise_arguments(draw, rows_are_empty, shapes=SHAPES):
    """Positions in any order, on slots of which some are empty; if no row may be, every query sees position 0."""
    g, r, t, s, k, v = draw(sizes(*shapes))
    rng = np.random.default_rng(draw(seeds))
    key = rng.integers(-1, 8, s)
    key[0] = key[0] if rows_are_empty else 0
    query = rng.integers(-1 if rows_are_empty else 0, 8, t)
    query, key = Tokens(query, np.zeros(t, int)), Tokens(key, np.zeros(s, int))
    return draw(arrays(g, r, t, k)), draw(arrays(g, s, k)), draw(arrays(g, s, v)), query, key, draw(arrays(g, r))


def part(which):
    """The output alone or the log-sum-exp alone, of causal attention with ALiBi, in tiles that divide nothing."""

    @wraps(blockwise.blockwise_attention)
    def one(q, k, v, query, key, slopes):
        rule, bias = masks.Causal(), biases.Alibi(slopes)
        return blockwise.blockwise_attention(q, k, v, query, key, rule, bias, t_block=2, s_block=3)[which]

    return one


def reference_part(which):
    @wraps(reference.blockwise_attention)
    def one(q, k, v, query, key, slopes):
        bias = reference_biases.Alibi(slopes)
        out, saved = reference.blockwise_attention(q, k, v, query, key, reference_masks.Causal(), bias)
        return out[which], saved

    return one


def backward_part(which, backward=reference.blockwise_attention_backward):
    def gradients(saved, d_out):
        o, lse = saved[-2:]
        d_out = (d_out, np.zeros(lse.shape)) if which == OUTPUT else (np.zeros(o.shape), d_out)
        d_q, d_k, d_v, *_, d_bias = backward(saved, d_out)
        return d_q, d_k, d_v, None, None, d_bias.slopes

    return gradients


def record(which, label, **how):
    arguments = blockwise_arguments(rows_are_empty=which == OUTPUT)
    return Record(part(which), reference_part(which), backward_part(which), arguments, label=label, **how)


@st.composite
def gradients_arguments(draw):
    """o and lse are of all keys, so that no weight exceeds 1, and some keys aren't here; some queries see nothing."""
    q, k, v, query, key, slopes = draw(blockwise_arguments(rows_are_empty=True))
    d_o, d_lse = draw(arrays(*q.shape[:3], v.shape[2])), draw(arrays(*q.shape[:3]))
    bias, rule = reference_biases.Alibi(slopes), reference_masks.Causal()
    (o, lse), _ = reference.blockwise_attention(q, k, v, query, key, rule, bias)
    here = np.random.default_rng(draw(seeds)).random(k.shape[1]) < 0.6
    key = Tokens(np.where(here, key.position, -1), key.document)
    return q, k, v, query, key, slopes, o, lse, d_o, d_lse


@wraps(blockwise.blockwise_gradients)
def gradients(q, k, v, query, key, slopes, *rest):
    bias = biases.Alibi(slopes)
    out = blockwise.blockwise_gradients(q, k, v, query, key, masks.Causal(), bias, *rest, t_block=2, s_block=3)
    return *out[:3], out[3].slopes


@wraps(reference.blockwise_gradients)
def reference_gradients(q, k, v, query, key, slopes, *rest):
    bias = reference_biases.Alibi(slopes)
    out, saved = reference.blockwise_gradients(q, k, v, query, key, reference_masks.Causal(), bias, *rest)
    return (*out[:3], out[3].slopes), saved


RECORDS = (
    record(OUTPUT, "output"),
    record(LSE, "lse", statistic=True),
    # Not precise: a rounded lse is the exponent of every weight.
    Record(gradients, reference_gradients, None, gradients_arguments(), precise=False),
)
