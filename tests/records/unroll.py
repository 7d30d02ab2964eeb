from functools import partial, wraps

import numpy as np
from hypothesis import strategies as st

from minilm.layers.recurrent import gru, lstm, unroll
from minilm.reference.recurrent import gru as gru_reference
from minilm.reference.recurrent import lstm as lstm_reference
from minilm.reference.recurrent import unroll as reference
from tests.records import Record
from tests.strategies import arrays, sizes, weights

SIZES = sizes(((), 5, 3, 2), ((2,), 4, 1, 3), ((3, 1), 1, 2, 4))  # leading axes, t, i, h
FEW = sizes(((2,), 4, 1, 3), ((), 5, 3, 2))


@st.composite
def gru_params(draw, i, h):
    return gru.GRUParams(
        w_x=draw(weights(i, 3 * h)), w_h=draw(weights(h, 3 * h)), b_x=draw(weights(3 * h)), b_h=draw(weights(3 * h))
    )


@st.composite
def lstm_params(draw, i, h):
    return lstm.LSTMParams(
        w_x=draw(weights(i, 4 * h)), w_h=draw(weights(h, 4 * h)), b_x=draw(weights(4 * h)), b_h=draw(weights(4 * h))
    )


@st.composite
def lstm_states(draw, *shape):
    return lstm.LSTMState(h=draw(weights(*shape)), c=draw(weights(*shape)))


@st.composite
def lengths(draw, leading, t):
    """For each sequence, from nothing to everything."""
    flat = [draw(st.integers(0, t)) for _ in range(int(np.prod(leading)))]
    return np.array(flat, np.int32).reshape(leading)


@st.composite
def whole(draw):
    leading, t, i, h = draw(SIZES)
    return draw(gru_params(i, h)), draw(weights(*leading, h)), draw(arrays(*leading, t, i)), None


@st.composite
def ragged(draw):
    leading, t, i, h = draw(FEW)
    return (
        draw(lstm_params(i, h)),
        draw(lstm_states(*leading, h)),
        draw(arrays(*leading, t, i)),
        draw(lengths(leading, t)),
    )


@st.composite
def both_directions(draw):
    leading, t, i, h = draw(FEW)
    params = unroll.Directions(draw(gru_params(i, h)), draw(gru_params(i, h)))
    state = unroll.Directions(draw(weights(*leading, h)), draw(weights(*leading, h)))
    return params, state, draw(arrays(*leading, t, i)), draw(lengths(leading, t))


@st.composite
def two_layers(draw):
    leading, t, i, h = draw(FEW)
    params = draw(gru_params(i, h)), draw(gru_params(h, h + 1))
    state = draw(weights(*leading, h)), draw(weights(*leading, h + 1))
    return params, state, draw(arrays(*leading, t, i)), draw(lengths(leading, t))


def of(cell, function):
    """The function of the remaining arguments, under its own name."""
    return wraps(function)(partial(function, cell))


def gradients(backward, cell_backward):
    return lambda saved, d_out: backward(saved, d_out, cell_backward)


GRU = gru.gru_cell, gru_reference.gru_cell, gru_reference.gru_cell_backward
LSTM = lstm.lstm_cell, lstm_reference.lstm_cell, lstm_reference.lstm_cell_backward


def record(name, cells, arguments, **rest):
    cell, reference_cell, cell_backward = cells
    return Record(
        of(cell, getattr(unroll, name)),
        of(reference_cell, getattr(reference, name)),
        gradients(getattr(reference, f"{name}_backward"), cell_backward),
        arguments,
        **rest,
    )


RECORDS = (
    record("unroll", GRU, whole(), label="gru"),
    record("unroll", LSTM, ragged(), label="lstm, ragged"),
    record("unroll_reverse", LSTM, ragged(), label="lstm, ragged"),
    record("bidirectional", GRU, both_directions(), label="gru, ragged"),
    record("stacked", GRU, two_layers(), label="gru, ragged"),
    # What truncation leaves out of the gradient, a difference sees.
    record("truncated_unroll", LSTM, ragged(), label="lstm, ragged", static={"segment": 2}, smooth=False),
)
