"""Laws of normalization: any norm(x: (..., d)) -> (..., d) over the last axis, with scale 1 and bias 0 unless said."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from minilm.laws.search import FAR, USUAL, Search, apart, array, forall, unit_roundoff

BIG = 2.0**20  # so large that no norm's epsilon counts, and exact to multiply by


def scale_invariance(norm: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""A norm forgets the size of its input.

    $$ \mathrm{norm}(a x) = \mathrm{norm}(x) \quad\text{for } a > 0,\ |x| \gg \epsilon $$
    """

    def violation(x):
        phrase = apart(array(norm(x * BIG)), array(norm(x * BIG * 16)))
        return phrase and f"the output for {BIG:.0f}·x {phrase} from the output for sixteen times that"

    forall("scale invariance", _rows(d, search), violation, search)


def shift_invariance(norm: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""A layer norm forgets the mean of its input (an RMS norm does not: do not ask it to).

    $$ \mathrm{norm}(x + c) = \mathrm{norm}(x) $$
    """

    def violation(x):
        phrase = apart(array(norm(x + x.dtype.type(2))), array(norm(x)), inputs=(x + 2,))
        return phrase and f"the output for x + 2 {phrase} from the output for x"

    forall("shift invariance", _rows(d, search), violation, search)


def unit_output(norm: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""What leaves a norm without scale and bias has root mean square 1, over the last axis.

    $$ \tfrac 1 d \sum_j \mathrm{norm}(x)_j^2 = 1 \quad\text{for } |x| \gg \epsilon $$
    """

    def violation(x):
        square = np.mean(array(norm(x * BIG)).astype(np.float64) ** 2, -1).astype(array(norm(x)).dtype)
        phrase = apart(square, np.ones_like(square))
        return phrase and f"the mean square of the output {phrase} from 1"

    forall("unit output", _rows(d, search), violation, search)


def accurate_far_from_zero(norm: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""A mean far greater than the deviation costs digits only in proportion: the variance is not E[x²] − E[x]².

    $$ |\mathrm{norm}(x + c) - \mathrm{norm}(x)| \le C\, u\, r \quad\text{with } r = c / \sigma \approx 4 / \sqrt u $$

    At that r the two-pass formula has lost half of its digits and the one-pass formula all of them, often to a NaN.
    """
    r = 2.0 ** np.ceil(np.log2(4 / np.sqrt(unit_roundoff(np.dtype(search.dtype)))))

    def violation(x):
        near, far = x * 64, x * 64 + x.dtype.type(r * 64)
        near_again = far - x.dtype.type(r * 64)
        phrase = apart(array(norm(far)), array(norm(near_again)), FAR * r, inputs=(np.ones(1),))
        spread = near.std(-1).min()
        return phrase and f"with mean {r * 64:.3g} and deviation {spread:.3g} the output {phrase} from that with mean 0"

    forall("accurate far from zero", _rows(d, search), violation, search)


def finite_on_constants(norm: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""A row of equal numbers has no deviation to divide by; the epsilon keeps the result finite.

    $$ |\mathrm{norm}(c \mathbf 1)| < \infty $$
    """

    @st.composite
    def inputs(draw):
        return {"x": np.full(d, draw(st.sampled_from([0.0, 1.0, -3.0, 1234.0])), search.dtype)}

    def violation(x):
        return (
            None
            if np.isfinite(array(norm(x)).astype(np.float64)).all()
            else "the output for equal numbers is not finite"
        )

    forall("finite on constants", inputs(), violation, search)


@st.composite
def _rows(draw, d, search):
    """Rows of rank 1, 2 and 3 that are never constant: the last entry is moved away from the first."""
    x = draw(search.array(*draw(st.sampled_from([(d,), (3, d), (2, 3, d)]))))
    x[..., -1] = x[..., 0] + np.where(np.abs(x[..., -1] - x[..., 0]) < 1, 1, x[..., -1] - x[..., 0])
    return {"x": x}
