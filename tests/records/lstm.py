import numpy as np
from hypothesis import strategies as st

from minilm.layers.recurrent import lstm
from minilm.reference.recurrent import lstm as reference
from tests import onnx_oracle
from tests.records import Record
from tests.strategies import arrays, sizes, weights

SIZES = sizes((3, 5), (4, 2), (1, 3))  # i, h


@st.composite
def arguments(draw, peephole):
    i, h = draw(SIZES)
    own = {
        "w_x": draw(weights(i, 4 * h)),
        "w_h": draw(weights(h, 4 * h)),
        "b_x": draw(weights(4 * h)),
        "b_h": draw(weights(4 * h)),
    }
    params = lstm.LSTMPeepholeParams(w_c=draw(weights(3 * h)), **own) if peephole else lstm.LSTMParams(**own)
    return params, lstm.LSTMState(h=draw(weights(h)), c=draw(weights(h))), draw(arrays(i))


def torch_cell(params, state, x):
    import torch

    h, c = torch.lstm_cell(x[None], [part[None] for part in state], *(p.t() for p in params))
    return lstm.LSTMState(h=h[0], c=c[0]), h[0]


def flax_cell(params, state, x):
    from flax import linen

    weights = {}
    for gate, w_x, w_h, b in zip(
        "ifgo",
        np.split(params.w_x, 4, axis=1),
        np.split(params.w_h, 4, axis=1),
        np.split(params.b_x + params.b_h, 4),
        strict=True,
    ):
        weights |= {f"i{gate}": {"kernel": w_x}, f"h{gate}": {"kernel": w_h, "bias": b}}
    cell = linen.OptimizedLSTMCell(len(state.h), param_dtype=np.float64)
    (c, h), y = cell.apply({"params": weights}, (state.c, state.h), x)
    return lstm.LSTMState(h=h, c=c), y


def onnx_cell(params, state, x):
    w_i, w_f, w_o = np.split(params.w_c, 3)
    peepholes, c = np.concatenate([w_i, w_o, w_f])[None], state.c[None, None]
    h, c = onnx_oracle.step("LSTM", x, (0, 3, 1, 2), params, state.h, c=c, P=peepholes)[-2:]
    return lstm.LSTMState(h=h, c=c), h


RECORDS = (
    Record(
        lstm.lstm_cell,
        reference.lstm_cell,
        reference.lstm_cell_backward,
        arguments(peephole=False),
        oracles={"torch": torch_cell, "flax": flax_cell},
    ),
    Record(
        lstm.lstm_cell_peephole,
        reference.lstm_cell_peephole,
        reference.lstm_cell_peephole_backward,
        arguments(peephole=True),
        oracles={"onnx": onnx_cell},
    ),
)
