"""Texts of unequal lengths side by side: filled up to one of a few sizes, as a function of (seed, step).

A compiled program knows the size of its arrays, so each text is filled up with zeros to the smallest of a few sizes
that holds it; a batch is of texts of one size, and holds as many as make up a given number of places. Thus few programs
are compiled, little is computed for nothing, and each step costs about the same.

    sizes = padded_sizes(lengths, count=4)
    batches = PaddedBatches((tokens, labels), sizes, places=4096, seed=0)
    tokens, labels = batches.batch(step).columns
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from minilm.data.batching import permuted


class Padded(NamedTuple):
    """Texts of one size t, b rows of them; a row that only fills the batch up has length, weight and contents 0.

    columns: what was known of each text: `(b, t, ...)` int32 where it was a row of numbers, `(b,)` int32 where one.
    length:  (b,) int32, the places of each text that count.
    weights: (b,) float32, 1 for a text, 0 for a row that fills up.
    index:   (b,) int64, the text's number among all, −1 for a row that fills up.
    """

    columns: tuple[np.ndarray, ...]
    length: np.ndarray
    weights: np.ndarray
    index: np.ndarray

    @property
    def place_weights(self) -> np.ndarray:
        """`(b, t)` float32, the weight of each text at each of its places, 0 at those that fill it up."""
        return self.weights[:, None] * (np.arange(self.columns[0].shape[1]) < self.length[:, None])


def padded_sizes(lengths: Sequence[int] | np.ndarray, count: int = 4, multiple: int = 8) -> tuple[int, ...]:
    r"""The sizes, at most `count` of them, under which texts of these lengths have the fewest places in all.

    $$ \min_{t_1 < \dots < t_k} \sum_i \min \{ t_j : t_j \ge n_i \} $$

    Found by dynamic programming: the best sizes up to t are t and, for some smaller t', the best ones up to t'.

    Args:
      lengths: n, of each text.
      count: k, at most; each size costs a compilation.
      multiple: sizes are multiples of it.

    >>> padded_sizes([3, 5, 6, 30, 31, 200], count=3)
    (8, 32, 200)
    """
    lengths = np.asarray(lengths)
    if count < 1 or multiple < 1:
        raise ValueError(f"There must be at least one size, of a multiple of at least 1; asked for {count, multiple}.")
    if lengths.ndim != 1 or not lengths.size or lengths.min() < 1:
        raise ValueError(f"Sizes are chosen for one text or more, each of length 1 or more; {_shown(lengths)} came.")
    candidates, texts = np.unique(-(-lengths // multiple) * multiple, return_counts=True)
    below = np.concatenate([[0], np.cumsum(texts)])
    cost, choice = candidates * below[1:], [[int(t)] for t in candidates]  # one size for all texts that it holds
    for _ in range(count - 1):
        # With candidate i as the largest size, and j as the one before it: all texts above j have size i.
        totals = np.tril(cost[None, :] + candidates[:, None] * (below[1:, None] - below[None, 1:]))
        totals[np.triu_indices(len(candidates))] = np.iinfo(np.int64).max
        j = totals.argmin(1)
        better = totals.min(1) < cost
        choice = [[*choice[j[i]], int(t)] if better[i] else choice[i] for i, t in enumerate(candidates)]
        cost = np.where(better, totals.min(1), cost)
    return tuple(choice[-1])


@dataclass(frozen=True, eq=False)
class PaddedBatches:
    r"""An endless sequence of batches of texts of about the same length: `batch(step)` depends on (seed, step) alone.

    Of the texts of each size an epoch takes a permutation, cuts it into batches, and permutes the batches of all sizes:

    $$ (e, i) = \text{divmod}(\text{step}, B), \qquad (k, q) = \text{batch } \pi_{\text{seed}, e}(i), \qquad
       \text{text}_r = \pi_{\text{seed}, e}(q\, b_k + r), \qquad b_k = \lfloor \text{places} / t_k \rfloor $$

    with B the batches of an epoch, $t_k$ the size and r the row. Each text comes exactly once an epoch.

    Args:
      columns: what is known of the texts. Each column has, for every text, an array of integers whose first axis is as
        long as the text, `(n,)` or `(n, m)`, or else one integer, such as a label; the first is of arrays.
      sizes: of `padded_sizes`, or others; the largest holds the longest text.
      places: rows times size, at most, but one text at least.
      seed: chooses the permutations.
    Raises:
      ValueError: columns are not of equally many texts, a text is empty or too long, or columns disagree on its length.

    >>> texts, labels = [np.array([5, 6, 7]), np.array([8]), np.array([9, 4])], [1, 0, 1]
    >>> batches = PaddedBatches((texts, labels), sizes=(2, 4), places=4)
    >>> for batch in batches.in_order():
    ...     print(*(column.tolist() for column in batch.columns), batch.length, batch.index)
    [[8, 0], [9, 4]] [0, 1] [1 2] [1 2]
    [[5, 6, 7, 0]] [1] [3] [0]
    """

    columns: tuple[Sequence[Any], ...]
    sizes: tuple[int, ...]
    places: int
    seed: int = 0

    def __post_init__(self):
        if self.places < 1 or not self.sizes or list(self.sizes) != sorted({*self.sizes}) or self.sizes[0] < 1:
            raise ValueError(
                f"Places and sizes must be 1 or more, and sizes rise; here are {self.places} places and the sizes "
                f"{self.sizes}."
            )
        counts = [len(column) for column in self.columns]
        if not counts or min(counts) != max(counts) or not counts[0] or np.ndim(self.columns[0][0]) == 0:
            raise ValueError(
                f"Each column must tell something of every text, the first its tokens; here are columns of {counts} "
                "texts: leave out of all of them what one of them lacks."
            )
        for number, row in enumerate(zip(*self.columns, strict=True)):
            _check(number, row, [column[0] for column in self.columns], self.sizes[-1])

    @cached_property
    def lengths(self) -> np.ndarray:
        """`(texts,)`, the length of each text."""
        return np.array([len(text) for text in self.columns[0]])

    @cached_property
    def members(self) -> list[np.ndarray]:
        """The numbers of the texts of each size."""
        size = np.searchsorted(self.sizes, self.lengths)
        return [np.flatnonzero(size == k) for k in range(len(self.sizes))]

    @cached_property
    def rows(self) -> list[int]:
        """b, the texts of a batch of each size."""
        return [max(1, self.places // size) for size in self.sizes]

    @cached_property
    def _ends(self):
        """How many batches of an epoch have this size or a smaller one."""
        return np.cumsum([-(-len(texts) // b) for texts, b in zip(self.members, self.rows, strict=True)]).tolist()

    @property
    def per_epoch(self) -> int:
        """B, batches in which each text comes once."""
        return self._ends[-1]

    def batch(self, step: int) -> Padded:
        """The batch of step 0, 1, 2, ...; any step at once, without those before it."""
        if step < 0:
            raise ValueError(f"Steps count from 0, but step {step} was asked for.")
        epoch, i = divmod(step, self.per_epoch)
        return self._batch(permuted(i, self.per_epoch, self.seed, epoch), epoch)

    def in_order(self) -> Iterator[Padded]:
        """Batches in which each text comes once, the shortest size first and in each the texts in their order."""
        return (self._batch(i, None) for i in range(self.per_epoch))

    def each_text(self, function: Callable[[Padded], Any]) -> list:
        """What the function makes of each text, in their order: its results for a batch have a row for every text."""
        found: list[Any] = [None] * len(self.lengths)
        for batch in self.in_order():
            for number, result in zip(batch.index.tolist(), np.asarray(function(batch)), strict=True):
                if number >= 0:
                    found[number] = result
        return found

    def _batch(self, i, epoch):
        k = bisect_left(self._ends, i + 1)
        members, b = self.members[k], self.rows[k]
        first = (i - (self._ends[k - 1] if k else 0)) * b
        places = range(first, min(first + b, len(members)))
        if epoch is not None:
            places = [permuted(place, len(members), self.seed, epoch) for place in places]
        index = np.full(b, -1)
        index[: len(places)] = members[places]
        return self._padded(index, self.sizes[k])

    def _padded(self, index, size):
        texts = index[index >= 0]
        length, weights = np.zeros(len(index), np.int32), np.zeros(len(index), np.float32)
        length[: len(texts)], weights[: len(texts)] = self.lengths[texts], 1
        return Padded(
            tuple(_filled_up(column, texts, len(index), size) for column in self.columns), length, weights, index
        )


def _filled_up(column, texts, rows, size):
    inner = np.shape(column[0])
    if not inner:
        numbers = np.zeros(rows, np.int32)
        numbers[: len(texts)] = [column[text] for text in texts]
        return numbers
    filled = np.zeros((rows, size, *inner[1:]), np.int32)
    for row, text in zip(filled, texts, strict=False):
        row[: len(column[text])] = column[text]
    return filled


def _check(number, row, first_row, longest):
    n = len(row[0])
    if not 0 < n <= longest:
        raise ValueError(
            f"Text {number} has a length of {n}, and sizes are from 1 to {longest}: leave empty texts out, and cut "
            "long ones or give a larger size."
        )
    for column, (value, first) in enumerate(zip(row, first_row, strict=True)):
        value, inner = np.asarray(value), np.shape(first)[1:]
        if value.dtype.kind not in "iub" or np.any(value != value.astype(np.int32)):
            raise ValueError(f"Text {number} has in column {column} what is no integer of 32 bits: {value.dtype}.")
        if value.ndim != np.ndim(first) or value.shape[1:] != inner:
            raise ValueError(
                f"Text {number} has an array of shape {value.shape} in column {column}, and the first text one of "
                f"{np.shape(first)}: give all of them the same axes after the first."
            )
        if value.ndim and len(value) != n:
            raise ValueError(
                f"Text {number} has a length of {n} in column 0, and of {len(value)} in column {column}: give a number "
                "for each place, or one for the whole text."
            )


def _shown(lengths):
    return f"lengths of shape {lengths.shape}" + (f", the least {lengths.min()}" if lengths.size else "")
