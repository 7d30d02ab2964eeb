"""Laws of dependence: what an output of a mixer f(x: (t, d)) -> (t, d) may know of its inputs, and what it must."""

from collections.abc import Callable
from functools import cache

import numpy as np
from hypothesis import strategies as st

from minilm.laws.equality import same_as_mixer
from minilm.laws.search import BEYOND, BITWISE, DRAWS, USUAL, Search, apart, for_each, forall, longest
from minilm.laws.structure import Unlike, array, raised, rows


def shape_kept(mixer: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""Each token gets one output of the width d, a single token too.

    $$ x \in \mathbb R^{t \times d} \implies f(x) \in \mathbb R^{t \times d} $$

    The other laws compare outputs with each other, and of what is not there they could find nothing.
    """

    @st.composite
    def inputs(draw):
        return {"x": draw(search.array(draw(search.length()), d))}

    def violation(x):
        shape = array(mixer(x)).shape
        return None if shape == x.shape else f"the output has shape {shape} where {x.shape} was expected"

    forall("shape kept", inputs(), violation, search)


def determinism(mixer: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""The same input twice gives the same output twice: dropout is off and nothing is carried over.

    $$ f(x) = f(x) $$
    """

    @st.composite
    def inputs(draw):
        return {"x": draw(search.array(draw(search.length()), d))}

    def violation(x):
        phrase = apart(array(mixer(x)), array(mixer(x)), BITWISE)
        return phrase and f"the output {phrase} from one call to the next with the same input"

    forall("determinism", inputs(), violation, search)


def positions_mixed(mixer: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""Something is mixed: some output depends on the input of another position.

    $$ \exists\, x,\ i \ne j : \; f(x)_i \text{ depends on } x_j $$

    The other laws hold for what mixes nothing, and so for a mixer that takes each token for a sequence of its own,
    as a PyTorch module does that is given (1, t, d) without `batch_first=True`. What means to mix nothing has a
    window of one token, and `window_honoured` with w = 1 is its law. Asked of the longest of `search.lengths`.
    """
    rng = np.random.default_rng(0)
    x, other = rng.normal(size=(2, max(*search.lengths, 2), d)).astype(search.dtype)

    def violation(x, other):
        y = array(mixer(x))
        for j in range(len(x)):
            changed = np.concatenate([x[:j], other[j : j + 1], x[j + 1 :]])
            if set(np.flatnonzero((array(mixer(changed)) != y).any(-1))) - {j}:
                return None
        return (
            f"of {len(x)} outputs, none depends on the input of another position (weights that begin at zero mix "
            f"nothing: draw others; a reach beyond {len(x) - 1} wants longer `lengths`; what means to has `window=1`)"
        )

    forall("positions mixed", st.fixed_dictionaries({"x": st.just(x), "other": st.just(other)}), violation, search)


def causality(mixer: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""The future changes nothing in the past, not even the last bit, though it be ten thousand times as loud.

    $$ x_{\le i} = x'_{\le i} \implies f(x)_i = f(x')_i $$

    Loud, because a mask of -1e4 hides nothing once scores go beyond it.
    """

    @st.composite
    def inputs(draw):
        x = draw(search.loud(draw(search.length(2)), d))
        first = draw(st.integers(1, len(x) - 1))
        future = draw(search.loud(len(x) - first, d))
        return {"x": x, "changed": np.concatenate([x[:first], future]), "first": first}

    def violation(x, changed, first):
        phrase = apart(array(mixer(changed))[:first], array(mixer(x))[:first], BITWISE)
        return phrase and f"an output before position {first} {phrase} when only inputs from {first} on change"

    forall("causality", inputs(), violation, search)


def causality_of_gradient(grad: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""No gradient flows from an output to a later input: it is exactly 0. `grad(x, d_y) -> d_x` is the mixer's.

    $$ \partial f(x)_i / \partial x_j = 0 \quad\text{for } j > i $$
    """

    @st.composite
    def inputs(draw):
        x = draw(search.array(draw(search.length(2)), d))
        d_y = np.zeros_like(x)
        i = draw(st.integers(0, len(x) - 2))
        d_y[i] = 1
        return {"x": x, "d_y": d_y, "i": i}

    def violation(x, d_y, i):
        leak = array(grad(x, d_y))[i + 1 :]
        phrase = apart(leak, np.zeros_like(leak), BITWISE)
        return phrase and f"the gradient of output {i} with respect to later inputs {phrase} (it must be 0)"

    forall("causality of gradient", inputs(), violation, search)


def prefix_equals_whole(mixer: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""What a causal mixer says of a prefix does not depend on how much follows, or on the length it is padded to.

    $$ f(x_{<n}) = f(x)_{<n} $$
    """

    @st.composite
    def inputs(draw):
        x = draw(search.array(draw(search.length(2)), d))
        return {"x": x, "n": draw(st.integers(1, len(x) - 1))}

    def violation(x, n):
        phrase = apart(array(mixer(x[:n])), array(mixer(x))[:n], inputs=(x,))
        return (
            phrase
            and f"the output for the first {n} of {len(x)} positions {phrase} from the same positions of the whole"
        )

    forall("prefix equals whole", inputs(), violation, search)


def padding_ignored(padded: Callable, *, d: int, mixer: Callable | None = None, search: Search = USUAL) -> None:
    r"""Padding changes no real output, left or right, whatever it holds: `padded(x, real: (t,) of bool) -> y`.

    $$ f(x, r)_r = f(x_r, \mathbf 1) = f(x_r) $$

    The right-hand side is `mixer`, where it is given: else zeros would ignore padding too.
    """

    @st.composite
    def inputs(draw):
        x = draw(search.array(draw(search.length()), d))
        left, right = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        junk = draw(search.loud(left + right, d))
        real = np.repeat([False, True, False], [left, len(x), right])
        return {"x": np.concatenate([junk[:left], x, junk[left:]]), "real": real}

    def violation(x, real):
        y = rows(padded(x, real), len(x), f"the output of {len(x)} tokens, {real.sum()} of them real,")
        phrase = apart(y[real], padded(x[real], real[real]), inputs=(x[real],))
        return phrase and f"the output at real positions {phrase} from the output without padding"

    forall("padding ignored", inputs(), violation, search)
    what = "with every position real, the output of `padded`"
    same_as_mixer("padding ignored", what, lambda x: padded(x, np.ones(len(x), bool)), mixer, d, search)


def documents_kept_apart(packed: Callable, *, d: int, mixer: Callable | None = None, search: Search = USUAL) -> None:
    r"""Documents packed into one row, one to four, give what each gives alone: `packed(x, document: (t,)) -> y`.

    $$ f(x, c)_{c = j} = f(x_{c = j}, 0) = f(x_{c = j}) $$

    The right-hand side is `mixer`, where it is given: else zeros would keep documents apart too.
    """

    @st.composite
    def inputs(draw):
        x = draw(search.array(draw(search.length(2)), d))
        starts = draw(st.sets(st.integers(1, len(x) - 1), max_size=3))
        return {"x": x, "document": np.isin(np.arange(len(x)), list(starts)).cumsum(dtype=np.int32)}

    def violation(x, document):
        whole = rows(packed(x, document), len(x), f"the output of {len(x)} tokens")
        for j in np.unique(document):
            alone = packed(x[document == j], np.zeros(np.sum(document == j), np.int32))
            if phrase := apart(whole[document == j], alone, inputs=(x,)):
                return f"document {j} {phrase} from the same document alone"
        return None

    forall("documents kept apart", inputs(), violation, search)
    what = "with a single document, the output of `packed`"
    same_as_mixer("documents kept apart", what, lambda x: packed(x, np.zeros(len(x), np.int32)), mixer, d, search)


def permutation_equivariance(mixer: Callable, *, d: int, search: Search = USUAL) -> None:
    r"""Without positions and without a mask, a mixer sees a set: permuted inputs give permuted outputs.

    $$ f(x_\pi) = f(x)_\pi $$
    """

    @st.composite
    def inputs(draw):
        x = draw(search.array(draw(search.length(2)), d))
        return {"x": x, "order": np.array(draw(st.permutations(range(len(x)))))}

    def violation(x, order):
        phrase = apart(array(mixer(x[order])), rows(mixer(x), len(x))[order], inputs=(x,))
        return phrase and f"the output for permuted inputs {phrase} from the permuted output"

    forall("permutation equivariance", inputs(), violation, search)


def window_honoured(mixer: Callable, *, w: int, d: int, search: Search = USUAL) -> None:
    r"""A causal window of w sees exactly w tokens, itself among them: neither one more nor one less.

    $$ f(x)_i \text{ depends on } x_j \iff i - w < j \le i $$

    Many configurations mean something else by w: Hugging Face and minilm count the token itself, while
    FlashAttention's and `jax.nn`'s `(left, right)` do not (`left = w - 1`). In a stack, windows add up.

    Every output is asked, with the usual lengths of w + `BEYOND` tokens. With lengths of your own it is the longest of
    them that decides, and none longer is asked, as a table of positions may want; where it is not more than w, so that
    nothing would slide, w + 3 tokens are asked.

    Raises:
      ValueError: for a w below 1.
    """
    name = "window honoured"
    most = longest(w, search)

    @st.composite
    def inputs(draw):
        lengths = {t for t in (w + 1, w + 2, w + 3, *search.lengths, most) if w < t <= most}
        x = draw(search.array(draw(st.sampled_from(sorted(lengths))), d))
        j = draw(st.integers(0, len(x) - 1))
        return {"x": x, "changed": np.concatenate([x[:j], draw(search.loud(1, d)), x[j + 1 :]]), "at": [j]}

    def leak(before, after, at):
        unreached = ~_reached(len(before), w, at)
        phrase = apart(after[unreached], before[unreached], BITWISE)
        i = int(np.argmax(unreached & (before != after).any(-1)))
        j = min(at, key=lambda j: abs(i - j))
        return phrase and f"output {i} {phrase} when input {j} changes, which a window of {w} does not reach"

    def too_many(x, changed, at):
        return leak(output_of(x), output_of(changed), at)

    def too_many_or_too_few(x, changed, at):
        silent = _reached(len(x), w, at)
        for n in range(DRAWS):
            before, after = output(n), output_of(changed if n == 0 else far_apart(n, at)[1])
            if sentence := leak(before, after, at):
                return sentence
            silent &= (before == after).all(-1)
            if not silent.any():
                return None
        i = int(np.argmax(silent))
        j = max(j for j in at if j <= i)
        return f"output {i} does not change with input {j}, which a window of {w} reaches"

    def output_of(x):
        return rows(mixer(x), len(x))

    @cache
    def output(n):
        return output_of(far_apart(n, [])[0])

    def far_apart(n, at):
        """Draw n, and the same with those inputs changed, in every second draw to something loud."""
        rng = np.random.default_rng(n)
        x = rng.normal(size=(most, d)).astype(search.dtype)
        changed = x.copy()
        changed[at] = rng.normal(size=(len(at), d)) * (1e4 if n % 2 else 1)
        return x, changed

    def hinting(violation):
        def hinted(x, changed, at):
            try:
                return violation(x, changed, at)
            except Unlike:
                raise
            except Exception as error:
                hint = f"a table of fewer rows is asked with `search=Search(lengths=...)`, the longest more than {w}"
                return raised(error) + (f" (of {len(x)} tokens; {hint})" if len(x) > max(search.lengths) else "")

        return hinted

    forall(name, inputs(), hinting(too_many), search)
    # So far apart that no window reaches two of them, whose outputs therefore know which one it was.
    step = 2 * w + BEYOND
    every = (list(range(first, most, step)) for first in range(min(step, most)))
    cases = ({**dict(zip(("x", "changed"), far_apart(0, at), strict=True)), "at": at} for at in every)
    for_each(name, cases, hinting(too_many_or_too_few))


def _reached(t, w, at):
    """Which of t outputs have one of these inputs in their window."""
    return np.isin(np.arange(t), [i for j in at for i in range(j, j + w)])
