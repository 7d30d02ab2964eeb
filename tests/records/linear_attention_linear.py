from hypothesis import strategies as st

from minilm.layers.linear_attention import linear, mamba
from minilm.reference.linear_attention import linear as reference
from minilm.reference.linear_attention import mamba as mamba_reference
from tests.records import Record
from tests.strategies import arrays, sizes, weights

SIZES = sizes((2, 5, 3, 4), (3, 4, 2, 1))  # g, t, k, v


@st.composite
def linear_arguments(draw):
    """Positive features, as every feature map here has them, so that no normaliser is near zero."""
    g, t, k, v = draw(SIZES)
    q, keys, state = (abs(draw(weights(*shape))) for shape in ((g, t, k), (g, t, k), (g, k, v + 1)))
    return state, q, keys, draw(arrays(g, t, v))


@st.composite
def exponential_arguments(draw):
    """Exponents of ordinary size, none a half, where rounding jumps; the state's own is above theirs, or below."""
    g, t, k, v = draw(SIZES)
    state = linear.ScaledState(abs(draw(weights(g, k, v + 1))), draw(weights(g)))
    return state, draw(weights(g, t, k)), draw(weights(g, t, k)) + 0.2, draw(arrays(g, t, v))


@st.composite
def discretize_arguments(draw):
    g, t, _, _ = draw(SIZES)
    return draw(weights(g)), abs(draw(arrays(g, t)))


def torch_linear(state, q, k, v, chunk):
    """The two running sums that the paper writes, and their quotient."""
    import torch

    s, z, outs = state[..., :-1], state[..., -1], []
    for t in range(q.shape[1]):
        s = s + k[:, t, :, None] * v[:, t, None, :]
        z = z + k[:, t]
        outs.append(torch.einsum("gkv,gk->gv", s, q[:, t]) / torch.einsum("gk,gk->g", z, q[:, t])[:, None])
    return torch.cat([s, z[..., None]], -1), torch.stack(outs, 1)


def torch_exponential(state, a, b, v, chunk):
    """The same as a recurrence of numbers that are not scaled, which those drawn here need not be."""
    import torch

    (after, o), m = torch_linear(state.matrix * state.m.exp()[:, None, None], a.exp(), b.exp(), v, chunk), state.m
    m = torch.maximum(m, b.amax((1, 2)).round())
    return linear.ScaledState(after / m.exp()[:, None, None], m), o


RECORDS = (
    Record(
        linear.linear_attention,
        reference.linear_attention,
        reference.linear_attention_backward,
        linear_arguments(),
        static={"chunk": 2},
        oracles={"torch": torch_linear},
        typed=False,
    ),
    Record(
        linear.exponential_attention,
        reference.exponential_attention,
        reference.exponential_attention_backward,
        exponential_arguments(),
        static={"chunk": 2},
        oracles={"torch": torch_exponential},
        typed=False,
    ),
    Record(
        mamba.discretize,
        mamba_reference.discretize,
        mamba_reference.discretize_backward,
        discretize_arguments(),
        oracles={"torch": lambda rate, step: -rate.exp()[:, None] * step},
    ),
)
