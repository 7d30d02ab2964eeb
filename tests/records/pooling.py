import numpy as np
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


def torch_bag(mode):
    """A bag of embeddings, of which the positions that count are taken; PyTorch's empty bag is 0 as well."""

    def bag(x, mask):
        import torch

        taken, table = torch.tensor(np.flatnonzero(mask)), torch.tensor(x)
        return torch.nn.functional.embedding_bag(taken, table, torch.tensor([0]), mode=mode)[0].numpy()

    return bag


def torch_attention_pool(params, x, mask):
    """Attention of a single query, with scores that nothing divides; PyTorch gives 0 to a query that sees no key."""
    import torch

    x, w_k, b_k, q = map(torch.tensor, (x, *params))
    keys = torch.tanh(x @ w_k + b_k)
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(q[None], keys, x, attn_mask=torch.tensor(mask)[None], scale=1.0)[0].numpy()


RECORDS = (
    Record(
        pooling.mean_pool,
        reference.mean_pool,
        reference.mean_pool_backward,
        plain_arguments(),
        oracles={"torch": torch_bag("mean")},
    ),
    Record(
        pooling.max_pool,
        reference.max_pool,
        reference.max_pool_backward,
        plain_arguments(weights),
        oracles={"torch": torch_bag("max")},
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
