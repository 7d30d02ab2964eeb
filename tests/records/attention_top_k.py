import numpy as np

from minilm.layers.attention import top_k
from minilm.reference.attention import top_k as reference
from tests.records import Record
from tests.records.attention_core import attention_arguments


def torch_top_k(q, k, v, mask, bias, *, n):
    """The n-th largest by sorting, what lies below it filled with minus infinity."""
    import torch

    mask, q, k, v = (torch.tensor(x) for x in (np.where(mask, bias, -np.inf), q, k, v))
    scores = torch.einsum("grtk,gsk->grts", q, k) / q.shape[-1] ** 0.5 + mask
    threshold = scores.sort(-1, descending=True).values[..., : min(n, k.shape[1])].amin(-1, keepdim=True)
    weights = torch.nan_to_num(torch.softmax(scores.masked_fill(scores < threshold, -torch.inf), -1))
    return torch.einsum("grts,gsv->grtv", weights, v).numpy()


# Who is among the best jumps where two scores meet, and rounding decides it there.
RECORDS = tuple(
    Record(
        top_k.top_k_attention,
        reference.top_k_attention,
        reference.top_k_attention_backward,
        attention_arguments(),
        static={"n": n},
        oracles={"torch": torch_top_k},
        smooth=False,
        precise=False,
        label=f"{n}",
    )
    for n in (1, 2, 4)
)
