"""Laws of recurrent cells: any cell(state, x: (i,)) -> (state, y), and of the loops that run them."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from minilm.laws.search import DRAWS, USUAL, Search, apart, for_each, forall
from minilm.laws.structure import array, leaves, paired, state_and_output


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
            state, out = state_and_output(cell(state, row), "the cell")
            y.append(array(out))
        final, outputs = state_and_output(unroll(init_state(), x), "the unrolled form")
        if phrase := apart(outputs, np.stack(y), inputs=(x,)):
            return f"the unrolled outputs {phrase}".replace("differs", "differ") + " from the loop's"
        for actual, expected in paired(final, state, "the final state", "the loop's"):
            if phrase := apart(actual, expected, inputs=(x,)):
                return f"the final state {phrase} from the loop's"
        return None

    forall("recurrence equals loop", _sequence(d, search), violation, search)


def final_state_ignores_padding(encode: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""The state after n tokens is the state after n tokens, whatever padding follows: `encode(x: (t, d), n) -> state`.

    $$ \mathrm{encode}(x, n) = \mathrm{encode}(x_{<n}, n), \qquad \mathrm{encode}(x, n) \text{ depends on } x_{n-1} $$

    A bidirectional one must start its backward half at token n, not at the end of the padding. And it must have read
    the last token: the state after n − 1, the first token and a constant ignore padding too. That is asked of texts of
    one and two tokens, for the end of a longer one may be lost in rounding on its way back; and no more is asked, for
    what takes the last state or the largest entry knows of no other token.
    """
    name = "final state ignores padding"

    @st.composite
    def inputs(draw):
        x = draw(search.array(draw(search.length(2)), d))
        return {"x": x, "n": draw(st.integers(1, len(x) - 1))}

    def violation(x, n):
        padded = leaves(encode(x, n))
        for actual, expected in paired(padded, encode(x[:n], n), "the state", "the state without padding"):
            if phrase := apart(actual, expected, inputs=(x,)):
                return f"the state after {n} tokens and {len(x) - n} of padding {phrase} from the state without padding"
        return None

    def drawn(n, draw):
        """Draw by draw, some x and the same with another token n - 1, in every second draw a loud one."""
        rng = np.random.default_rng(draw)
        x = rng.normal(size=(min((t for t in search.lengths if t > n), default=n), d)).astype(search.dtype)
        changed = x.copy()
        changed[n - 1] = rng.normal(size=d) * (1e4 if draw % 2 else 1)
        return x, changed

    def forgetful(x, n):
        for draw in range(DRAWS):
            before, after = (leaves(encode(each, n)) for each in drawn(n, draw))
            if any((a != b).any() for a, b in paired(before, after, "the state", "the state of another text")):
                return None
        return f"the state encode(x, {n}) does not depend on x[{n - 1}], the last token read"

    forall(name, inputs(), violation, search)
    for_each(name, ({"x": drawn(n, 0)[0], "n": n} for n in (1, 2)), forgetful)


def same_cell(cell: Callable, other: Callable, *, d: int, states: Callable, search: Search = USUAL) -> None:
    r"""Two cells are the same cell, new state and output: yours and the reference, the converted and the original.

    $$ \mathrm{cell}(s, x) = \mathrm{cell}'(s, x) $$

    `states(rng)` draws a state. Give both parameters of which *none* is zero: zero biases hide a swapped one.
    """

    @st.composite
    def inputs(draw):
        return {"state": states(np.random.default_rng(draw(st.integers(0, 99)))), "x": draw(search.array(d))}

    def violation(state, x):
        first = leaves(cell(state, x))
        for actual, expected in paired(first, other(state, x), "the first cell's result", "the second's"):
            if phrase := apart(actual, expected, inputs=(x, *leaves(state))):
                return f"the first cell's result {phrase} from the second's"
        return None

    forall("same cell", inputs(), violation, search)


@st.composite
def _sequence(draw, d, search):
    return {"x": draw(search.array(draw(search.length()), d))}
