"""Laws of equality: two ways to the same number, of which one is obvious."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from minilm.laws.search import USUAL, Search, apart, array, forall, off_slope


def weights_sum_to_one(weights: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""Each query spends exactly 1 on the keys: `weights(x) -> (..., t, s)` sums to 1 over its *last* axis.

    $$ a_{ij} \ge 0, \qquad \sum_j a_{ij} = 1 $$
    """

    @st.composite
    def inputs(draw):
        return {"x": draw(search.array(draw(search.length()), d))}

    def violation(x):
        a = array(weights(x))
        if (a < 0).any():
            return f"a weight is {a.min():.2g}, which is negative"
        total = a.sum(-1)
        phrase = apart(total, np.ones_like(total))
        return (
            phrase
            and f"the sum of a query's weights over the keys is {total.ravel()[np.abs(total - 1).argmax()]:.3g}, not 1"
        )

    forall("weights sum to one", inputs(), violation, search)


def cached_equals_full(
    mixer: Callable, step: Callable, init_state: Callable, *, d: int, search: Search = USUAL
) -> None:
    r"""Reading a sequence piece by piece gives what reading it at once gives, wherever it is cut.

    $$ (s_{c+1}, y_c) = \mathrm{step}(s_c, x_c), \qquad [y_0, y_1, \dots] = f([x_0, x_1, \dots]) $$

    `init_state()` makes an empty state, `step(state, x: (any t, d)) -> (state, y)` reads a piece. A step that takes
    one token at a time becomes one that takes pieces by `by_token`.
    """

    @st.composite
    def inputs(draw):
        x = draw(search.array(draw(search.length(2)), d))
        return {"x": x, "cuts": sorted(draw(st.sets(st.integers(1, len(x) - 1))))}

    def violation(x, cuts):
        state, pieces = init_state(), []
        for piece in np.split(x, cuts):
            state, y = step(state, piece)
            pieces.append(array(y))
        if phrase := apart(np.concatenate(pieces), mixer(x), inputs=(x,)):
            return f"the output of pieces cut at {cuts} {phrase} from the output of the whole"
        return None

    forall("cached equals full", inputs(), violation, search)


def by_token(step: Callable) -> Callable:
    """A step that reads pieces, from one that reads a single token: `step(state, x: (d,)) -> (state, y: (d,))`."""

    def read(state, x):
        outputs = []
        for row in x:
            state, y = step(state, row)
            outputs.append(array(y))
        return state, np.stack(outputs)

    return read


def agreement(f: Callable, g: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""Two functions of x are the same function: blockwise and dense, kernel and reference, converted and original.

    $$ f(x) = g(x) $$
    """

    @st.composite
    def inputs(draw):
        return {"x": draw(search.array(draw(search.length()), d))}

    def violation(x):
        phrase = apart(array(f(x)), array(g(x)), inputs=(x,))
        return phrase and f"the first function's result {phrase} from the second's"

    forall("agreement", inputs(), violation, search)


def gradient_equals_differences(mixer: Callable, grad: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""The gradient is the derivative: `grad(x, d_y) -> d_x` agrees with central differences along a random v.

    $$ \langle d_x, v \rangle = \frac{\langle d_y, f(x + h v) - f(x - h v) \rangle}{2 h}, \qquad h = u^{1/3} $$
    """

    @st.composite
    def inputs(draw):
        x = draw(search.array(draw(search.length()), d, odd=True))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        return {"x": x, "d_y": rng.normal(size=x.shape).astype(x.dtype), "v": rng.normal(size=x.shape).astype(x.dtype)}

    def violation(x, d_y, v):
        return off_slope(mixer, (x,), d_y, (grad(x, d_y),), (v,))

    forall("gradient equals differences", inputs(), violation, search)


def batch_equals_one_by_one(batched: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""An example's result does not depend on its company: `batched(x: (b, t, d)) -> (b, t, d)` maps each by itself.

    $$ F([x_1, \dots, x_b])_m = F([x_m])_1 $$
    """

    def violation(x):
        alone = np.concatenate([array(batched(one[None])) for one in x])
        phrase = apart(batched(x), alone, inputs=(x,))
        return phrase and f"the output of the batch {phrase} from that of its examples one by one"

    forall("batch equals one by one", _batches(d, search), violation, search)


def order_of_examples_irrelevant(batched: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""The order of a batch's examples is only the order of its results.

    $$ F(x_\pi) = F(x)_\pi $$
    """

    def violation(x):
        phrase = apart(array(batched(x[::-1].copy())), array(batched(x))[::-1], inputs=(x,))
        return phrase and f"the output of the reversed batch {phrase} from the reversed output"

    forall("order of examples irrelevant", _batches(d, search), violation, search)


@st.composite
def _batches(draw, d, search):
    return {"x": draw(search.array(draw(st.integers(2, 3)), draw(search.length()), d))}
