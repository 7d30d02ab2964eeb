"""Parameters, states and inputs for recurrent cells, drawn; and what says that two trees hold the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from minilm.layers.recurrent.elman import ElmanParams, elman_cell
from minilm.layers.recurrent.gru import GRUParams, gru_cell, gru_cell_reset_before
from minilm.layers.recurrent.lstm import LSTMParams, LSTMPeepholeParams, LSTMState, lstm_cell, lstm_cell_peephole

T, I, H, BATCH = 6, 3, 4, 5
PARAMS = {elman_cell: (ElmanParams, 1), gru_cell: (GRUParams, 3), gru_cell_reset_before: (GRUParams, 3)}
PARAMS |= {lstm_cell: (LSTMParams, 4), lstm_cell_peephole: (LSTMPeepholeParams, 4)}


def draw_params(cell, rng, i=I, h=H):
    kind, gates = PARAMS[cell]
    shapes = {"w_x": (i, gates * h), "w_h": (h, gates * h), "w_c": (3 * h,), "b_x": (gates * h,), "b_h": (gates * h,)}
    return kind(**{name: jnp.asarray(rng.standard_normal(shapes[name])) for name in kind._fields})


def draw_state(cell, rng, *shape):
    h, c = jnp.asarray(rng.standard_normal((2, *shape)))
    return LSTMState(h, c) if PARAMS[cell][1] == 4 else h


def draw_all(cell, seed, *leading, t=T):
    rng = np.random.default_rng(seed)
    xs = jnp.asarray(rng.standard_normal((*leading, t, I)))
    return draw_params(cell, rng), draw_state(cell, rng, *leading, H), xs, rng


def assert_identical(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
