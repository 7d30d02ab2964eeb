"""Laws of attention, any attend(q: (t, k), k: (s, k), v: (s, v), mask: (t, s)) -> (t, v), and of its parts."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from minilm.laws.search import BITWISE, USUAL, LawBroken, Search, apart, array, forall, leaves, off_slope

WIDTH, VALUE_WIDTH = 2, 3


def masking_equals_removing(attend: Callable, *, k: int = WIDTH, v: int = VALUE_WIDTH, search: Search = USUAL) -> None:
    r"""A masked key might as well not exist, whatever its score.

    $$ o(q_i, K, V, m_i) = o(q_i, K_{m_i}, V_{m_i}, \mathbf 1) $$
    """

    def violation(q, k, v, mask):
        o = array(attend(q, k, v, mask))
        for i, kept in enumerate(mask):
            if kept.any():
                removed = attend(q[i : i + 1], k[kept], v[kept], np.ones((1, kept.sum()), bool))
                if phrase := apart(o[i : i + 1], removed, inputs=(v[kept],)):
                    return f"output {i} {phrase} from the output with its masked keys taken out"
        return None

    forall("masking equals removing", _attention_inputs(search, k, v), violation, search)


def empty_rows_give_zero(attend: Callable, *, k: int = WIDTH, v: int = VALUE_WIDTH, search: Search = USUAL) -> None:
    r"""A query that may see nothing gets nothing: exactly 0, neither NaN nor the mean of all values.

    $$ m_i = \mathbf 0 \implies o_i = 0 $$
    """

    def violation(q, k, v, mask):
        empty = array(attend(q, k, v, mask))[~mask.any(1)]
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

    def violation(q, k, v, mask):
        gradients = leaves(grad(q, k, v, mask, np.ones((len(q), v.shape[1]), v.dtype)))
        for name, gradient in zip("qkv", gradients, strict=True):
            if not np.isfinite(gradient.astype(np.float64)).all():
                return f"the gradient of {name} is not finite, because row {np.argmin(mask.any(1))} is fully masked"
        phrase = apart(gradients[0][~mask.any(1)], np.zeros_like(q[~mask.any(1)]), BITWISE)
        return phrase and f"the gradient of a query that sees nothing {phrase} (it must be 0)"

    forall(name, _attention_inputs(search, k, v, empty=True), violation, search)
    rng, t, s = np.random.default_rng(0), max(search.lengths), min(search.lengths)
    q, values = (rng.normal(size=size).astype(search.dtype) for size in ((t, k), (s, v)))
    keys = q[:s]  # so that row 0 has a score above 0, of which no kernel makes nothing
    mask = np.arange(t)[:, None] < np.ones(s)
    if not leaves(grad(q, keys, values, mask, np.ones((t, v), values.dtype)))[2].any():
        sentence = "the gradient of v is 0 everywhere, though row 0 sees keys"
        raise LawBroken(name, sentence, {"q": q, "k": keys, "v": values, "mask": mask})


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

    $$ o(Q, K, V)_h = o(Q_h, K_{\lfloor h / r \rfloor}, V_{\lfloor h / r \rfloor}) $$

    `attend(q: (g·r, t, k), k: (g or g·r, s, k), v) -> (g·r, t, v)`, without a mask.
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


def rotary_depends_on_distance(rotate: Callable, *, k: int = 4, furthest: int = 2047, search: Search = USUAL) -> None:
    r"""Rotated scores know how far apart two tokens stand and not where; each row turns by its own position.

    $$ \langle R_m q, R_n k \rangle = \langle R_{m+c} q, R_{n+c} k \rangle, \qquad |R_m q| = |q|, \qquad R_0 = 1 $$

    `rotate(x: (t, k), position: (t,)) -> (t, k)`, in whatever layout; k is even. `furthest` is the last position asked,
    for a table that ends before. Among small positions only, those counted in bfloat16, to which 256 and 257 are one,
    would not be noticed.

    Raises:
      ValueError: for a `furthest` below 2.
    """
    name = "rotary depends on distance"
    if furthest < 2:
        raise ValueError(f"Two tokens and a distance were expected, so `furthest` is at least 2, but it is {furthest}.")

    def turned(x, position):
        try:
            return array(rotate(x, position))
        except IndexError as error:
            sentence = f"{error} (a table that ends before position {furthest} is asked with its own `furthest=`)"
            raise IndexError(sentence) from error

    @st.composite
    def inputs(draw):
        far = draw(st.sampled_from([min(50, furthest // 2), furthest // 2]))
        position = np.array(draw(st.lists(st.integers(0, far), min_size=2, max_size=2)), np.int32)
        return {"x": draw(search.array(2, k)), "position": position, "c": draw(st.integers(1, far))}

    def violation(x, position, c):
        (a, b), (e, f) = turned(x, position), turned(x, position + c)
        alone = turned(x[1:], position[1:])
        exact = (np.abs(x).max() ** 2 * k * (position.max() + c),)  # the angle is itself rounded
        if phrase := apart(np.linalg.norm(a), np.linalg.norm(x[0]), inputs=exact):
            return f"the length of a rotated row {phrase} from its length before"
        if phrase := apart(np.asarray(a @ b), np.asarray(e @ f), inputs=exact):
            return f"the score of positions {position[0]} and {position[1]} {phrase} from that {c} further on"
        phrase = apart(b, alone[0], inputs=exact)
        return phrase and f"row 1, at position {position[1]}, {phrase} from the same row at the same position alone"

    forall(name, inputs(), violation, search)
    x = np.random.default_rng(0).normal(size=(1, k)).astype(search.dtype)
    for position in (0, 1):
        at = np.array([position], np.int32)
        if bool(apart(turned(x, at), x, inputs=(x,))) == (position == 0):
            raise LawBroken(
                name, f"position {position} {'rotates' if position == 0 else 'does not rotate'} its row", {"x": x}
            )


def bias_depends_on_distance(bias: Callable, *, search: Search = USUAL) -> None:
    r"""A relative bias knows positions, not indices: `bias(query_position: (t,), key_position: (s,)) -> (..., t, s)`.

    $$ b(m, n) = b(m + c, n + c) $$

    The law that a decoding step breaks when it takes its only query for the first token.
    """

    @st.composite
    def inputs(draw):
        t, s = draw(_lengths(search))
        query, key = (np.array(draw(st.lists(st.integers(0, 40), min_size=n, max_size=n)), np.int32) for n in (t, s))
        return {"query": query, "key": key, "c": draw(st.integers(1, 40))}

    def violation(query, key, c):
        whole = array(bias(query, key))
        if phrase := apart(bias(query + c, key + c), whole):
            return f"the bias of positions moved by {c} {phrase} from the bias before"
        phrase = apart(bias(query[-1:], key), whole[..., -1:, :])
        return phrase and f"the bias of the last query {phrase} from the same query's bias alone"

    forall("bias depends on distance", inputs(), violation, search)


def alibi_slopes_as_published(slopes: Callable, *, search: Search = USUAL) -> None:
    r"""ALiBi's slopes for any number of heads, as its authors' code and all published weights have them: `slopes(n)`.

    $$ m(n)_i = 2^{-8 i / n} \;\text{ for } n = 2^j $$
    $$ m(n) = [m(p),\; m(2p)_{1, 3, 5, \dots}]_{\le n} \;\text{ else, with } p = 2^{\lfloor \log_2 n \rfloor} $$
    """

    def violation(n):
        p = 2 ** int(np.log2(n))
        published = np.concatenate([2.0 ** (-8 * np.arange(1, p + 1) / p), 2.0 ** (-4 * np.arange(1, 2 * p, 2) / p)])[
            :n
        ]
        phrase = apart(slopes(n), published.astype(array(slopes(n)).dtype))
        return phrase and f"the slopes for {n} heads: the array {phrase} from {np.round(published, 4).tolist()}"

    forall("alibi slopes as published", st.fixed_dictionaries({"n": st.integers(1, 20)}), violation, search)


def _lengths(search):
    """Pairs of query and key counts that are never equal: a transposed mask cannot pass."""
    return st.sampled_from(list(zip(search.lengths, search.lengths[1:] + search.lengths[:1], strict=True)))


@st.composite
def _attention_inputs(draw, search, k, v, empty=False, loud=True):
    t, s = draw(_lengths(search))
    mask = np.array(draw(st.lists(st.booleans(), min_size=t * s, max_size=t * s)), bool).reshape(t, s)
    if empty:
        mask[draw(st.integers(0, t - 1))] = False
    keys = draw((search.loud if loud else search.array)(s, k))
    return {"q": draw(search.array(t, k)), "k": keys, "v": draw(search.array(s, v)), "mask": mask}
