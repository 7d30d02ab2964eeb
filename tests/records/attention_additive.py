import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import additive
from minilm.reference.attention import additive as reference
from tests import torch_oracle
from tests.records import Record
from tests.strategies import arrays, seeds, sizes, weights

SIZES = sizes((4, 5, 3, 2, 6, 1), (5, 3, 2, 4, 1, 6))  # t, s, h, i, k, v


@st.composite
def scores_arguments(draw):
    t, s, h, i, k, _ = draw(SIZES)
    params = additive.AdditiveParams(draw(weights(h, k)), draw(weights(i, k)), draw(weights(k)))
    return params, draw(arrays(t, h)), draw(arrays(s, i))


@st.composite
def projected_arguments(draw):
    t, s, k, *_ = draw(SIZES)
    return draw(weights(k)), draw(arrays(t, k)), draw(arrays(s, k))


@st.composite
def attention_arguments(draw):
    """Masks leave rows empty, and come in shapes that broadcast."""
    t, s, h, i, k, v = draw(SIZES)
    params = additive.AdditiveParams(draw(weights(h, k)), draw(weights(i, k)), draw(weights(k)))
    mask = np.random.default_rng(draw(seeds)).random((t, s) if t < s else (s,)) < 0.6
    mask[..., : draw(st.integers(0, s))] &= draw(st.booleans())
    return params, draw(arrays(t, h)), draw(arrays(s, i)), draw(arrays(s, v)), mask


def torch_scores(params, q, k):
    import torch
    from torch.nn.functional import linear

    return linear(torch.tanh(linear(q, params.w_q.T)[:, None] + linear(k, params.w_k.T)[None]), params.v[None])[..., 0]


def torch_projected(v, q, k):
    return (q[:, None] + k[None]).tanh() @ v


def torch_attention(params, q, k, v, mask):
    return torch_oracle.softmax(torch_scores(params, q, k), mask) @ v


RECORDS = (
    Record(
        additive.additive_scores,
        reference.additive_scores,
        reference.additive_scores_backward,
        scores_arguments(),
        statistic=True,
        oracles={"torch": torch_scores},
    ),
    Record(
        additive.projected_additive_scores,
        reference.projected_additive_scores,
        reference.projected_additive_scores_backward,
        projected_arguments(),
        statistic=True,
        oracles={"torch": torch_projected},
    ),
    Record(
        additive.additive_attention,
        reference.additive_attention,
        reference.additive_attention_backward,
        attention_arguments(),
        oracles={"torch": torch_attention},
    ),
)
