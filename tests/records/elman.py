import numpy as np
from hypothesis import strategies as st

from minilm.layers.recurrent import elman
from minilm.reference.recurrent import elman as reference
from tests.records import Record
from tests.strategies import arrays, sizes, weights

SIZES = sizes((3, 5), (4, 2), (1, 3))  # i, h


@st.composite
def arguments(draw):
    i, h = draw(SIZES)
    params = elman.ElmanParams(
        w_x=draw(weights(i, h)), w_h=draw(weights(h, h)), b_x=draw(weights(h)), b_h=draw(weights(h))
    )
    return (
        params,
        draw(weights(h)),
        draw(arrays(i, scale=0.25)),
    )  # where every tanh is saturated, 1 - h² is all rounding


def torch_cell(params, state, x):
    import torch

    h = torch.rnn_tanh_cell(x[None], state[None], *(p.t() for p in params))[0]
    return h, h


def flax_cell(params, state, x):
    from flax import linen

    weights = {"i": {"kernel": params.w_x, "bias": params.b_x + params.b_h}, "h": {"kernel": params.w_h}}
    cell = linen.SimpleCell(len(state), param_dtype=np.float64)
    return cell.apply({"params": weights}, state, x)


RECORDS = (
    Record(
        elman.elman_cell,
        reference.elman_cell,
        reference.elman_cell_backward,
        arguments(),
        oracles={"torch": torch_cell, "flax": flax_cell},
    ),
)
