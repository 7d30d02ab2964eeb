import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minilm.layers import embedding
from minilm.reference import embedding as reference
from tests.records import Record
from tests.strategies import arrays, sizes, weights

SIZES = sizes(((3,), 5, 2), ((), 4, 3), ((2, 3), 1, 4))  # leading axes, n, d


@st.composite
def embed_arguments(draw):
    leading, n, d = draw(SIZES)
    return draw(weights(n, d)), draw(hnp.arrays(np.int32, leading, elements=st.integers(0, n - 1)))


@st.composite
def unembed_arguments(draw):
    leading, n, d = draw(SIZES)
    return draw(weights(n, d)), draw(arrays(*leading, d))


def one_hot_product(embedding, tokens):
    return np.eye(len(embedding))[tokens] @ embedding


def torch_unembed(embedding, x):
    import torch

    return torch.nn.functional.linear(x, embedding)


RECORDS = (
    Record(
        embedding.embed,
        reference.embed,
        reference.embed_backward,
        embed_arguments(),
        oracles={"numpy": one_hot_product},
    ),
    Record(
        embedding.unembed,
        reference.unembed,
        reference.unembed_backward,
        unembed_arguments(),
        batched=1,
        oracles={"torch": torch_unembed},
    ),
)
