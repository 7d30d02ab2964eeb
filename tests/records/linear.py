from hypothesis import strategies as st

from minilm.layers.linear import LinearParams, linear, matmul
from minilm.reference import linear as reference
from tests.records import Record
from tests.strategies import arrays, sizes, weights

SIZES = sizes(((), 3, 5), ((2,), 4, 1), ((3, 2), 1, 2))  # leading axes, i, o


@st.composite
def linear_arguments(draw):
    leading, i, o = draw(SIZES)
    b = draw(weights(o)) if draw(st.booleans()) else None
    return LinearParams(w=draw(weights(i, o)), b=b), draw(arrays(*leading, i))


@st.composite
def matmul_arguments(draw):
    leading, i, o = draw(SIZES)
    return draw(arrays(*leading, i)), draw(weights(i, o))


def torch_linear(params, x):
    import torch

    return torch.nn.functional.linear(x, params.w.T, params.b)


RECORDS = (
    Record(
        linear,
        reference.linear,
        reference.linear_backward,
        linear_arguments(),
        batched=1,
        oracles={"torch": torch_linear},
    ),
    Record(matmul, reference.matmul, reference.matmul_backward, matmul_arguments(), batched=0),
)
