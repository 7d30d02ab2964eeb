"""Laws of equality: two ways to the same number, of which one is obvious."""

from collections.abc import Callable
from functools import cache

import numpy as np
from hypothesis import strategies as st

from minilm.laws.search import USUAL, Search, apart, for_each, forall, longest, off_slope
from minilm.laws.structure import Unlike, array, raised, rows, shaped, state_and_output


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
    mixer: Callable,
    step: Callable,
    init_state: Callable,
    *,
    d: int,
    w: int | None = None,
    search: Search = USUAL,
) -> None:
    r"""Reading a sequence piece by piece gives what reading it at once gives, wherever it is cut.

    $$ (s_{c+1}, y_c) = \mathrm{step}(s_c, x_c), \qquad [y_0, y_1, \dots] = f([x_0, x_1, \dots]) $$

    `init_state()` makes an empty state, `step(state, x: (any t, d)) -> (state, y)` reads a piece. A step that takes
    one token at a time becomes one that takes pieces by `by_token`.

    A cache that rolls is wrong only once it has rolled: with a window of w, as many tokens as `window_honoured` asks
    are read one by one, in halves of a window, in whole windows (which takes 2w − 1 slots where a piece is written
    before it looks), and one by one after a first piece that is longer, and fits 2w − 1 slots as well. (What has a slot
    for every token never rolls: longer `lengths` ask it.) With `lengths` of your own no piece is longer than the
    longest. One that is longer than the usual lengths may be refused by an error, if it is refused by an empty state
    too; then it is not asked.

    Raises:
      ValueError: for a w below 1.
    """

    @st.composite
    def inputs(draw):
        x = draw(search.array(draw(search.length(2)), d))
        return {"x": x, "cuts": sorted(draw(st.sets(st.integers(1, len(x) - 1))))}

    def read(x, cuts):
        state, pieces = init_state(), []
        for piece in np.split(x, cuts):
            state, y = state_and_output(step(state, piece), "the step")
            pieces.append(array(y))
        return np.concatenate(pieces)

    def violation(x, cuts):
        if phrase := apart(read(x, cuts), mixer(x), inputs=(x,)):
            return f"the output of pieces cut at {cuts} {phrase} from the output of the whole"
        return None

    forall("cached equals full", inputs(), violation, search)
    if w is not None:
        for_each("cached equals full", *_once_it_rolls(mixer, read, d, w, search))


def _once_it_rolls(mixer, read, d, w, search):
    """One sequence in which a window of w slides, cut in some ways, and the law of each."""
    known = np.random.default_rng(0).normal(size=(longest(w, search), d)).astype(search.dtype)
    hint = " (fewer tokens, or shorter pieces, are asked with `search=Search(lengths=...)`)"

    @cache
    def whole():
        return rows(mixer(known), len(known))

    def violation(x, cuts):
        sizes = np.diff([0, *cuts, len(x)])
        some = ", ".join(map(str, sizes[:3])) + ", ..." * (len(sizes) > 3)
        which = f"of {len(x)} tokens, read in pieces of {some},"
        try:
            y = shaped(read(x, cuts), whole().shape, f"the output {which}")
        except Unlike:
            raise
        except Exception as error:
            refused = sizes.max() > max(search.lengths) and _refused(read, x[: sizes.max()])
            return None if refused else f"{raised(error)}{hint}"
        phrases = (apart(a, e, inputs=(x, whole())) for a, e in zip(y, whole(), strict=True))
        i, phrase = next(((i, phrase) for i, phrase in enumerate(phrases) if phrase), (0, ""))
        return phrase and f"output {i} {which} {phrase} from that of the whole{hint}"

    return ({"x": known, "cuts": cuts} for cuts in _cuts(len(known), w, search)), violation


def _refused(read, piece):
    """Whether an empty state answers this piece by an error."""
    try:
        read(piece, [])
    except Exception:
        return True
    return False


def _cuts(t, w, search):
    """Where t tokens are cut: one by one, in halves of a window, in windows, and after a piece longer than one."""
    most = t if search.lengths == USUAL.lengths else max(search.lengths)
    piece, long = min(w, most), min(2 * w - 1, (w + t + 1) // 2)
    # From the second token on, so that no ring begins with a piece, and so that the last piece is a whole one.
    sizes = [(1, 1), ((piece + 1) // 2,) * 2, (1, piece), (t % piece or piece, piece)]
    sizes += [(long, 1)] if w < long <= min(most, t - 1) else []
    return [np.arange(first, t, then) for first, then in dict.fromkeys(sizes)]


def same_as_mixer(law: str, what: str, form: Callable, mixer: Callable | None, d: int, search: Search) -> None:
    """Raise `LawBroken` where a form of the mixer that is given nothing to ignore is not the mixer, if there is one."""
    if mixer is None:
        return

    def violation(x):
        phrase = apart(array(form(x)), array(mixer(x)), inputs=(x,))
        return phrase and f"{what} {phrase} from the mixer's"

    drawn = np.random.default_rng(0).normal(size=(max(search.lengths), d)).astype(search.dtype)
    for_each(law, ({"x": drawn[:t]} for t in sorted(set(search.lengths))), violation)


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


def batch_equals_one_by_one(
    batched: Callable, *, d: int, mixer: Callable | None = None, search: Search = USUAL
) -> None:
    r"""An example's result does not depend on its company: `batched(x: (b, t, d)) -> (b, t, d)` maps each by itself.

    $$ F([x_1, \dots, x_b])_m = F([x_m])_1 = f(x_m) $$

    The right-hand side is `mixer`, where it is given: else zeros would be a batch too.
    """

    def violation(x):
        alone = np.concatenate([array(batched(one[None])) for one in x])
        phrase = apart(batched(x), alone, inputs=(x,))
        return phrase and f"the output of the batch {phrase} from that of its examples one by one"

    forall("batch equals one by one", _batches(d, search), violation, search)
    what = "in a batch of one, the output of `batched`"
    same_as_mixer("batch equals one by one", what, lambda x: rows(batched(x[None]), 1, what)[0], mixer, d, search)


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
