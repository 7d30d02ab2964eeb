import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import soft_cap
from minilm.reference.attention import soft_cap as reference
from tests import torch_oracle
from tests.flex_oracle import FLEX, flex_attention
from tests.records import Record
from tests.records.attention_core import attention_arguments


@st.composite
def soft_cap_arguments(draw):
    """Caps that squeeze every score, some, and none."""
    return np.float64(draw(st.sampled_from([0.25, 2.0, 50.0]))), *draw(attention_arguments())


def flex_soft_cap(cap, q, k, v, mask, bias):
    import torch

    return flex_attention(q, k, v, mask, bias, lambda score: cap * torch.tanh(score / cap))[0]


def torch_soft_cap(cap, q, k, v, mask, bias):
    """As Gemma 2's eager attention: scaled, capped, masked by what is added."""
    import torch

    scores = torch.einsum("grtk,gsk->grts", q, k) * q.shape[-1] ** -0.5
    weights = torch_oracle.softmax(torch.tanh(scores / cap) * cap + bias, mask)
    return torch.einsum("grts,gsv->grtv", weights, v)


RECORDS = (
    Record(
        soft_cap.soft_capped_attention,
        reference.soft_capped_attention,
        reference.soft_capped_attention_backward,
        soft_cap_arguments(),
        oracles={"torch": torch_soft_cap, FLEX: flex_soft_cap},
    ),
)
