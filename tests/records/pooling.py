from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minilm.layers import pooling
from minilm.reference import pooling as reference
from tests.records import Record
from tests.strategies import arrays, weights

T, D, K = 5, 3, 2
masks = hnp.arrays(bool, T)  # any positions, now and then none


@st.composite
def plain_arguments(draw, values=arrays):
    return draw(values(T, D)), draw(masks)


@st.composite
def attention_arguments(draw):
    params = pooling.AttentionPoolParams(w_k=draw(weights(D, K)), b_k=draw(weights(K)), q=draw(weights(K)))
    return params, draw(arrays(T, D)), draw(masks)


def torch_mean(x, mask):
    """A bag of embeddings, of which the positions that count are taken; PyTorch's empty bag is 0 as well."""
    import torch

    return torch.nn.functional.embedding_bag(mask.nonzero()[:, 0], x, torch.tensor([0]), mode="mean")[0]


def torch_max(x, mask):
    """By `amax`, which gives equals equal parts of the gradient as we do: a bag of embeddings gives one of them all."""
    return x[mask].amax(0) if mask.any() else x[mask].sum(0)


def torch_attention_pool(params, x, mask):
    """Attention of a single query, with scores that nothing divides; PyTorch gives 0 to a query that sees no key."""
    import torch

    keys = torch.tanh(x @ params.w_k + params.b_k)
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(params.q[None], keys, x, attn_mask=mask[None], scale=1.0)[0]


RECORDS = (
    Record(
        pooling.mean_pool,
        reference.mean_pool,
        reference.mean_pool_backward,
        plain_arguments(),
        oracles={"torch": torch_mean},
    ),
    Record(
        pooling.max_pool,
        reference.max_pool,
        reference.max_pool_backward,
        plain_arguments(weights),
        oracles={"torch": torch_max},
    ),
    Record(pooling.last_pool, reference.last_pool, reference.last_pool_backward, plain_arguments()),
    Record(
        pooling.attention_pool_weights,
        reference.attention_pool_weights,
        reference.attention_pool_weights_backward,
        attention_arguments(),
        statistic=True,
    ),
    Record(
        pooling.attention_pool,
        reference.attention_pool,
        reference.attention_pool_backward,
        attention_arguments(),
        oracles={"torch": torch_attention_pool},
    ),
)
