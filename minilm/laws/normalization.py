"""Laws of normalization: any norm(x: (..., d)) -> (..., d) over the last axis, with scale 1 and bias 0 unless said."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from minilm.laws.search import FAR, USUAL, Search, apart, forall, unit_roundoff
from minilm.laws.structure import array, shaped

BIG = 2.0**20  # so large that no norm's epsilon counts, and exact to multiply by
BIG_IN_FLOAT16 = 2.0  # there epsilon counts less, for u is larger, and squares end at 65504


def scale_invariance(norm: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""A norm forgets the size of its input.

    $$ \mathrm{norm}(a x) = \mathrm{norm}(x) \quad\text{for } a > 0,\ |x| \gg \epsilon $$
    """

    def violation(x):
        big = _big(x)
        phrase = apart(array(norm(x * big)), array(norm(x * big * 16)))
        return phrase and f"the output for {big:.0f}·x {phrase} from the output for sixteen times that"

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
        square = np.mean(array(norm(x * _big(x))).astype(np.float64) ** 2, -1).astype(array(norm(x)).dtype)
        phrase = apart(square, np.ones_like(square))
        return phrase and f"the mean square of the output {phrase} from 1"

    forall("unit output", _rows(d, search), violation, search)


def direction_kept(norm: Callable, *, d: int, centred: bool = False, search: Search = USUAL) -> None:
    r"""A norm makes each row longer or shorter, by itself, and turns none: not even round.

    $$ \mathrm{norm}(x) = c\, x \quad\text{or}\quad \mathrm{norm}(x) = c\, (x - \bar x), \qquad c > 0 $$

    The second is for one that removes the mean, `centred=True`. Each row has a c of its own, whatever the other rows.
    A norm over groups (Mamba-2's gated one, a group norm) has a c for each group and turns the row: it is asked as a
    function of one group, `lambda x: norm(np.tile(x, groups))[..., :d]`, where d is the width of a group.
    """

    def violation(x):
        y = shaped(norm(x), x.shape)
        rows, what = x.astype(np.float64), "the row"
        if centred:
            rows, what = rows - rows.mean(-1, keepdims=True), "the row less its mean"
        phrase = apart(_unit(y).astype(y.dtype), _unit(rows).astype(y.dtype))
        hint = "" if centred else "one that removes the mean is given with `centred=True`, "
        hint = f"({hint}a norm over groups as a function of one group)"
        return phrase and f"the direction of the output {phrase} from that of {what} {hint}"

    known = np.random.default_rng(0).normal(size=(2, 3, d)).astype(search.dtype)
    forall("direction kept", _rows(d, search), violation, search, known=({"x": known},))


def accurate_far_from_zero(norm: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""A mean far greater than the deviation costs digits only in proportion: the variance is not E[x²] − E[x]².

    $$ |\mathrm{norm}(x + c) - \mathrm{norm}(x)| \le C\, u\, r \quad\text{with } r = c / \sigma \approx 4 / \sqrt u $$

    At that r the two-pass formula has lost half of its digits and the one-pass formula all of them, often to a NaN.
    """
    r = 2.0 ** np.ceil(np.log2(4 / np.sqrt(unit_roundoff(np.dtype(search.dtype)))))
    loud = min(64, 8 * _big(np.zeros(1, search.dtype)))

    def violation(x):
        near = x * loud
        far = near + x.dtype.type(r * loud)
        near_again = far - x.dtype.type(r * loud)
        phrase = apart(array(norm(far)), array(norm(near_again)), FAR * r, inputs=(np.ones(1),))
        there = f"with mean {r * loud:.3g} and deviation {near.std(-1).min():.3g}"
        return phrase and f"{there} the output {phrase} from that with mean 0"

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


def _big(x):
    """What makes x so large that no epsilon counts, sixteen times over, and leaves it squares that are finite."""
    return x.dtype.type(BIG_IN_FLOAT16 if x.dtype == np.float16 else BIG)


def _unit(rows):
    """Rows of length 1, but those of length 0."""
    rows = rows.astype(np.float64)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length == 0, 1, length)


@st.composite
def _rows(draw, d, search):
    """Rows of rank 1, 2 and 3 that are never constant: the last entry is moved away from the first."""
    x = draw(search.array(*draw(st.sampled_from([(d,), (3, d), (2, 3, d)]))))
    x[..., -1] = x[..., 0] + np.where(np.abs(x[..., -1] - x[..., 0]) < 1, 1, x[..., -1] - x[..., 0])
    return {"x": x}
