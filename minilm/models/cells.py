"""The recurrent cells by name: a layer's parameters at first, its step, and the state before the first one."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from minilm.layers.recurrent.elman import ElmanParams, elman_cell, init_elman
from minilm.layers.recurrent.gru import GRUParams, gru_cell, init_gru
from minilm.layers.recurrent.lstm import LSTMParams, LSTMState, init_lstm, lstm_cell

CellParams = ElmanParams | GRUParams | LSTMParams


class Cell(NamedTuple):
    """What a layer is made of: `init(key, i, h) -> params` and `step(params, state, x) -> (state, y)`."""

    init: Callable
    step: Callable


CELLS = {"elman": Cell(init_elman, elman_cell), "gru": Cell(init_gru, gru_cell), "lstm": Cell(init_lstm, lstm_cell)}


def check_cell(name: str) -> None:
    """Refuse a name that is not in the table, in a sentence."""
    if name not in CELLS:
        raise ValueError(f"There is no recurrent cell {name!r}: choose one of {', '.join(CELLS)}.")


def zero_state(params: CellParams, *leading: int):
    """A state of zeros for each sequence of the leading axes: nothing has been read.

    >>> import jax
    >>> zero_state(init_gru(jax.random.key(0), 3, 2), 4).shape
    (4, 2)
    """

    def zeros():
        return jnp.zeros((*leading, len(params.w_h)), params.b_h.dtype)

    # h and c are two arrays, for one given away twice, as a training step that reuses its memory would, is an error.
    return LSTMState(zeros(), zeros()) if isinstance(params, LSTMParams) else zeros()
