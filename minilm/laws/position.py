"""Laws of what tells attention where tokens stand: rotations, relative biases, and ALiBi's slopes."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from minilm.laws.search import LAYER, USUAL, Search, apart, for_each, forall, unit_roundoff
from minilm.laws.structure import array, shaped

NEAR = 40  # positions that differ by at most this are asked of a bias, wherever they stand
PIECE = 2048  # positions that are turned in one call


def rotary_depends_on_distance(rotate: Callable, *, k: int = 4, furthest: int = 2047, search: Search = USUAL) -> None:
    r"""Rotated scores know how far apart two tokens stand and not where; each row turns by its own position.

    $$ \langle R_m q, R_n k \rangle = \langle R_{m+c} q, R_{n+c} k \rangle, \qquad |R_m q| = |q|, \qquad R_0 = 1 $$

    `rotate(x: (t, k), position: (t,)) -> (t, k)`, in whatever layout; k is even. `furthest` is the last position asked,
    for a table that ends before, and neighbours are asked all the way to it. Among small positions only, those counted
    in bfloat16, to which 256 and 257 are one, would not be noticed.

    Raises:
      ValueError: for a `furthest` below 2.
    """
    name = "rotary depends on distance"
    turned = _up_to(furthest, lambda x, position: shaped(rotate(x, position), x.shape, "what was rotated"))

    @st.composite
    def inputs(draw):
        far = draw(st.sampled_from([min(50, furthest // 2), furthest // 2]))
        position = np.array(draw(st.lists(st.integers(0, far), min_size=2, max_size=2)), np.int32)
        return {"x": draw(search.array(2, k)), "position": position, "c": draw(st.integers(1, far))}

    def violation(x, position, c):
        (a, b), (e, f) = turned(x, position), turned(x, position + c)
        alone = turned(x[1:], position[1:])
        exact = (np.abs(x).max() ** 2 * k * (position.max() + c),)  # the angle is itself rounded
        if phrase := apart(np.sqrt(_products(a, a)), np.sqrt(_products(x[0], x[0])), inputs=exact):
            return f"the length of a rotated row {phrase} from its length before"
        if phrase := apart(_products(a, b), _products(e, f), inputs=exact):
            hint = _of_a_table(position.max() + c, furthest)
            return f"the score of positions {position[0]} and {position[1]} {phrase} from that {c} further on{hint}"
        phrase = apart(b, alone[0], inputs=exact)
        return phrase and f"row 1, at position {position[1]}, {phrase} from the same row at the same position alone"

    def neighbours(x, first):
        start, y = turned(np.repeat(x, 2, 0), np.arange(2, dtype=np.int32)), turned(*_piece(x, first, furthest))
        scores, expected = _products(y[1:], y[:-1]), _products(start[1:], start[:-1])
        phrase = apart(scores, np.repeat(expected, len(scores)), inputs=(np.abs(x).max() ** 2 * k * furthest,))
        at = first + int(np.abs(scores - expected).argmax())
        hint = _of_a_table(at + 1, furthest)
        return phrase and f"the score of positions {at} and {at + 1} {phrase} from that of 0 and 1{hint}"

    def beginning(x, position):
        y = turned(x, position)
        C = min(LAYER, 1 / (8 * unit_roundoff(y.dtype)))  # LAYER units of bfloat16 are half of x
        rotates = bool(apart(y, x, C, inputs=(x,)))
        wrong = rotates == (position[0] == 0)
        return f"position {position[0]} {'rotates' if rotates else 'does not rotate'} its row" if wrong else None

    forall(name, inputs(), violation, search)
    x = np.random.default_rng(0).normal(size=(1, k)).astype(search.dtype)
    for_each(name, ({"x": x, "position": np.array([position], np.int32)} for position in (0, 1)), beginning)
    for_each(name, ({"x": x, "first": first} for first in _starts(furthest, PIECE - 1)), neighbours)


def bias_depends_on_distance(bias: Callable, *, furthest: int = 2047, search: Search = USUAL) -> None:
    r"""A relative bias knows positions, not indices: `bias(query_position: (t,), key_position: (s,)) -> (..., t, s)`.

    $$ b(m, n) = b(m + c, n + c) $$

    The law that a decoding step breaks when it takes its only query for the first token. Distances of up to `NEAR` are
    asked at every position up to `furthest`, for what counts in bfloat16 tells positions apart up to 256 alone.

    Raises:
      ValueError: for a `furthest` below 2.
    """
    name = "bias depends on distance"
    given = _up_to(furthest, bias)
    near = min(NEAR, furthest // 2)

    @st.composite
    def inputs(draw):
        t, s = draw(st.sampled_from(list(zip(search.lengths, search.lengths[1:] + search.lengths[:1], strict=True))))
        query, key = (np.array(draw(st.lists(st.integers(0, near), min_size=n, max_size=n)), np.int32) for n in (t, s))
        return {"query": query, "key": key, "c": draw(st.one_of(st.integers(1, near), st.integers(1, furthest - near)))}

    def violation(query, key, c):
        whole = given(query, key)
        # A slope times one position less a slope times the other is rounded at the size of the positions.
        times = max(1, (max(query.max(), key.max()) + c) / NEAR - 1)
        exact = (np.abs(whole.astype(np.float64)) * times,)
        if phrase := apart(given(query + c, key + c), whole, inputs=exact):
            hint = _of_a_table(max(query.max(), key.max()) + c, furthest)
            return f"the bias of positions moved by {c} {phrase} from the bias before{hint}"
        phrase = apart(given(query[-1:], key), whole[..., -1:, :])
        return phrase and f"the bias of the last query {phrase} from the same query's bias alone"

    all_near = np.arange(near + 1, dtype=np.int32)
    known = ({"query": all_near, "key": all_near, "c": c} for c in _starts(furthest, near) if c)
    forall(name, inputs(), violation, search, known)


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


def _up_to(furthest, function):
    """The function, with a sentence where its table ends before the last position that is asked."""
    if furthest < 2:
        raise ValueError(f"Two tokens and a distance were expected, so `furthest` is at least 2, but it is {furthest}.")

    def asked(*arguments):
        try:
            return array(function(*arguments))
        except IndexError as error:
            hinting = IndexError(f"{error}{_of_a_table(furthest, furthest)}")
            raise hinting.with_traceback(error.__traceback__) from error

    return asked


def _of_a_table(last, furthest):
    """What to do if the last position asked is not in a table, which JAX does not report: it repeats the last row."""
    hint = f" (a table that ends before position {furthest} is asked with its own `furthest=`)"
    return hint if last > min(NEAR, furthest - 1) else ""


def _products(a, b):
    """The products of rows with rows, rounded once, to the rows' own dtype."""
    return np.asarray((a.astype(np.float64) * b.astype(np.float64)).sum(-1)).astype(a.dtype)


def _starts(furthest, step):
    """Where stretches of `step` + 1 positions start that overlap by one, the last of which ends at `furthest`."""
    return sorted({*range(0, furthest - step, step), max(furthest - step, 0)})


def _piece(x, first, furthest):
    """The row x at each of `PIECE` positions, or as many as there are."""
    position = np.arange(first, min(first + PIECE, furthest + 1), dtype=np.int32)
    return np.repeat(x, len(position), 0), position
