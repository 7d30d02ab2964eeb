import numpy as np
from hypothesis import strategies as st

from minilm.layers.linear_attention import gated
from minilm.reference.linear_attention import gated as reference
from tests.records import Record
from tests.strategies import arrays, seeds, sizes, weights

SIZES = sizes((2, 5, 3, 4), (1, 4, 2, 3), (3, 1, 4, 2))  # g, t, k, v; chunks of 2 leave a rest of 5 tokens


def log_decays(*shape):
    """Logarithms of decays: some keep everything (0), some forget everything (minus infinity), most do neither."""
    return seeds.map(lambda seed: drawn_log_decays(np.random.default_rng(seed), shape))


def drawn_log_decays(rng, shape):
    kind = rng.choice(3, shape, p=[0.2, 0.2, 0.6])
    return np.select([kind == 0, kind == 1], [0.0, -np.inf], -rng.exponential(1.0, shape))


@st.composite
def step_arguments(draw):
    g, _, k, v = draw(SIZES)
    return draw(weights(g, k, v)), draw(arrays(g, k)), draw(arrays(g, k)), draw(arrays(g, v)), draw(log_decays(g, k))


@st.composite
def parallel_arguments(draw):
    g, t, k, v = draw(SIZES)
    return draw(arrays(g, t, k)), draw(arrays(g, t, k)), draw(arrays(g, t, v)), draw(log_decays(g, t, k))


@st.composite
def chunked_arguments(draw):
    q, k, v, log_decay = draw(parallel_arguments())
    return draw(weights(q.shape[0], q.shape[2], v.shape[2])), q, k, v, log_decay


def torch_recurrence(state, q, k, v, log_decay, chunk=None):
    """The recurrence as the paper states it, a matrix for each head."""
    import torch

    outputs = []
    for t in range(q.shape[1]):
        write = k[:, t].unsqueeze(2) @ v[:, t].unsqueeze(1)
        state = torch.diag_embed(log_decay[:, t].exp()) @ state + write
        outputs.append((state.transpose(1, 2) @ q[:, t].unsqueeze(2)).squeeze(2))
    return state, torch.stack(outputs, dim=1)


def torch_parallel(q, k, v, log_decay):
    return torch_recurrence(q.new_zeros(len(q), q.shape[2], v.shape[2]), q, k, v, log_decay)[1]


def torch_step(state, *inputs):
    state, o = torch_recurrence(state, *(x[:, None] for x in inputs))
    return state, o[:, 0]


def record(name, arguments, oracle, **rest):
    function, backward = getattr(reference, name), getattr(reference, f"{name}_backward")
    return Record(getattr(gated, name), function, backward, arguments, oracles={"torch": oracle}, **rest)


RECORDS = (
    record("gated_step", step_arguments(), torch_step),
    record("gated_parallel", parallel_arguments(), torch_parallel),
    *(
        record("gated_chunked", chunked_arguments(), torch_recurrence, static={"chunk": chunk}, label=str(chunk))
        for chunk in (1, 2, 8)
    ),
)
