from minilm.layers.attention import top_k
from minilm.reference.attention import top_k as reference
from tests import torch_oracle
from tests.records import Record
from tests.records.attention_core import attention_arguments


def torch_top_k(q, k, v, mask, bias, *, n):
    """The n-th largest by sorting; what lies below it is masked."""
    import torch

    scores = torch.einsum("grtk,gsk->grts", q, k) / q.shape[-1] ** 0.5 + bias
    seen = scores.masked_fill(~mask, -torch.inf)
    threshold = seen.sort(-1, descending=True).values[..., : min(n, k.shape[1])].amin(-1, keepdim=True)
    return torch.einsum("grts,gsv->grtv", torch_oracle.softmax(scores, mask & (seen >= threshold)), v)


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
