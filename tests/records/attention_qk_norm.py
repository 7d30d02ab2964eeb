from hypothesis import strategies as st

from minilm.layers.attention import qk_norm
from minilm.reference.attention import qk_norm as reference
from tests import torch_oracle
from tests.records import Record
from tests.records.attention_core import attention_arguments
from tests.strategies import weights


@st.composite
def cosine_arguments(draw):
    """Vectors without a zero: near it the cosine is steeper than a difference can follow."""
    q, k, *rest = draw(attention_arguments())
    return draw(weights(*q.shape[:2])), draw(weights(*q.shape)), draw(weights(*k.shape)), *rest


def torch_cosine(scale, q, k, v, mask, bias):
    """By PyTorch's cosine similarity, whose ε is another, of vectors lengthened by a coordinate that is ours."""
    import torch

    def lengthened(x, place):
        extra = torch.zeros(*x.shape[:-1], 2, dtype=x.dtype)
        extra[..., place] = (1e-6 * x.shape[-1]) ** 0.5
        return torch.cat([x, extra], -1)

    q, k = lengthened(q, 0)[:, :, :, None], lengthened(k, 1)[:, None, None]
    scores = scale[:, :, None, None] * torch.cosine_similarity(q, k, -1) + bias
    return torch.einsum("grts,gsv->grtv", torch_oracle.softmax(scores, mask), v)


RECORDS = (
    Record(
        qk_norm.cosine_attention,
        reference.cosine_attention,
        reference.cosine_attention_backward,
        cosine_arguments(),
        oracles={"torch": torch_cosine},
    ),
)
