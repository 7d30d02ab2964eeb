"""Laws of samplers: any sample(key: int, logits: (n,)) -> a token."""

import operator
from collections.abc import Callable
from contextlib import suppress
from numbers import Number
from statistics import NormalDist

import numpy as np
from hypothesis import strategies as st

from minilm.laws.search import FALSE_ALARM, USUAL, Search, for_each, forall
from minilm.laws.structure import one_token

VOCABULARY = 6
MOVES = (0, -1000, 1000)  # added to all logits, which changes no probability


def softmax(logits: np.ndarray) -> np.ndarray:
    """What an untruncated sampler draws from."""
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def top_k(k: int) -> Callable:
    """Softmax over the k largest logits, or over all where there are fewer."""
    return lambda logits: _kept(logits, logits >= np.sort(logits)[-min(k, len(logits))])


def top_p(p: float) -> Callable:
    """Softmax over the fewest most likely tokens whose probabilities reach p: the one that crosses p is among them."""

    def distribution(logits):
        probabilities = softmax(logits)
        order = np.argsort(-probabilities)
        before = np.cumsum(probabilities[order]) - probabilities[order]
        kept = np.zeros(len(logits), bool)
        kept[order[before < p]] = True
        return _kept(logits, kept)

    return distribution


def min_p(p: float) -> Callable:
    """Softmax over the tokens at least p times as likely as the likeliest."""
    return lambda logits: _kept(logits, softmax(logits) >= p * softmax(logits).max())


def support(sample: Callable, *, among: Callable = softmax, n: int = VOCABULARY, search: Search = USUAL) -> None:
    r"""Only tokens that the truncation keeps are drawn. `among` is what to draw from, as `laws.top_p(0.9)`.

    $$ \mathrm{sample}(\text{key}, z) \in \{ j : p_j > 0 \} $$
    """

    @st.composite
    def inputs(draw):
        return {"key": draw(st.integers(0, 10_000)), "logits": draw(_logits(n, search))}

    def violation(key, logits):
        token, kept = _token(sample(key, logits)), np.flatnonzero(among(logits.astype(np.float64)))
        return None if token in kept else f"token {token} was drawn, where only {kept.tolist()} may be"

    forall("support", inputs(), violation, search)


def frequencies(sample: Callable, *, among: Callable = softmax, draws: int = 2000, search: Search = USUAL) -> None:
    r"""Tokens come as often as their probabilities say, by a chi-square test that fails by chance once in a million.

    $$ \sum_j \frac{(N_j - N p_j)^2}{N p_j} \le \chi^2_{m-1}(10^{-6}) $$

    A thousand added to all logits changes no probability, but overflows where the maximum is not subtracted first.
    """
    quiet = np.log([[0.4, 0.25, 0.2, 0.1, 0.05], [0.05, 0.1, 0.7, 0.1, 0.05], [0.26, 0.25, 0.18, 0.16, 0.15]])

    def violation(logits, keys):
        expected = draws * among(logits.astype(np.float64))
        tokens = [_token(sample(key, logits)) for key in keys]
        if strangers := [token for token in tokens if token not in range(len(logits))]:
            return f"{strangers[0]} was drawn, which is none of the tokens 0 to {len(logits) - 1}"
        counts = np.bincount(np.array(tokens, int), minlength=len(logits))
        kept = expected > 0
        chi_square = np.sum((counts - expected)[kept] ** 2 / expected[kept]) if not counts[~kept].any() else np.inf
        due = np.round(expected).astype(int).tolist()
        return (
            f"{draws} draws gave {counts.tolist()}, where {due} are due (chi-square {chi_square:.3g})"
            if chi_square > _chi_square_quantile(max(kept.sum() - 1, 1))
            else None
        )

    moved = (_moved(z, by, search) for z, by in zip(quiet, MOVES, strict=True))
    for_each("frequencies", ({"logits": logits, "keys": range(draws)} for logits in moved), violation)


def zero_temperature_is_argmax(sample_at: Callable, *, n: int = VOCABULARY, search: Search = USUAL) -> None:
    r"""As the temperature falls to 0, sampling becomes the choice of the best. `sample_at(key, logits, temperature)`.

    $$ \lim_{\tau \to 0} \mathrm{softmax}(z / \tau) = e_{\arg\max z} $$
    """

    @st.composite
    def inputs(draw):
        key, temperature = draw(st.integers(0, 10_000)), draw(st.sampled_from([1e-3, 1e-6]))
        return {"key": key, "logits": draw(_logits(n, search)), "temperature": temperature}

    def violation(key, logits, temperature):
        token = _token(sample_at(key, logits, temperature))
        return (
            None
            if token == logits.argmax()
            else f"token {token} was drawn, where {logits.argmax()} has the largest logit"
        )

    forall("zero temperature is argmax", inputs(), violation, search)


def same_key_same_token(sample: Callable, *, n: int = VOCABULARY, search: Search = USUAL) -> None:
    r"""Chance comes from the key alone: what was drawn once can be drawn again, whatever was drawn in between.

    $$ \mathrm{sample}(\text{key}, z) = \mathrm{sample}(\text{key}, z) $$
    """

    def violation(logits):
        first, second = ([_token(sample(key, logits)) for key in range(20)] for _ in range(2))
        differing = sum(a != b for a, b in zip(first, second, strict=True))
        return f"{differing} of 20 keys gave another token the second time" if differing else None

    forall("same key same token", st.fixed_dictionaries({"logits": _logits(n, search)}), violation, search)


def _token(sampled):
    """The token as a Python number, whole or not: rounding would hide one that is no token."""
    with suppress(TypeError):
        return operator.index(one_token(sampled))
    if hasattr(sampled, "item"):  # of a tensor, wherever it lies
        return sampled.item()
    if hasattr(sampled, "__int__") and not isinstance(sampled, Number):
        return int(sampled)
    return np.asarray(sampled).item()


def _moved(logits, by, search):
    """Logits with a number added, but only where a coarse dtype does not make neighbours equal."""
    moved = (logits + by).astype(search.dtype)
    return moved if len(set(moved.tolist())) == len(set(logits.tolist())) else logits.astype(search.dtype)


def _kept(logits, kept):
    return softmax(np.where(kept, logits, -np.inf))


def _logits(n, search):
    """Logits of which no two are equal or nearly so: what happens to ties is nobody's law. Half are loud."""
    orders, loudness = st.permutations(range(n)), st.sampled_from([1.0, 1000.0])  # e^1000 overflows
    return st.builds(lambda order, s: ((np.array(order) * 0.73 - 1) * s).astype(search.dtype), orders, loudness)


def _chi_square_quantile(freedom):
    """Wilson and Hilferty's cube of a normal: within a few percent at one in a million."""
    z = NormalDist().inv_cdf(1 - FALSE_ALARM)
    return freedom * (1 - 2 / (9 * freedom) + z * np.sqrt(2 / (9 * freedom))) ** 3
