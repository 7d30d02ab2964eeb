from functools import wraps

import numpy as np
from hypothesis import strategies as st

from minilm.layers.linear_attention import chunks, decay
from minilm.layers.linear_attention import loop as looping
from minilm.reference.linear_attention import chunks as chunks_reference
from minilm.reference.linear_attention import decay as reference
from minilm.reference.linear_attention import loop as loop_reference
from tests.records import Record
from tests.strategies import arrays, seeds, sizes

SIZES = sizes((2, 7, 3, 4), (3, 4, 2, 1), (1, 1, 5, 3))  # g, t, k, v


@st.composite
def gates(draw, *shape):
    """Logarithms of what is kept: most between, some 0 (all of it) and some deep below (next to nothing)."""
    rng = np.random.default_rng(draw(seeds))
    return np.where(rng.random(shape) < 0.2, rng.choice([0.0, -40.0], shape), -rng.exponential(1.0, shape))


@st.composite
def step_arguments(draw):
    g, _, k, v = draw(SIZES)
    return draw(arrays(g, k, v)), draw(arrays(g, k)), draw(arrays(g, k)), draw(arrays(g, v)), draw(gates(g))


@st.composite
def parallel_arguments(draw):
    g, t, k, v = draw(SIZES)
    return draw(arrays(g, t, k)), draw(arrays(g, t, k)), draw(arrays(g, t, v)), draw(gates(g, t))


@st.composite
def chunked_arguments(draw):
    q, k, v, log_decay = draw(parallel_arguments())
    return draw(arrays(len(q), q.shape[2], v.shape[2])), q, k, v, log_decay


@st.composite
def sequences(draw):
    g, t, k, _ = draw(SIZES)
    return (draw(arrays(*draw(st.sampled_from([(g, t, k), (g, t)])))),)


@st.composite
def cut_sequences(draw):
    g, _, k, v = draw(SIZES)
    return (draw(arrays(*draw(st.sampled_from([(v, g, 3, k), (v, g, 3)])))),)


def torch_attention(q, k, v, log_decay):
    """Mamba-2's attention form: a lower triangle of sums, from PyTorch's own cumulative sum."""
    total = log_decay.cumsum(-1)
    decays = (total[:, :, None] - total[:, None, :]).exp().tril()
    return (q @ k.mT * decays) @ v


def torch_loop(state, q, k, v, log_decay, chunk=None):
    """Token by token, one product of the past and an outer product that comes to it."""
    import torch

    outputs = []
    for t in range(q.shape[1]):
        state = torch.baddbmm(state * log_decay[:, t, None, None].exp(), k[:, t, :, None], v[:, t, None])
        outputs.append(torch.bmm(q[:, t, None], state)[:, 0])
    return state, torch.stack(outputs, 1)


def torch_step(state, *inputs):
    state, o = torch_loop(state, *(x[:, None] for x in inputs))
    return state, o[:, 0]


def torch_matrix(log_decay):
    """Every pair's own sum, of what lies between."""
    import torch

    t = range(log_decay.shape[1])
    left = [
        log_decay[:, j + 1 : i + 1].sum(1).exp() if j <= i else log_decay.new_zeros(len(log_decay))
        for i in t
        for j in t
    ]
    return torch.stack(left, 1).unflatten(1, (len(t), len(t)))


def looped(function, step):
    """`loop` with its step filled in, for the layer and its reference each have their own."""

    @wraps(function)
    def loop(state, q, k, v, log_decay):
        return function(step, state, q, k, v, log_decay)

    return loop


def loop_backward(saved, d_out):
    return loop_reference.loop_backward(saved, d_out, reference.decay_step_backward)


def record(name, arguments, **rest):
    function = getattr(decay, name)
    return Record(function, getattr(reference, name), getattr(reference, f"{name}_backward"), arguments, **rest)


def chunk_record(name, arguments, **static):
    backward = getattr(chunks_reference, f"{name}_backward")
    return Record(getattr(chunks, name), getattr(chunks_reference, name), backward, arguments, static=static)


# A state is of float32 or wider, whatever q, k and v are, so the forms that return one have no single dtype to keep.
RECORDS = (
    record("decay_step", step_arguments(), typed=False, oracles={"torch": torch_step}),
    record(
        "decay_matrix",
        parallel_arguments().map(lambda drawn: (drawn[3],)),
        precise=False,
        oracles={"torch": torch_matrix},
    ),
    record("decay_parallel", parallel_arguments(), precise=False, oracles={"torch": torch_attention}),
    *(
        record("decay_chunked", chunked_arguments(), typed=False, oracles={"torch": torch_loop}, **how)
        for how in ({"static": {"chunk": 3}, "label": "chunks of 3"}, {"label": "one chunk"})
    ),
    Record(
        looped(looping.loop, decay.decay_step),
        looped(loop_reference.loop, reference.decay_step),
        loop_backward,
        chunked_arguments(),
        typed=False,
        oracles={"torch": torch_loop},
    ),
    chunk_record("in_chunks", sequences(), chunk=3),
    chunk_record("out_of_chunks", cut_sequences(), t=2),
)
