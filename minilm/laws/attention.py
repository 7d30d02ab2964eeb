"""Laws of attention, any attend(q: (t, k), k: (s, k), v: (s, v), mask: (t, s)) -> (t, v), and of its heads."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from minilm.laws.search import BITWISE, DRAWS, USUAL, Search, apart, for_each, forall, off_slope
from minilm.laws.structure import array, paired, rows, shaped

WIDTH, VALUE_WIDTH = 2, 3
MOST_KEYS = 16  # of a long sequence, that many are asked one by one


def masking_equals_removing(attend: Callable, *, k: int = WIDTH, v: int = VALUE_WIDTH, search: Search = USUAL) -> None:
    r"""A masked key might as well not exist, whatever its score.

    $$ o(q_i, K, V, m_i) = o(q_i, K_{m_i}, V_{m_i}, \mathbf 1) $$
    """

    def violation(q, k, v, mask):
        o = rows(attend(q, k, v, mask), len(q))
        for i, kept in enumerate(mask):
            if kept.any():
                removed = attend(q[i : i + 1], k[kept], v[kept], np.ones((1, kept.sum()), bool))
                if phrase := apart(o[i : i + 1], removed, inputs=(v[kept],)):
                    return f"output {i} {phrase} from the output with its masked keys taken out"
        return None

    forall("masking equals removing", _attention_inputs(search, k, v), violation, search)


def everything_seen_counts(attend: Callable, *, k: int = WIDTH, v: int = VALUE_WIDTH, search: Search = USUAL) -> None:
    r"""A query's output depends on the query, and on each key and each value that it sees.

    $$ m_{ij} \implies \exists\, q, K, V : \; o_i \text{ depends on } q_i,\ K_j \text{ and } V_j $$

    The other laws hold for zeros, for the mean of what is seen, and for the first of it. Some input must show it, not
    every one: what keeps the best scores alone, or none below 0, ignores much of each. Asked where everything is seen;
    `masking_equals_removing` carries it to any other mask.
    """
    t, s = max(zip(search.lengths, search.lengths[1:] + search.lengths[:1], strict=True), key=lambda pair: pair[1])
    s = max(s, 2)

    def inputs(n, i, j):
        """The inputs of draw n; in every second one, query i scores highest with key j, if by products."""
        rng = np.random.default_rng(n)
        q, keys, values = (rng.normal(size=size).astype(search.dtype) for size in ((t, k), (s, k), (s, v)))
        keys[j] = 2 * q[i] if n % 2 else keys[j]
        return {"q": q, "k": keys, "v": values}

    def violation(part, i, j, **case):
        for n in range(DRAWS):
            case = inputs(n, i, j) if n else case
            changed = {**case, part: case[part].copy()}
            row = changed[part][i if part == "q" else j]
            row[:] = np.random.default_rng(DRAWS + n).normal(size=row.shape)
            before, after = (rows(attend(*qkv.values(), np.ones((t, s), bool)), t)[i] for qkv in (case, changed))
            if (before != after).any():
                return None
        which = f"query {i}" if part == "q" else f"{'key' if part == 'k' else 'value'} {j}"
        return f"output {i} does not depend on {which}, though it sees all {s} keys"

    pairs = [("q", i, 0) for i in _spread(t)] + [(part, j % t, j) for part in "kv" for j in _spread(s)]
    cases = ({"part": part, "i": i, "j": j, **inputs(0, i, j)} for part, i, j in pairs)
    for_each("everything seen counts", cases, violation)


def empty_rows_give_zero(attend: Callable, *, k: int = WIDTH, v: int = VALUE_WIDTH, search: Search = USUAL) -> None:
    r"""A query that may see nothing gets nothing: exactly 0, neither NaN nor the mean of all values.

    $$ m_i = \mathbf 0 \implies o_i = 0 $$
    """

    def violation(q, k, v, mask):
        empty = rows(attend(q, k, v, mask), len(q))[~mask.any(1)]
        if not np.isfinite(empty.astype(np.float64)).all():
            return "the output of a fully masked row is not finite, where 0 was expected"
        return (
            f"the output of a fully masked row is {empty.ravel()[np.abs(empty).argmax()]:.3g}, not 0"
            if empty.any()
            else None
        )

    forall("empty rows give zero", _attention_inputs(search, k, v, empty=True), violation, search)


def empty_rows_have_finite_gradients(
    grad: Callable, *, k: int = WIDTH, v: int = VALUE_WIDTH, search: Search = USUAL
) -> None:
    r"""A fully masked row spoils no gradient. `grad(q, k, v, mask, d_o) -> (d_q, d_k, d_v)` is the attention's.

    $$ m_i = \mathbf 0 \implies \partial o_i / \partial (q, K, V) = 0 $$

    A NaN that the forward pass hides behind a `where` comes back here as 0·NaN, and poisons every weight. Zeros
    everywhere are no answer to that: where a row sees keys, some value has a gradient. Whether it is the right one is
    for `attention_gradient_equals_differences` to say.
    """
    name = "empty rows have finite gradients"

    def gradients(q, k, v, mask):
        given = grad(q, k, v, mask, np.ones((len(q), v.shape[1]), v.dtype))
        pairs = zip("qkv", paired(given, (q, k, v), "the gradient", "(d_q, d_k, d_v)"), strict=True)
        return [shaped(gradient, x.shape, f"the gradient of {of}") for of, (gradient, x) in pairs]

    def violation(q, k, v, mask):
        d_q, *others = gradients(q, k, v, mask)
        for of, gradient in zip("qkv", (d_q, *others), strict=True):
            if not np.isfinite(gradient.astype(np.float64)).all():
                return f"the gradient of {of} is not finite, because row {np.argmin(mask.any(1))} is fully masked"
        phrase = apart(d_q[~mask.any(1)], np.zeros_like(q[~mask.any(1)]), BITWISE)
        return phrase and f"the gradient of a query that sees nothing {phrase} (it must be 0)"

    forall(name, _attention_inputs(search, k, v, empty=True), violation, search)
    rng, t, s = np.random.default_rng(0), max(search.lengths), min(search.lengths)
    q, values = (rng.normal(size=size).astype(search.dtype) for size in ((t, k), (s, v)))
    keys = q[:s]  # so that row 0 has a score above 0, of which no kernel makes nothing

    def nothing(q, k, v, mask):
        d_v = gradients(q, k, v, mask)[2]
        return None if d_v.any() else "the gradient of v is 0 everywhere, though row 0 sees keys"

    case = {"q": q, "k": keys, "v": values, "mask": np.arange(t)[:, None] < np.ones(s)}
    for_each(name, [case], nothing)


def attention_gradient_equals_differences(
    attend: Callable, grad: Callable, *, k: int = WIDTH, v: int = VALUE_WIDTH, search: Search = USUAL
) -> None:
    r"""The gradient is the derivative: `grad(q, k, v, mask, d_o) -> (d_q, d_k, d_v)` agrees with central differences.

    $$ \langle d_q, a \rangle + \langle d_K, b \rangle + \langle d_V, c \rangle = \frac{\langle d_o,
       o(q + h a, K + h b, V + h c, m) - o(q - h a, K - h b, V - h c, m) \rangle}{2 h}, \qquad h = u^{1/3} $$
    """

    @st.composite
    def inputs(draw):
        case = draw(_attention_inputs(search, k, v, loud=False))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        sizes = {"d_o": (len(case["q"]), v), **{along: case[of].shape for along, of in zip("abc", "qkv", strict=True)}}
        return case | {name: rng.normal(size=size).astype(search.dtype) for name, size in sizes.items()}

    def violation(q, k, v, mask, d_o, a, b, c):
        return off_slope(lambda *qkv: attend(*qkv, mask), (q, k, v), d_o, grad(q, k, v, mask, d_o), (a, b, c))

    forall("attention gradient equals differences", inputs(), violation, search)


def same_attention(
    attend: Callable, other: Callable, *, k: int = WIDTH, v: int = VALUE_WIDTH, search: Search = USUAL
) -> None:
    r"""Two ways to compute one attention agree for every mask: blockwise and dense, fused and plain, yours and ours.

    $$ o(q, K, V, m) = o'(q, K, V, m) $$
    """

    def violation(q, k, v, mask):
        phrase = apart(array(attend(q, k, v, mask)), array(other(q, k, v, mask)), inputs=(v,))
        return phrase and f"the first function's output {phrase} from the second's"

    forall("same attention", _attention_inputs(search, k, v), violation, search)


def grouped_equals_repeated(
    attend: Callable, *, g: int = 2, r: int = 3, k: int = WIDTH, search: Search = USUAL
) -> None:
    r"""Query heads that share a key/value head get what they would get from copies of it, *neighbours* sharing.

    $$ o(Q, K, V)_h = o_h(Q_h, K_{\lfloor h / r \rfloor}, V_{\lfloor h / r \rfloor}) $$

    `attend(q: (g·r, t, k), k: (g or g·r, s, k), v) -> (g·r, t, v)`, without a mask. Another key/value head moves the r
    query heads that share it, and no other; so do another query head its own output and another value head. (Each head
    may be a function of its own, with its own slope or sink. Heads that mix, as talking heads do, each depend on all:
    they are not this law's subject.)
    """

    @st.composite
    def inputs(draw):
        t, s = draw(_lengths(search))
        return {
            "q": draw(search.array(g * r, t, k)),
            "k": draw(search.array(g, s, k)),
            "v": draw(search.array(g, s, k)),
        }

    def violation(q, k, v):
        grouped, repeated = array(attend(q, k, v)), array(attend(q, np.repeat(k, r, 0), np.repeat(v, r, 0)))
        phrase = apart(grouped, repeated, inputs=(v,))
        return (
            phrase and f"the output of {g * r} query heads on {g} key/value heads {phrase} from that on repeated heads"
        )

    forall("grouped equals repeated", inputs(), violation, search)
    for_each("grouped equals repeated", *_one_head_at_a_time(attend, g, r, k, search))


def _lengths(search):
    """Pairs of query and key counts, in which a mask transposed does not fit; and a square, in which it does."""
    square = min((t for t in search.lengths if t > 1), default=1)
    return st.sampled_from([*zip(search.lengths, search.lengths[1:] + search.lengths[:1], strict=True), (square,) * 2])


def _spread(n):
    """All positions of a short sequence, and of a long one some that lie far apart, its first and last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, MOST_KEYS)).astype(int)).tolist()


def _one_head_at_a_time(attend, g, r, k, search):
    """Cases in which one head of q, k or v is another, and the law of each: who shares it moves, and nobody else."""
    length = max(*search.lengths, 2)

    def inputs(n):
        rng = np.random.default_rng(n)
        return {part: rng.normal(size=(size, length, k)).astype(search.dtype) for part, size in sizes}

    def violation(part, head, **case):
        readers = {head} if part == "q" else set(range(head * r, head * r + r))
        silent = set(readers)
        for n in range(DRAWS):
            case = inputs(n) if n else case
            changed = {**case, part: case[part].copy()}
            changed[part][head] = np.random.default_rng(DRAWS + n).normal(size=(length, k))
            pairs = zip(array(attend(*case.values())), array(attend(*changed.values())), strict=True)
            moved = {h for h, (before, after) in enumerate(pairs) if (before != after).any()}
            if strangers := moved - readers:
                sentence = f"output head {min(strangers)} changes with {part}[{head}], which it does not share"
                return f"{sentence} (heads that mix, as talking heads do, are not its subject)"
            silent -= moved
            if not silent:
                return None
        return f"output head {min(silent)} does not change with {part}[{head}], which is its own"

    sizes = (("q", g * r), ("k", g), ("v", g))
    cases = ({"part": part, "head": head, **inputs(0)} for part, size in sizes for head in range(size))
    return cases, violation


@st.composite
def _attention_inputs(draw, search, k, v, empty=False, loud=True):
    t, s = draw(_lengths(search))
    mask = np.array(draw(st.lists(st.booleans(), min_size=t * s, max_size=t * s)), bool).reshape(t, s)
    if empty:
        mask[draw(st.integers(0, t - 1))] = False
    keys = draw((search.loud if loud else search.array)(s, k))
    return {"q": draw(search.array(t, k)), "k": keys, "v": draw(search.array(s, v)), "mask": mask}
