import numpy as np
from hypothesis import strategies as st

from minilm.layers.recurrent import gru
from minilm.reference.recurrent import gru as reference
from tests import onnx_oracle
from tests.records import Record
from tests.strategies import arrays, sizes, weights

SIZES = sizes((3, 5), (4, 2), (1, 3))  # i, h


@st.composite
def arguments(draw):
    i, h = draw(SIZES)
    params = gru.GRUParams(
        w_x=draw(weights(i, 3 * h)), w_h=draw(weights(h, 3 * h)), b_x=draw(weights(3 * h)), b_h=draw(weights(3 * h))
    )
    return params, draw(weights(h)), draw(arrays(i))


def torch_cell(params, state, x):
    import torch

    h = torch.gru_cell(x[None], state[None], *(p.t() for p in params))[0]
    return h, h


def flax_cell(params, state, x):
    from flax import linen

    (x_r, x_z, x_n), (h_r, h_z, h_n) = (np.split(w, 3, axis=1) for w in (params.w_x, params.w_h))
    (b_r, b_z, b_n), (c_r, c_z, c_n) = (np.split(b, 3) for b in (params.b_x, params.b_h))
    weights = {
        "ir": {"kernel": x_r, "bias": b_r + c_r},  # Flax keeps one bias where two would be added
        "iz": {"kernel": x_z, "bias": b_z + c_z},
        "in": {"kernel": x_n, "bias": b_n},
        "hr": {"kernel": h_r},
        "hz": {"kernel": h_z},
        "hn": {"kernel": h_n, "bias": c_n},
    }
    return linen.GRUCell(len(state), param_dtype=np.float64).apply({"params": weights}, state, x)


def onnx_cell(params, state, x):
    after = onnx_oracle.step("GRU", x, (1, 0, 2), params, state, linear_before_reset=0)[-1]
    return after, after


RECORDS = (
    Record(
        gru.gru_cell,
        reference.gru_cell,
        reference.gru_cell_backward,
        arguments(),
        oracles={"torch": torch_cell, "flax": flax_cell},
    ),
    Record(
        gru.gru_cell_reset_before,
        reference.gru_cell_reset_before,
        reference.gru_cell_reset_before_backward,
        arguments(),
        oracles={"onnx": onnx_cell},
    ),
)
