"""Which words stand near which, counted over a whole text: what GloVe reads. NumPy."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minilm.data.windows import Text, check_numbers

STEPS = 256  # in one call of the compiled loop


class Cooccurrence(NamedTuple):
    """The counts that are not zero, by word and then by neighbour, `(p,)` each.

    word:  the number of a word,
    other: that of a word found near it,
    count: and how often, nearness weighed in.
    """

    word: np.ndarray
    other: np.ndarray
    count: np.ndarray


def count(text: Text, window: int = 10) -> Cooccurrence:
    r"""How often each word stands near each other one, each time as much as they are near.

    $$ X_{ij} = \sum_{s, t} [w_s = i]\, [w_t = j]\, [0 < |s - t| \le c]\, \frac{1}{|s - t|} $$

    within documents. It is symmetric, and both halves are kept.

    Args:
      text: words as numbers, of which there are as many as counts.
      window: c, the largest distance.

    >>> text = Text(np.array([0, 1, 0]), np.array([0, 0, 0]), np.array([2, 1]))
    >>> [column.tolist() for column in count(text, window=2)]
    [[0, 0, 1], [0, 1, 0], [1.0, 2.0, 2.0]]
    """
    check_numbers(text)
    n, tokens = len(text.counts), text.tokens.astype(np.int64)
    keys, sums = np.zeros(0, np.int64), np.zeros(0)
    for distance in range(1, window + 1):
        near = text.document[distance:] == text.document[:-distance]
        a, b = tokens[:-distance][near], tokens[distance:][near]
        pairs, times = np.unique(np.concatenate([a * n + b, b * n + a]), return_counts=True)
        keys, sums = _added(np.concatenate([keys, pairs]), np.concatenate([sums, times / distance]))
    return Cooccurrence((keys // n).astype(np.int32), (keys % n).astype(np.int32), sums.astype(np.float32))


def _added(keys, values):
    """Each key once, sorted, with the sum of its values."""
    keys, place = np.unique(keys, return_inverse=True)
    return keys, np.bincount(place, values, minlength=len(keys))


def batches(x: Cooccurrence, size: int, seed: int, epoch: int) -> Iterator[dict[str, Any]]:
    """All pairs once, in an order that is a function of (seed, epoch): STEPS batches of `size` pairs at a time.

    The last are filled up with pairs whose count is 0, which the loss gives no weight.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(x.count))
    for start in range(0, len(order), STEPS * size):
        chosen = order[start : start + STEPS * size]
        filling = (0, STEPS * size - len(chosen))
        yield {
            name: np.pad(column[chosen], filling).reshape(STEPS, size)
            for name, column in zip(x._fields, x, strict=True)
        }
