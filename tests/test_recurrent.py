"""What holds of recurrent cells, beyond the laws of the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minilm.layers.recurrent.elman import init_elman
from minilm.layers.recurrent.gru import gru_cell, gru_cell_reset_before, init_gru
from minilm.layers.recurrent.lstm import LSTMParams, init_lstm, init_lstm_peephole, lstm_cell, lstm_cell_peephole
from minilm.layers.recurrent.unroll import unroll
from minilm.reference.recurrent import gru, lstm
from tests.cells import H, I, assert_identical, draw_all
from tests.strategies import keys, seeds
from tests.tolerances import FORMULA, assert_close

INFINITY = 1e6  # what saturates every gate in float64


def with_gates(params, gates, width=H):
    """The parameters with some packed gates, by number, held at a pre-activation that nothing else moves."""
    for gate, value in gates.items():
        columns = slice(gate * width, (gate + 1) * width)
        params = params._replace(
            w_x=params.w_x.at[:, columns].set(0),
            w_h=params.w_h.at[:, columns].set(0),
            b_x=params.b_x.at[columns].set(value),
            b_h=params.b_h.at[columns].set(0),
        )
    return params


@pytest.mark.parametrize("cell", [gru_cell, gru_cell_reset_before], ids=["after", "before"])
@given(seed=seeds)
def test_a_gru_whose_update_gate_is_one_keeps_its_state_exactly(cell, seed):
    params, state, xs, _ = draw_all(cell, seed)
    assert_identical(unroll(cell, with_gates(params, {1: INFINITY}), state, xs)[0], state)


@pytest.mark.parametrize("cell", [gru_cell, gru_cell_reset_before], ids=["after", "before"])
@given(seed=seeds)
def test_a_gru_whose_gates_are_zero_forgets_its_state_exactly(cell, seed):
    params, state, xs, _ = draw_all(cell, seed)
    params = with_gates(params, {0: -INFINITY, 1: -INFINITY})
    assert_identical(cell(params, state, xs[0]), cell(params, -2 * state, xs[0]))


@pytest.mark.parametrize("cell", [gru_cell, gru_cell_reset_before, lstm_cell, lstm_cell_peephole])
def test_by_hand_too_gates_saturate_without_an_overflow(cell):
    """Pre-activations of a thousand of either sign, of which no exponential is a number."""
    params, state, xs, _ = draw_all(cell, 0)
    xs = 1e4 * xs
    module = gru if "gru" in cell.__name__ else lstm
    by_hand, saved = getattr(module, cell.__name__)(*jax.tree.map(np.asarray, (params, state, xs[0])))
    out, pullback = jax.vjp(cell, params, state, xs[0])
    assert_close(out, by_hand, FORMULA)
    backward = getattr(module, f"{cell.__name__}_backward")(saved, jax.tree.map(np.ones_like, by_hand))
    assert_close(pullback(jax.tree.map(jnp.ones_like, out)), backward, FORMULA)


@given(seed=seeds)
def test_both_grus_agree_where_the_reset_gate_is_open(seed):
    params, state, xs, _ = draw_all(gru_cell, seed)
    params = with_gates(params, {0: INFINITY})
    assert_close(gru_cell_reset_before(params, state, xs[0]), gru_cell(params, state, xs[0]), FORMULA)


@pytest.mark.parametrize("cell", [lstm_cell, lstm_cell_peephole], ids=["plain", "peephole"])
@given(seed=seeds)
def test_an_lstm_that_forgets_nothing_and_takes_nothing_keeps_its_cell_exactly(cell, seed):
    params, state, xs, _ = draw_all(cell, seed)
    params = with_gates(params, {0: -INFINITY, 1: INFINITY})
    assert_identical(unroll(cell, params, state, xs)[0].c, state.c)


@given(seed=seeds)
def test_without_peepholes_the_peephole_lstm_is_the_lstm(seed):
    params, state, xs, _ = draw_all(lstm_cell_peephole, seed)
    plain = LSTMParams(params.w_x, params.w_h, params.b_x, params.b_h)
    closed = params._replace(w_c=jnp.zeros_like(params.w_c))
    assert_identical(lstm_cell_peephole(closed, state, xs[0]), lstm_cell(plain, state, xs[0]))


@pytest.mark.parametrize("init", [init_elman, init_gru, init_lstm, init_lstm_peephole])
@settings(max_examples=1)
@given(key=keys())
def test_initial_weights_have_the_variance_that_keeps_signals_of_unit_size(init, key):
    params = init(key, 400, 100)
    assert abs(params.w_x.std() * np.sqrt(400) - 1) < 0.02
    assert abs(params.w_h.std() * np.sqrt(100) - 1) < 0.02
    assert not np.array_equal(params.w_x[:100] * 2, params.w_h)


@pytest.mark.parametrize(("init", "gates"), [(init_elman, 1), (init_gru, 3)])
def test_initial_weights_have_a_column_for_each_gate_and_biases_are_zero(init, gates):
    params = init(jax.random.key(0), I, H)
    assert (params.w_x.shape, params.w_h.shape) == ((I, gates * H), (H, gates * H))
    assert_identical((params.b_x, params.b_h), (np.zeros(gates * H), np.zeros(gates * H)))


def test_an_initial_lstm_has_its_forget_gate_open_and_its_peepholes_shut():
    params = init_lstm_peephole(jax.random.key(0), I, H)
    assert (params.w_x.shape, params.w_h.shape) == ((I, 4 * H), (H, 4 * H))
    bias = np.zeros(4 * H)
    bias[H : 2 * H] = 1
    assert_identical((params.b_x, params.b_h, params.w_c), (bias, np.zeros(4 * H), np.zeros(3 * H)))
