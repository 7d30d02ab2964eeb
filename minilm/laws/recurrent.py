"""Laws of recurrent cells: any cell(state, x: (i,)) -> (state, y), and of the loops that run them."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from minilm.laws.search import USUAL, Search, apart, array, forall, leaves


def recurrence_equals_loop(
    unroll: Callable, cell: Callable, init_state: Callable, *, d: int, search: Search = USUAL
) -> None:
    r"""A scan, a chunked or a parallel form equals the loop it stands for, outputs and final state.

    $$ (s_{i+1}, y_i) = \mathrm{cell}(s_i, x_i) \implies (s_t, y_{<t}) = \mathrm{unroll}(s_0, x_{<t}) $$

    `unroll(state, x: (t, d)) -> (state, y: (t, ...))`; a state is an array or a tuple of arrays.
    """

    def violation(x):
        state, y = init_state(), []
        for row in x:
            state, out = cell(state, row)
            y.append(array(out))
        final, outputs = unroll(init_state(), x)
        if phrase := apart(outputs, np.stack(y), inputs=(x,)):
            return f"the unrolled outputs {phrase}".replace("differs", "differ") + " from the loop's"
        for actual, expected in zip(leaves(final), leaves(state), strict=True):
            if phrase := apart(actual, expected, inputs=(x,)):
                return f"the final state {phrase} from the loop's"
        return None

    forall("recurrence equals loop", _sequence(d, search), violation, search)


def final_state_ignores_padding(encode: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""The state after n tokens is the state after n tokens, whatever padding follows: `encode(x: (t, d), n) -> state`.

    $$ \mathrm{encode}(x, n) = \mathrm{encode}(x_{<n}, n) $$

    A bidirectional one must start its backward half at token n, not at the end of the padding.
    """

    @st.composite
    def inputs(draw):
        x = draw(search.array(draw(search.length(2)), d))
        return {"x": x, "n": draw(st.integers(1, len(x) - 1))}

    def violation(x, n):
        for actual, expected in zip(leaves(encode(x, n)), leaves(encode(x[:n], n)), strict=True):
            if phrase := apart(actual, expected, inputs=(x,)):
                return f"the state after {n} tokens and {len(x) - n} of padding {phrase} from the state without padding"
        return None

    forall("final state ignores padding", inputs(), violation, search)


def same_cell(cell: Callable, other: Callable, *, d: int, states: Callable, search: Search = USUAL) -> None:
    r"""Two cells are the same cell, new state and output: yours and the reference, the converted and the original.

    $$ \mathrm{cell}(s, x) = \mathrm{cell}'(s, x) $$

    `states(rng)` draws a state. Give both parameters of which *none* is zero: zero biases hide a swapped one.
    """

    @st.composite
    def inputs(draw):
        return {"state": states(np.random.default_rng(draw(st.integers(0, 99)))), "x": draw(search.array(d))}

    def violation(state, x):
        for actual, expected in zip(leaves(cell(state, x)), leaves(other(state, x)), strict=True):
            if phrase := apart(actual, expected, inputs=(x, *leaves(state))):
                return f"the first cell's result {phrase} from the second's"
        return None

    forall("same cell", inputs(), violation, search)


@st.composite
def _sequence(draw, d, search):
    return {"x": draw(search.array(draw(search.length()), d))}
