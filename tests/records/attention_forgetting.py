import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import forgetting
from minilm.reference.attention import forgetting as reference
from minilm.shapes import Tokens
from tests.records import Record
from tests.strategies import arrays, seeds, sizes, weights

SHAPES = sizes(((5, 2, 3, 4), (2,)), ((4, 3, 1, 6), ()), ((3, 1, 2, 1), (2, 1)))  # (d, g, r, t), leading


@st.composite
def gate_arguments(draw):
    (d, g, r, t), leading = draw(SHAPES)
    params = forgetting.ForgetGateParams(w_f=draw(weights(d, g, r)), b_f=draw(weights(g, r)))
    return params, draw(arrays(*leading, t, d))


@st.composite
def bias_arguments(draw):
    """Two documents after each other, padding among them, and keys that stand anywhere."""
    g, r, t, s = draw(sizes((2, 3, 6, 5), (3, 1, 4, 6), (1, 2, 1, 3)))
    rng = np.random.default_rng(draw(seeds))
    first = rng.integers(0, t + 1)
    position = np.concatenate([draw(st.integers(0, 3)) + np.arange(first), np.arange(t - first)])
    query = Tokens(np.where(rng.random(t) < 0.2, -1, position), (np.arange(t) >= first).astype(int))
    return -np.abs(draw(arrays(g, r, t))), query, Tokens(rng.integers(-1, t + 2, s), rng.integers(0, 2, s))


def torch_gate(params, x):
    import torch

    d, g, r = params.w_f.shape
    y = torch.nn.functional.linear(x, params.w_f.reshape(d, -1).T, params.b_f.flatten())
    return torch.nn.functional.logsigmoid(y).transpose(-1, -2).unflatten(-2, (g, r))


def torch_bias(log_forget, query, key):
    """A running sum for every key by itself, from the first token on."""
    import torch

    sums = torch.zeros(*log_forget.shape, len(key.position), dtype=torch.float64)
    for s in range(len(key.position)):
        running = torch.zeros(log_forget.shape[:2], dtype=torch.float64)
        for t in range(log_forget.shape[2]):
            if query.document[t] == key.document[s] and query.position[t] > key.position[s] >= 0:
                running = running + log_forget[:, :, t]
            sums[:, :, t, s] = running
    return sums


RECORDS = (
    Record(
        forgetting.log_forget,
        reference.log_forget,
        reference.log_forget_backward,
        gate_arguments(),
        oracles={"torch": torch_gate},
        statistic=True,
    ),
    Record(
        forgetting.forgetting_bias,
        reference.forgetting_bias,
        reference.forgetting_bias_backward,
        bias_arguments(),
        oracles={"torch": torch_bias},
        statistic=True,
    ),
)
