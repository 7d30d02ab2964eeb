import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import differential
from minilm.reference.attention import differential as reference
from tests import torch_oracle
from tests.records import Record
from tests.strategies import arrays, mask_and_bias, sizes, weights

SIZES = sizes((2, 3, 4, 5, 6, 1), (1, 2, 5, 3, 2, 4), (3, 1, 1, 2, 1, 5))  # g, r, t, s, k, v


def drawn_params(draw, k, v):
    q_1, k_1, q_2, k_2 = (0.5 * draw(weights(k)) for _ in range(4))
    return differential.DifferentialParams(q_1, k_1, q_2, k_2, draw(weights(v)))


def drawn_attention(draw, g, r, t, s, k, v):
    return (
        draw(arrays(g, r, t, 2 * k)),
        draw(arrays(g, s, 2 * k)),
        draw(arrays(g, s, v)),
        *mask_and_bias(draw, g, r, t, s),
    )


numbers = st.sampled_from([-0.5, 0.2, 0.7, 1.5]).map(np.float64)


@st.composite
def lambda_arguments(draw):
    *_, k, v = draw(SIZES)
    return drawn_params(draw, k, v), draw(numbers)


@st.composite
def attention_arguments(draw):
    return draw(numbers), *drawn_attention(draw, *draw(SIZES))


@st.composite
def heads_arguments(draw):
    *_, k, v = drawn = draw(SIZES)
    return drawn_params(draw, k, v), draw(numbers), *drawn_attention(draw, *drawn)


def torch_lambda(params, lam0):
    return (params.q_1 * params.k_1).sum().exp() - (params.q_2 * params.k_2).sum().exp() + lam0


def torch_attention(lam, q, k, v, mask, bias):
    """Two calls of PyTorch's own attention, as the authors' code makes of FlashAttention."""
    first, second = (
        torch_oracle.attention(q_half, k_half, v, mask, bias)
        for q_half, k_half in zip(q.chunk(2, -1), k.chunk(2, -1), strict=True)
    )
    return first - lam * second


def torch_heads(params, lam0, q, k, v, mask, bias):
    import torch

    o = torch_attention(torch_lambda(params, lam0), q, k, v, mask, bias)
    return (1 - lam0) * torch.nn.functional.rms_norm(o, o.shape[-1:], params.scale, 1e-5)


def record(name, arguments, oracle, **rest):
    function = getattr(differential, name)
    backward = getattr(reference, f"{name}_backward")
    return Record(function, getattr(reference, name), backward, arguments, oracles={"torch": oracle}, **rest)


RECORDS = (
    record("differential_lambda", lambda_arguments(), torch_lambda, statistic=True),
    # Where the two softmaxes cancel, what rounding left of the difference has no bound, and a norm magnifies it; and
    # where little is left, of the size of the root of its ε, the norm bends within a difference's step.
    record("differential_attention", attention_arguments(), torch_attention, precise=False),
    record("differential_heads", heads_arguments(), torch_heads, precise=False, smooth=False),
)
