import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import cache
from minilm.reference.attention import cache as reference
from minilm.shapes import Tokens
from tests.records import Record
from tests.strategies import arrays, seeds, sizes


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


RECORDS = (Record(cache.append, reference.append, reference.append_backward, append_arguments()),)
