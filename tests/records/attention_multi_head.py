from functools import wraps

import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import core, masks, multi_head
from minilm.layers.attention.cache import KVCache
from minilm.reference.attention import core as reference_core
from minilm.reference.attention import masks as reference_masks
from minilm.reference.attention import multi_head as reference
from minilm.shapes import Tokens
from tests import torch_oracle
from tests.records import Record
from tests.strategies import arrays, seeds, sizes, weights

# (d, g, r, k, v, t) and leading axes, together: each new shape is compiled.
SHAPES = sizes(((6, 2, 3, 1, 4, 5), (2,)), ((5, 1, 3, 4, 2, 7), ()), ((6, 3, 2, 4, 5, 1), (2, 1)))


def drawn_params(draw, d, g, r, k, v, memory_width=None):
    m = d if memory_width is None else memory_width
    shapes = {"w_q": (d, g, r, k), "w_k": (m, g, k), "w_v": (m, g, v), "w_o": (g, r, v, d)}
    shapes |= {"b_q": (g, r, k), "b_k": (g, k), "b_v": (g, v), "b_o": (d,)}
    leaves = {name: draw(weights(*shape)) if name[0] == "w" or g == 2 else None for name, shape in shapes.items()}
    return multi_head.MultiHeadParams(**leaves)


def drawn_tokens(draw, leading, t):
    """One place for all sequences or one for each, with padding in it."""
    shape = draw(st.sampled_from([(t,), (*leading, t)]))
    position = np.broadcast_to(np.arange(t), shape)
    padded = np.random.default_rng(draw(seeds)).random(shape) < 0.2
    return Tokens(np.where(padded, -1, position), np.zeros(shape, int))


@st.composite
def project_arguments(draw):
    (d, g, r, k, v, t), leading = draw(SHAPES)
    return drawn_params(draw, d, g, r, k, v, d + 1), draw(arrays(*leading, t, d)), draw(arrays(*leading, t + 1, d + 1))


@st.composite
def merge_arguments(draw):
    (d, g, r, k, v, t), leading = draw(SHAPES)
    return drawn_params(draw, d, g, r, k, v), draw(arrays(*leading, g, r, t, v))


@st.composite
def self_arguments(draw):
    (d, g, r, k, v, t), leading = draw(SHAPES)
    return drawn_params(draw, d, g, r, k, v), draw(arrays(*leading, t, d)), drawn_tokens(draw, leading, t)


@st.composite
def cross_arguments(draw):
    (d, g, r, k, v, t), leading = draw(SHAPES)
    params, x = drawn_params(draw, d, g, r, k, v, d + 1), draw(arrays(*leading, t, d))
    memory = draw(arrays(*leading, t + 1, d + 1))
    return params, x, drawn_tokens(draw, leading, t), memory, drawn_tokens(draw, leading, t + 1)


@st.composite
def step_arguments(draw):
    (d, g, r, k, v, t), _ = draw(SHAPES)
    size = t + 2
    held = Tokens(np.where(np.arange(size) < 2, np.arange(size), -1), np.zeros(size, int))
    cache = KVCache(k=draw(arrays(g, size, k)), v=draw(arrays(g, size, v)), tokens=held)
    chunk = Tokens(np.where(np.arange(t) == 1, -1, np.arange(2, t + 2)), np.zeros(t, int))
    return drawn_params(draw, d, g, r, k, v), cache, draw(arrays(t, d)), chunk


def attending(function, attend):
    """The function with `attend` filled in, since the layer and its reference each take their own."""

    @wraps(function)
    def self_attention(params, x, tokens):
        return function(params, x, tokens, attend)

    return self_attention


def crossing(function, attend):
    @wraps(function)
    def cross_attention(params, x, tokens, memory, memory_tokens):
        return function(params, x, tokens, attend, memory, memory_tokens)

    return cross_attention


def stepping(function, attend):
    @wraps(function)
    def step(params, cache, x, tokens):
        return function(params, cache, x, tokens, attend)

    return step


def without(*places):
    """The backward function without the gradients of the arguments that were filled in."""

    def wrap(backward):
        def gradients(saved, d_out):
            return tuple(d for place, d in enumerate(backward(saved, d_out)) if place not in places)

        return gradients

    return wrap


def torch_multi_head(causal):
    """Every product by itself and PyTorch's softmax, of queries that see all of a memory or none of their future."""

    def oracle(params, x, tokens, memory=None, memory_tokens=None):
        import torch

        memory, memory_tokens = (x, tokens) if memory is None else (memory, memory_tokens)
        q, k, v = (
            torch.tensordot(y, w, 1) + (0 if b is None else b)
            for y, w, b in (
                (x, params.w_q, params.b_q),
                (memory, params.w_k, params.b_k),
                (memory, params.w_v, params.b_v),
            )
        )
        p_t, p_s = tokens.position[..., None], memory_tokens.position[..., None, :]
        mask = ((p_s >= 0) & (p_s <= p_t if causal else p_t >= -1))[..., None, None, :, :]
        weights = torch_oracle.softmax(torch.einsum("...tgrk,...sgk->...grts", q, k) / q.shape[-1] ** 0.5, mask)
        y = torch.einsum("...grts,...sgv,grvd->...td", weights, v, params.w_o)
        return y if params.b_o is None else y + params.b_o

    return oracle


causal, reference_causal = core.Dense(masks.Causal()), reference_core.Dense(reference_masks.Causal())
everywhere, reference_everywhere = core.Dense(masks.Everything()), reference_core.Dense(reference_masks.Everything())

RECORDS = (
    Record(multi_head.project, reference.project, reference.project_backward, project_arguments()),
    Record(multi_head.merge, reference.merge, reference.merge_backward, merge_arguments()),
    Record(
        attending(multi_head.multi_head, causal),
        attending(reference.multi_head, reference_causal),
        without(3, 4, 5)(reference.multi_head_backward),
        self_arguments(),
        oracles={"torch": torch_multi_head(causal=True)},
        label="self",
    ),
    Record(
        crossing(multi_head.multi_head, everywhere),
        crossing(reference.multi_head, reference_everywhere),
        without(3)(reference.multi_head_backward),
        cross_arguments(),
        oracles={"torch": torch_multi_head(causal=False)},
        label="cross",
    ),
    Record(
        stepping(multi_head.multi_head_step, causal),
        stepping(reference.multi_head_step, reference_causal),
        without(4)(reference.multi_head_step_backward),
        step_arguments(),
    ),
)
