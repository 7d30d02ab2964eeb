import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import sinks
from minilm.reference.attention import sinks as reference
from tests.flex_oracle import FLEX, flex_attention
from tests.records import Record
from tests.records.attention_core import attention_arguments
from tests.strategies import weights


@st.composite
def sink_arguments(draw):
    rest = draw(attention_arguments())
    return draw(weights(*rest[0].shape[:2])), *rest


def torch_sinks(sink, q, k, v, mask, bias):
    """As the eager attention of gpt-oss: one more column, a softmax, the column dropped."""
    import torch

    scores = torch.einsum("grtk,gsk->grts", q, k) * q.shape[-1] ** -0.5 + bias
    column = sink[:, :, None, None].expand(*scores.shape[:-1], 1)
    weights = torch.softmax(torch.cat([scores.masked_fill(~mask, -torch.inf), column], -1), -1)[..., :-1]
    return torch.einsum("grts,gsv->grtv", weights, v)


def flex_sinks(sink, q, k, v, mask, bias):
    """As kernels do without a column: attention, and afterwards a gate of its log-sum-exp."""
    out, lse = flex_attention(q, k, v, mask, bias)
    return out / (1 + np.exp(sink[:, :, None] - np.where(np.isneginf(lse), 0, lse)))[..., None]


RECORDS = (
    Record(
        sinks.sink_attention,
        reference.sink_attention,
        reference.sink_attention_backward,
        sink_arguments(),
        oracles={"torch": torch_sinks, FLEX: flex_sinks},
    ),
)
