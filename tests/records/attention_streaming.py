import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import streaming
from minilm.layers.attention.cache import KVCache
from minilm.reference.attention import streaming as reference
from minilm.shapes import Tokens
from tests import torch_oracle
from tests.records import Record
from tests.strategies import arrays, seeds, sizes

SINKS, WINDOW = 2, 3


def torch_streaming(q, k, v, query, key, *, sinks, window, theta):
    """Every pair by itself: one turn of complex numbers by the distance that the module's table gives."""
    import torch

    half = q.shape[-1] // 2
    p, j = query.position[:, None], key.position
    distance = torch.where(j < sinks, p.clamp(max=sinks + window - 1), p) - j
    angle = distance[..., None] * theta ** (-torch.arange(half, dtype=q.dtype) / half)
    q, k = (torch.complex(x[..., :half], x[..., half:]) for x in (q, k))
    turn = torch.polar(torch.ones_like(angle), angle)
    a = torch.einsum("grtm,gsm,tsm->grts", q, k.conj(), turn).real / (2 * half) ** 0.5
    seen = (j >= 0) & (j <= p) & ((j < sinks) | (p - j < window))
    return torch.einsum("grts,gsv->grtv", torch_oracle.softmax(a, seen), v)


@st.composite
def streaming_arguments(draw):
    """The sinks and a stretch of the text, at its beginning or far on, in any order; padding among queries and keys."""
    g, r, t, s, k, v = draw(sizes((2, 3, 4, 8, 6, 1), (1, 2, 5, 9, 4, 3)))
    rng, far = np.random.default_rng(draw(seeds)), draw(st.sampled_from([0, 1, 50, 700]))
    stretch = SINKS + far + np.arange(s - SINKS - 1)
    held = rng.permutation([-1, *range(SINKS), *stretch])
    complete = stretch if far == 0 else stretch[WINDOW - 1 :]
    asked = np.where(rng.random(t) < 0.2, -1, rng.choice(complete, t))
    query, key = Tokens(asked, np.zeros(t, int)), Tokens(held, np.zeros(s, int))
    return draw(arrays(g, r, t, k)), draw(arrays(g, s, k)), draw(arrays(g, s, v)), query, key


@st.composite
def append_arguments(draw):
    """A chunk anywhere in the text, in any order, shorter or longer than the window, with padding among its tokens."""
    g, k, v, t = draw(sizes((2, 3, 4, 3), (1, 2, 3, 8)))
    rng, size = np.random.default_rng(draw(seeds)), SINKS + WINDOW
    held = Tokens(rng.integers(-1, 9, size), rng.integers(0, 3, size))
    real = rng.random(t) < 0.7
    position = np.where(real, draw(st.integers(0, 20)) + np.cumsum(real) - 1, -1)
    full = KVCache(k=draw(arrays(g, size, k)), v=draw(arrays(g, size, v)), tokens=held)
    chunk = Tokens(rng.permutation(position), rng.integers(0, 3, t))
    return full, draw(arrays(g, t, k)), draw(arrays(g, t, v)), chunk


RECORDS = (
    Record(
        streaming.streaming_attention,
        reference.streaming_attention,
        reference.streaming_attention_backward,
        streaming_arguments(),
        static={"sinks": SINKS, "window": WINDOW, "theta": 100.0},
        oracles={"torch": torch_streaming},
    ),
    Record(
        streaming.streaming_append,
        reference.streaming_append,
        reference.streaming_append_backward,
        append_arguments(),
        static={"sinks": SINKS},
    ),
)
