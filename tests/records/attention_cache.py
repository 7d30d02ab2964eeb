from functools import wraps

import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import cache, core, masks, qk_norm, rotary
from minilm.layers.normalization import RMSNormParams
from minilm.reference.attention import cache as reference
from minilm.reference.attention import core as reference_core
from minilm.reference.attention import masks as reference_masks
from minilm.reference.attention import qk_norm as reference_qk_norm
from minilm.reference.attention import rotary as reference_rotary
from minilm.shapes import Tokens
from tests.records import Record
from tests.strategies import arrays, seeds, sizes, weights


@st.composite
def slot_arguments(draw):
    """Rows for slots of which no two are one, some of them beyond the last."""
    g, size, k, t = draw(sizes((2, 5, 3, 4), (1, 4, 3, 1), (3, 4, 1, 6)))
    slot = np.random.default_rng(draw(seeds)).permutation(size + 3)[:t]
    return draw(arrays(g, size, k)), slot, draw(arrays(g, t, k))


@st.composite
def append_arguments(draw):
    """A chunk at any position, which may go round the cache's end, with padding before, between or after its tokens."""
    g, size, k, v, t = draw(sizes((2, 5, 3, 4, 3), (1, 4, 2, 3, 4), (3, 7, 1, 2, 2)))
    rng = np.random.default_rng(draw(seeds))
    held = Tokens(rng.integers(-1, 9, size), rng.integers(0, 3, size))
    position = draw(st.integers(0, 20)) + np.arange(t)
    chunk = Tokens(np.where(rng.random(t) < 0.7, position, -1), rng.integers(0, 3, t))
    full = cache.KVCache(k=draw(arrays(g, size, k)), v=draw(arrays(g, size, v)), tokens=held)
    return full, draw(arrays(g, t, k)), draw(arrays(g, t, v)), chunk


@st.composite
def chunk_arguments(draw):
    """Two tokens are held, and a chunk follows them in which one may be padding; heads of width 4, to be turned."""
    g, r, size, v, t = draw(sizes((2, 3, 5, 1, 3), (1, 2, 4, 3, 2)))
    held = Tokens(np.where(np.arange(size) < 2, np.arange(size), -1), np.zeros(size, int))
    chunk = Tokens(np.where(np.arange(t) == draw(st.integers(0, t)), -1, np.arange(2, t + 2)), np.zeros(t, int))
    full = cache.KVCache(k=draw(arrays(g, size, 4)), v=draw(arrays(g, size, v)), tokens=held)
    q, k = (draw(weights(*shape)) for shape in ((g, r, t, 4), (g, t, 4)))  # a norm of zeros would have no slope
    return full, q, k, draw(arrays(g, t, v)), chunk


def attending(function, qk_norm, rotary, core, masks):
    """The function with an attention of the modules' own filled in, which normalises, then turns each query and key."""
    scales = np.array([1.5, 0.5, -0.7, 2.0]), np.array([0.8, 1.2, 2.0, -1.0])
    turned = rotary.Rotary(core.Dense(masks.Causal()), 100.0)
    attend = qk_norm.NormalizedHeads(turned, *map(RMSNormParams, scales))

    @wraps(function)
    def read(*arguments):
        return function(*arguments, attend)

    return read


def chunk_backward(saved, d_out):
    return reference.append_and_attend_backward(saved, d_out)[:-1]


RECORDS = (
    Record(cache.write_slots, reference.write_slots, reference.write_slots_backward, slot_arguments()),
    Record(cache.append, reference.append, reference.append_backward, append_arguments()),
    Record(
        attending(cache.append_and_attend, qk_norm, rotary, core, masks),
        attending(reference.append_and_attend, reference_qk_norm, reference_rotary, reference_core, reference_masks),
        chunk_backward,
        chunk_arguments(),
    ),
)
