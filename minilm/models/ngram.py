r"""Language models that count: the probability of a token is how often it followed the few tokens before it.

    P(w | h) = a(h, w) + γ(h) · P(w | h')            h' is h without its first token; at the end stands 1 / V

What was never seen after h must be left something: a share is taken from every count, and γ(h), the sum of what was
taken, is handed to the shorter context. The models here differ in what they take, and in what they count. All in
NumPy: counting a million tokens is sorting them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minilm.metrics import likelihood


class Level(NamedTuple):
    """What is known of the n-grams of one order. A context is an n-gram of the order below; both are numbered from 0.

    keys:  sorted, context · vocabulary size + token, one for each n-gram.
    share: a(h, w), by n-gram; 0 for one that was not seen.
    rest:  γ(h), by context; 1 for one that was not seen.
    """

    keys: np.ndarray
    share: np.ndarray
    rest: np.ndarray


class NGram(NamedTuple):
    """One level for each order, the unigrams' first."""

    levels: tuple[Level, ...]
    vocab_size: int


# ── what is taken, and what is counted ───────────────────────────────────────────────────────────────────────────────


def add_k(tokens: np.ndarray | bytes, order: int, vocab_size: int, k: float = 1.0) -> NGram:
    r"""Every n-gram is taken to have occurred k times more than it did; k = 1 is Laplace's rule of succession.

    $$ P(w \mid h) = \frac{c(h w) + k}{c(h) + k V} $$

    Shorter contexts are not asked: one that was never seen leaves a guess among all V tokens.

    Args:
      tokens: `(t,)` token ids, or the bytes of a text.
      order: n, the length of an n-gram; 1 looks at no context.
      vocab_size: V.
      k: what is added to each count.

    >>> distribution(add_k(np.array([0, 1, 0, 1, 0, 2]), 2, 3), np.array([0])).round(3).tolist()
    [0.167, 0.5, 0.333]
    """
    if not k > 0:
        raise ValueError(f"k must be greater than 0, or what was never seen is impossible; it is {k}.")
    *lower, (table, counts) = _with_occurrences(_count(tokens, order, vocab_size))
    total = table.sum_by_context(counts)
    levels = [Level(t.keys, np.zeros(len(t.keys)), np.ones(t.n_contexts)) for t, _ in lower]
    share = counts / (total + k * vocab_size)[table.context]
    return NGram((*levels, Level(table.keys, share, k * vocab_size / (total + k * vocab_size))), vocab_size)


def backoff(tokens: np.ndarray | bytes, order: int, vocab_size: int) -> NGram:
    r"""Katz's backoff with an absolute discount: the shorter context speaks only of what the longer one never saw.

    $$ P(w \mid h) = \begin{cases} (c(h w) - D) / c(h) & c(h w) > 0 \\ \alpha(h)\, P(w \mid h') & \text{else}
       \end{cases} \qquad \alpha(h) = \frac{D\, N(h \cdot) / c(h)}{1 - \sum_{w : c(h w) > 0} P(w \mid h')} $$

    with $N(h \cdot)$ the number of tokens seen after h, and D as in `kneser_ney`, from occurrences. Args as there.

    Papers: Katz (1987); Ney, Essen and Kneser (1994).

    >>> distribution(backoff(np.array([0, 1, 0, 1, 0, 2]), 2, 3), np.array([0])).round(3).tolist()
    [0.167, 0.583, 0.25]
    """
    levels, of_shorter = [], np.array([1 / vocab_size])
    for table, c in _with_occurrences(_count(tokens, order, vocab_size)):
        D, total, types = _discount(c), table.sum_by_context(c), table.sum_by_context(c > 0)
        below = of_shorter[table.shorter]
        unseen = 1 - table.sum_by_context(below)
        complete = unseen < 1e-12  # every token was seen after this context, and nothing need be taken
        p = (c - np.where(complete, 0, D)[table.context]) / total[table.context]
        alpha = np.where(complete, 0, _or(D * types / np.where(complete, 1, unseen), total, 1))
        # As a sum of two, which is what the levels hold: what was seen takes back what the shorter context would add.
        levels.append(Level(table.keys, p - alpha[table.context] * below, alpha))
        of_shorter = p
    return NGram(tuple(levels), vocab_size)


def kneser_ney(
    tokens: np.ndarray | bytes, order: int, vocab_size: int, discounts: Sequence[float] | None = None
) -> NGram:
    r"""Interpolated Kneser-Ney: shorter contexts count in how much company a token is found, not how often.

    $$ P_k(w \mid h) = \frac{\max(c_k(h w) - D_k, 0) + D_k\, N_k(h \cdot)\, P_{k-1}(w \mid h')}{c_k(h)},
       \qquad P_0(w) = \frac{1}{V} $$

    The highest order counts occurrences. The lower ones count in how many different contexts an n-gram occurs,
    $c_k(g) = |\{v : c(v g) > 0\}|$: "Francisco" is frequent but follows little else than "San", so it is a poor guess
    elsewhere. The discount is $D_k = (n_1 + \frac12) / (n_1 + 2 n_2 + 1)$, with $n_c$ the number of n-grams counted c
    times; Kneser and Ney's has no ½ and 1, which keep it from being zero, and so an unseen token from being impossible,
    where nothing was counted once.

    Args:
      tokens: `(t,)` token ids, or the bytes of a text.
      order: n, the length of an n-gram; 1 looks at no context.
      vocab_size: V.
      discounts: D of each order, the unigrams' first; estimated unless given.

    Papers: Kneser and Ney (1995), Chen and Goodman (1999).

    >>> distribution(kneser_ney(np.array([0, 1, 0, 1, 0, 2]), 2, 3), np.array([0])).round(3).tolist()
    [0.056, 0.639, 0.306]
    """
    if discounts is not None and not (len(discounts) >= order and all(0 <= D <= 1 for D in discounts)):
        raise ValueError(f"A discount between 0 and 1 is needed for each of {order} orders, but {discounts} came.")
    levels = []
    for k, (table, c) in enumerate(_with_company(_count(tokens, order, vocab_size))):
        D = _discount(c) if discounts is None else discounts[k]
        total, types = table.sum_by_context(c), table.sum_by_context(c > 0)
        share = _or(np.maximum(c - D, 0), total[table.context], 0)
        levels.append(Level(table.keys, share, _or(D * types, total, 1)))
    return NGram(tuple(levels), vocab_size)


def modified_kneser_ney(tokens: np.ndarray | bytes, order: int, vocab_size: int) -> NGram:
    r"""Kneser-Ney with three discounts: what was counted once or twice is trusted less than its discount says.

    $$ P_k(w \mid h) = \frac{c_k(h w) - D(c_k(h w)) + \sum_j D_j N_j(h \cdot)\, P_{k-1}(w \mid h')}{c_k(h)} $$
    $$ D_j = j - (j + 1)\, Y\, \frac{n_{j+1}}{n_j}, \qquad Y = \frac{n_1}{n_1 + 2 n_2}, \qquad j = 1, 2, 3 $$

    with $N_j(h \cdot)$ the number of tokens counted j times after h, where 3 stands for 3 or more. Where a text is too
    small to hold n-grams of every count up to four, there is one discount, that of `kneser_ney`. Args as there.

    Paper: Chen and Goodman (1999), section 3.

    >>> distribution(modified_kneser_ney(np.array([0, 1, 0, 1, 0, 2]), 2, 3), np.array([0])).round(3).tolist()
    [0.056, 0.639, 0.306]
    """
    levels = []
    for table, c in _with_company(_count(tokens, order, vocab_size)):
        taken = _discounts(c)[np.minimum(c, 3)]
        total, rest = table.sum_by_context(c), table.sum_by_context(taken)
        levels.append(Level(table.keys, _or(c - taken, total[table.context], 0), _or(rest, total, 1)))
    return NGram(tuple(levels), vocab_size)


# ── what a model says ────────────────────────────────────────────────────────────────────────────────────────────────


def log_probability(model: NGram, tokens: np.ndarray | bytes) -> np.ndarray:
    """log P of each token given those before it in the array, `(t,)` in nats; the first ones have shorter contexts.

    >>> model = kneser_ney(np.array([0, 1, 0, 1, 0, 2]), order=2, vocab_size=3)
    >>> np.exp(log_probability(model, np.array([0, 1]))).round(3).tolist()
    [0.333, 0.639]
    """
    tokens = _checked(tokens, model.vocab_size)
    p, context = np.full(len(tokens), 1 / model.vocab_size), np.zeros(len(tokens), np.int64)
    for level in model.levels:
        p, gram = _interpolate(level, context, tokens, p, model.vocab_size)
        context = np.concatenate([[-1], gram[:-1]])
    return np.log(p)


def perplexity(model: NGram, tokens: np.ndarray | bytes) -> float:
    r"""Among how many equally likely tokens the model is left to choose, on average.

    $$ \exp\left(-\frac1t \sum_i \log P(w_i \mid h_i)\right) $$

    >>> round(perplexity(add_k(np.array([0, 1, 2]), order=1, vocab_size=3), np.array([2, 0, 1, 1])), 6)
    3.0
    """
    return likelihood.perplexity(-log_probability(model, tokens).sum(), len(tokens))


def distribution(model: NGram, context: np.ndarray) -> np.ndarray:
    """P of every token after a context, `(V,)`; only the context's last n − 1 tokens count."""
    context, everything = _checked(context, model.vocab_size), np.arange(model.vocab_size)
    p = np.full(model.vocab_size, 1 / model.vocab_size)
    for k, level in enumerate(model.levels[: len(context) + 1]):
        number = 0
        for shorter, token in zip(model.levels, context[len(context) - k :], strict=False):
            number = int(_find(shorter.keys, np.array([number]), np.array([token]), model.vocab_size)[0])
        p, _ = _interpolate(level, np.full(model.vocab_size, number), everything, p, model.vocab_size)
    return p


def generate(model: NGram, prompt: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Continue a prompt by n tokens, each drawn from its distribution: `(n,)`.

    >>> model = kneser_ney(np.tile([0, 1, 2], 50), 2, 3, discounts=(0.0, 0.0))
    >>> generate(model, np.array([2]), 5, np.random.default_rng(0)).tolist()
    [0, 1, 2, 0, 1]
    """
    text = np.asarray(prompt, int)
    for _ in range(n):
        p = distribution(model, text)
        text = np.append(text, rng.choice(model.vocab_size, p=p / p.sum()))
    return text[len(text) - n :]


def _interpolate(level, context, tokens, p, vocab_size):
    """P of this order from P of the one below, and the number of each n-gram, −1 where it was never seen."""
    gram = _find(level.keys, context, tokens, vocab_size)
    a = np.where(gram >= 0, level.share[gram], 0)
    gamma = np.where(context >= 0, level.rest[context], 1)
    return a + gamma * p, gram


def _find(keys, context, tokens, vocab_size):
    wanted = np.where(context >= 0, context * vocab_size + tokens, -1)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


# ── counting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Table(NamedTuple):
    """The n-grams of one order that occur in a text.

    keys:        as in Level.
    context:     the number of each n-gram's context,
    shorter:     and that of its last n − 1 tokens among the n-grams of the order below.
    occurrences: how often each occurs,
    company:     and after how many different tokens; None in the highest order, which has no longer ones to tell.
    n_contexts:  how many n-grams there are in the order below.
    """

    keys: np.ndarray
    context: np.ndarray
    shorter: np.ndarray
    occurrences: np.ndarray
    company: np.ndarray | None
    n_contexts: int

    def sum_by_context(self, values):
        return np.bincount(self.context, values, minlength=self.n_contexts)


def _count(tokens, order, vocab_size) -> list[_Table]:
    tokens = _checked(tokens, vocab_size)
    if order < 1 or len(tokens) < order:
        raise ValueError(
            f"An n-gram model needs order ≥ 1 and as many tokens or more, but has {order} and {len(tokens)}."
        )
    tables, context, below = [], np.zeros(len(tokens), np.int64), np.zeros(len(tokens), np.int64)
    for k in range(1, order + 1):
        # The n-gram that ends at a token is its context, which ended one token before, and the token.
        keys, first, gram, occurrences = np.unique(
            context * vocab_size + tokens[k - 1 :], return_index=True, return_inverse=True, return_counts=True
        )
        shorter, n_contexts = below[k > 1 :][first], len(tables[-1].keys) if tables else 1
        if tables:  # each n-gram is one token before which the shorter one occurs
            tables[-1] = tables[-1]._replace(company=np.bincount(shorter, minlength=n_contexts))
        tables.append(_Table(keys, keys // vocab_size, shorter, occurrences, None, n_contexts))
        context, below = gram[:-1], gram
    return tables


def _with_occurrences(tables):
    return [(table, table.occurrences) for table in tables]


def _with_company(tables):
    return [(table, table.occurrences if table.company is None else table.company) for table in tables]


def _discount(c):
    once, twice = np.sum(c == 1), np.sum(c == 2)
    return float((once + 0.5) / (once + 2 * twice + 1))


def _discounts(c):
    """What is taken from a count of 0, 1, 2, and 3 or more."""
    n = np.bincount(np.minimum(c, 5), minlength=6)[1:5].astype(float)
    if not n.all():
        return np.minimum(_discount(c), np.arange(4))
    Y = n[0] / (n[0] + 2 * n[1])
    return np.clip([0, *(j - (j + 1) * Y * n[j] / n[j - 1] for j in (1, 2, 3))], 0, np.arange(4))


def _or(a, b, otherwise):
    """a / b, and where b is 0 something else."""
    return np.where(b == 0, otherwise, a / np.where(b == 0, 1, b))


def _checked(tokens, vocab_size):
    tokens = np.asarray(np.frombuffer(tokens, np.uint8) if isinstance(tokens, bytes) else tokens).astype(np.int64)
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < vocab_size):
        raise ValueError(
            f"Token ids must lie between 0 and {vocab_size - 1}, but run from {tokens.min()} to {tokens.max()}; "
            "is vocab_size that of the tokenizer?"
        )
    return tokens
