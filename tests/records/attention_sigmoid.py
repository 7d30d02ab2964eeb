from hypothesis import strategies as st

from minilm.layers.attention import sigmoid
from minilm.reference.attention import sigmoid as reference
from tests.records import Record
from tests.records.attention_core import attention_arguments
from tests.strategies import weights


@st.composite
def sigmoid_arguments(draw):
    """One shift for all heads, or one for each."""
    rest = draw(attention_arguments())
    g, r = rest[0].shape[:2]
    return draw(weights(*(() if g == 1 else (g, r)))), *rest


def torch_sigmoid(shift, q, k, v, mask, bias):
    import torch

    scores = torch.einsum("grtk,gsk->grts", q, k) / q.shape[-1] ** 0.5 + bias
    weights = torch.sigmoid(scores + (shift[:, :, None, None] if shift.ndim else shift)) * mask
    return torch.einsum("grts,gsv->grtv", weights, v)


RECORDS = (
    Record(
        sigmoid.sigmoid_attention,
        reference.sigmoid_attention,
        reference.sigmoid_attention_backward,
        sigmoid_arguments(),
        oracles={"torch": torch_sigmoid},
    ),
)
