r"""Language models that count: the probability of a token is how often it followed the few tokens before it.

    P(w | h) = max(c(h w) − D, 0) / c(h)  +  D N(h ·) / c(h) · P(w | h')        h' is h without its first token

What is taken from every count, D, is handed to the shorter context. All in NumPy: counting
a million tokens is sorting them.
"""

import lzma
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minilm.data.token_file import TokenFile
from minilm.data.tokenizers import Tokenizer

COUNTED = 1 << 24  # tokens of either text that a baseline looks at: counting them takes some 2 GB
ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3, "4-gram": 4, "5-gram": 5}


class Level(NamedTuple):
    """What is known of the n-grams of one order. A context is an n-gram of the order below; both are numbered from 0.

    keys:     sorted, context · vocabulary size + token, one for each n-gram.
    counts:   c(h w), by n-gram.
    totals:   c(h), the sum of counts over tokens, by context.
    types:    N(h ·), the number of tokens with a count, by context.
    discount: D.
    """

    keys: np.ndarray
    counts: np.ndarray
    totals: np.ndarray
    types: np.ndarray
    discount: float


class NGram(NamedTuple):
    """An interpolated Kneser-Ney model: one level for each order, the unigrams' first."""

    levels: tuple[Level, ...]
    vocab_size: int


def fit(tokens: np.ndarray, order: int, vocab_size: int) -> NGram:
    r"""Count the n-grams of a text, for interpolated Kneser-Ney smoothing.

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

    Papers: Kneser and Ney (1995), Chen and Goodman (1999).

    >>> model = fit(np.array([0, 1, 0, 1, 0, 2]), order=2, vocab_size=3)
    >>> distribution(model, np.array([0])).round(3).tolist()
    [0.056, 0.639, 0.306]
    """
    tokens = _checked(tokens, vocab_size)
    if order < 1 or len(tokens) < order:
        raise ValueError(
            f"An n-gram model needs order ≥ 1 and as many tokens or more, but has {order} and {len(tokens)}."
        )
    levels, context, tables = [], np.zeros(len(tokens), np.int64), []
    for k in range(1, order + 1):
        # The n-gram that ends at a token is its context, which ended one token before, and the token.
        keys, first, gram, counts = np.unique(
            context * vocab_size + tokens[k - 1 :], return_index=True, return_inverse=True, return_counts=True
        )
        tables.append((keys, first, gram, counts))
        context = gram[:-1]
    for k, (keys, _, gram, counts) in enumerate(tables, start=1):
        if k < order:
            # Each longer n-gram stands for one context in which its last k tokens occur.
            longer = tables[k][1]
            counts = np.bincount(gram[1:][longer], minlength=len(keys))
        contexts, n_contexts = keys // vocab_size, len(tables[k - 2][0]) if k > 1 else 1
        totals = np.bincount(contexts, counts, minlength=n_contexts)
        types = np.bincount(contexts, counts > 0, minlength=n_contexts)
        once, twice = np.sum(counts == 1), np.sum(counts == 2)
        levels.append(Level(keys, counts, totals, types, float((once + 0.5) / (once + 2 * twice + 1))))
    return NGram(tuple(levels), vocab_size)


def log_probability(model: NGram, tokens: np.ndarray) -> np.ndarray:
    """log P of each token given those before it in the array, `(t,)` in nats; the first ones have shorter contexts.

    >>> model = fit(np.array([0, 1, 0, 1, 0, 2]), order=2, vocab_size=3)
    >>> np.exp(log_probability(model, np.array([0, 1]))).round(3).tolist()
    [0.333, 0.639]
    """
    tokens = _checked(tokens, model.vocab_size)
    p, context = np.full(len(tokens), 1 / model.vocab_size), np.zeros(len(tokens), np.int64)
    for level in model.levels:
        p, gram = _interpolate(level, context, tokens, p, model.vocab_size)
        context = np.concatenate([[-1], gram[:-1]])
    return np.log(p)


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


def baselines(names: Sequence[str], train: TokenFile, validation: TokenFile, tokenizer: Tokenizer) -> dict[str, float]:
    """Bits per byte of simple models on the held-out text, by name: what a neural model must beat.

    The n-gram models see the same tokens and pay for the same targets as the model, ends of documents included. `xz`
    compresses the held-out text alone, and pays for no ends. Of either text they take the first 16.8 million tokens.

    Args:
      names: of `unigram`, `bigram`, `trigram`, `4-gram`, `5-gram` and `xz`.
      train, validation: the corpus.
      tokenizer: that of the tokens.
    """
    results, seen, held_out = {}, train.tokens[:COUNTED], validation.tokens[:COUNTED]
    for name in names:
        if name == "xz":
            text = held_out[held_out != tokenizer.end_of_text]
            results[name] = xz_bits_per_byte(tokenizer.decode_bytes(text))
        elif name in ORDERS:
            model = fit(seen, ORDERS[name], train.vocab_size)
            results[name] = validation.bits_per_byte(-float(log_probability(model, held_out)[1:].mean()))
        else:
            raise ValueError(f"There is no baseline called {name!r}; there are {', '.join(ORDERS)} and xz.")
    return results


def xz_bits_per_byte(data: bytes, given: bytes = b"") -> float:
    """What `xz -9e` makes of some bytes, in bits for each; `given` is compressed before them and not counted.

    >>> xz_bits_per_byte(bytes(10_000)) < 0.2
    True
    """
    preset = 9 | lzma.PRESET_EXTREME
    before = len(lzma.compress(given, preset=preset)) if given else 0
    return 8 * (len(lzma.compress(given + data, preset=preset)) - before) / len(data)


def _interpolate(level, context, tokens, p, vocab_size):
    """P of this order from P of the one below, and the number of each n-gram, −1 where it was never seen."""
    gram = _find(level.keys, context, tokens, vocab_size)
    c = np.where(gram >= 0, level.counts[gram], 0)
    D, total, types = level.discount, level.totals[context], level.types[context]
    known = (context >= 0) & (total > 0)
    return np.where(known, (np.maximum(c - D, 0) + D * types * p) / np.where(known, total, 1), p), gram


def _find(keys, context, tokens, vocab_size):
    wanted = np.where(context >= 0, context * vocab_size + tokens, -1)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


def _checked(tokens, vocab_size):
    tokens = np.asarray(np.frombuffer(tokens, np.uint8) if isinstance(tokens, bytes) else tokens).astype(np.int64)
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < vocab_size):
        raise ValueError(
            f"Token ids must lie between 0 and {vocab_size - 1}, but run from {tokens.min()} to {tokens.max()}; "
            "is vocab_size that of the tokenizer?"
        )
    return tokens
