import numpy as np
from hypothesis import strategies as st

from minilm.layers.linear_attention import delta
from minilm.reference.linear_attention import delta as reference
from tests.records import Record
from tests.strategies import arrays, seeds, sizes

SIZES = sizes((2, 7, 3, 4), (3, 4, 2, 1), (1, 1, 5, 3))  # g, t, k, v


def drawn_keys(rng, correlation, g, t, k):
    """Keys of length one in a cone around a common direction, the narrower the larger their correlation."""
    common, own = rng.standard_normal((g, 1, k)), rng.standard_normal((g, t, k))
    keys = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
    return keys / np.linalg.norm(keys, axis=-1, keepdims=True)


def drawn_gates(rng, g, t):
    """How much is written, from nothing to all of it, and logarithms of what is kept, from all of it to nothing."""
    at_an_end, kept = rng.random((2, g, t)) < 0.2, -rng.exponential(1.0, (g, t))
    beta = np.where(at_an_end[0], rng.choice([0.0, 1.0], (g, t)), rng.random((g, t)))
    return beta, np.where(at_an_end[1], rng.choice([0.0, -np.inf], (g, t)), kept)


@st.composite
def parallel_arguments(draw):
    g, t, k, v = draw(SIZES)
    rng, correlation = np.random.default_rng(draw(seeds)), draw(st.sampled_from([0.0, 0.5, 0.99, 1.0]))
    return draw(arrays(g, t, k)), drawn_keys(rng, correlation, g, t, k), draw(arrays(g, t, v)), *drawn_gates(rng, g, t)


@st.composite
def chunked_arguments(draw):
    q, k, v, beta, log_decay = draw(parallel_arguments())
    return draw(arrays(len(q), q.shape[2], v.shape[2])), q, k, v, beta, log_decay


@st.composite
def step_arguments(draw):
    state, *inputs = draw(chunked_arguments())
    return state, *(x[:, 0] for x in inputs)


def torch_loop(state, q, k, v, beta, log_decay, chunk=None):
    """As the paper writes it: S' = a S (I - beta k kᵀ) + beta v kᵀ, the state transposed, in PyTorch."""
    import torch

    state, outputs = state.mT, []
    for t in range(q.shape[1]):
        q_t, k_t, v_t, beta_t, a_t = q[:, t], k[:, t], v[:, t], beta[:, t, None, None], log_decay[:, t].exp()
        erase = torch.eye(k.shape[2], dtype=k.dtype) - beta_t * k_t[:, :, None] * k_t[:, None, :]
        state = a_t[:, None, None] * state @ erase + beta_t * v_t[:, :, None] * k_t[:, None, :]
        outputs.append((state @ q_t[:, :, None])[:, :, 0])
    return state.mT, torch.stack(outputs, 1)


def torch_parallel(q, k, v, beta, log_decay):
    return torch_loop(q.new_zeros(len(q), q.shape[2], v.shape[2]), q, k, v, beta, log_decay)[1]


def torch_step(state, *inputs):
    state, o = torch_loop(state, *(x[:, None] for x in inputs))
    return state, o[:, 0]


def record(name, arguments, oracle, **rest):
    function, backward = getattr(delta, name), getattr(reference, f"{name}_backward")
    return Record(function, getattr(reference, name), backward, arguments, oracles={"torch": oracle}, **rest)


# A state is of float32 or wider, whatever q, k and v are, so the forms that return one have no single dtype to keep.
RECORDS = (
    record("delta_step", step_arguments(), torch_step, typed=False),
    record("delta_parallel", parallel_arguments(), torch_parallel),
    record("delta_chunked", chunked_arguments(), torch_loop, static={"chunk": 3}, typed=False, label="chunks of 3"),
    record("delta_chunked", chunked_arguments(), torch_loop, typed=False, label="one chunk"),
)
