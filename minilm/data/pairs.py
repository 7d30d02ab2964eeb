"""Pairs of texts, of which a model reads one and writes the other: padded, sorted by length, in batches."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class Batch(NamedTuple):
    """What a model that reads one text and writes another learns from.

    source:        (b, s) int32, what it reads, and `source_length` (b,), how many tokens of each row count.
    inputs:        (b, t) int32, what it is told it has written: the boundary, then the target's tokens.
    targets:       (b, t) int32, what it should write next: the target's tokens, then the boundary.
    weights:       (b, t) float32, 1 as far as the target reaches, its boundary included, and 0 behind it.
    """

    source: Any
    source_length: Any
    inputs: Any
    targets: Any
    weights: Any


def pad(sources: Sequence, targets: Sequence, boundary: int = 0, s: int | None = None, t: int | None = None) -> Batch:
    """Pairs of token ids side by side, with zeros behind the shorter ones.

    Args:
      sources: b sequences of ids.
      targets: b sequences of ids, without any boundary.
      boundary: the id before the first token of a target and behind the last one.
      s, t: the widths, of which t counts the boundary; by default those of the longest.
    Raises:
      ValueError: there are not equally many, or one is longer than its width.

    >>> batch = pad([[5, 6], [7]], [[1], [2, 3]])
    >>> batch.inputs.tolist(), batch.targets.tolist(), batch.weights.tolist()
    ([[0, 1, 0], [0, 2, 3]], [[1, 0, 0], [2, 3, 0]], [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    """
    if len(sources) != len(targets):
        raise ValueError(f"expected a target for each source, got {len(targets)} for {len(sources)}.")
    source, source_length = _side_by_side(sources, s)
    after, length = _side_by_side(targets, t if t is None else t - 1)
    edge = np.full((len(after), 1), boundary, np.int32)
    inputs, padded = np.concatenate([edge, after], axis=1), np.concatenate([after, np.zeros_like(edge)], axis=1)
    place = np.arange(inputs.shape[1])
    return Batch(
        source=source,
        source_length=source_length,
        inputs=inputs,
        targets=np.where(place == length[:, None], boundary, padded).astype(np.int32),
        weights=(place <= length[:, None]).astype(np.float32),
    )


@dataclass(frozen=True, eq=False)
class PairBatches:
    r"""An endless sequence of training batches, each of pairs of about the same length: a function of (seed, step).

    A pair goes to the first width that its source fits into, and its target with a boundary, so that a compiled step
    meets as many shapes as there are widths. Targets are padded to the longest of their width. In each epoch every pair
    is drawn once (a width's last batch is filled up with pairs drawn already), and the batches come in random order.

    Args:
      sources, targets: pairs of sequences of token ids.
      widths: rising; the longest pair must fit the last.
      batch_size: b.
      seed: chooses the order.
    Raises:
      ValueError: a pair is longer than the last width, or there is none.

    >>> batches = PairBatches([[1], [2, 3], [4, 5, 6]], [[1], [2], [3]], widths=(2, 4), batch_size=2)
    >>> batches.n_batches, sorted(batches.batch(step).source.shape for step in range(2))
    (2, [(2, 2), (2, 4)])
    """

    sources: Sequence
    targets: Sequence
    widths: tuple[int, ...]
    batch_size: int
    seed: int = 0
    boundary: int = 0

    def __post_init__(self):
        if not len(self.sources) or len(self.sources) != len(self.targets):
            raise ValueError(
                f"expected a target for each source, and at least one, got {len(self.targets)} for {len(self.sources)}."
            )
        if not self.widths or list(self.widths) != sorted({*self.widths}) or min(*self.widths, self.batch_size) < 1:
            raise ValueError(
                f"Widths must rise from 1 or more and a batch hold 1 pair or more, but here are {self.widths} and "
                f"{self.batch_size}."
            )
        if (longest := self._sizes.max()) > self.widths[-1]:
            raise ValueError(
                f"The longest pair needs a width of {longest}, and the last is {self.widths[-1]}: "
                "leave it out, or add one."
            )

    @functools.cached_property
    def _sizes(self):
        """The width that each pair needs: of a target, with its boundary."""
        return np.array([max(len(s), 1 + len(t)) for s, t in zip(self.sources, self.targets, strict=True)])

    @functools.cached_property
    def _heaps(self):
        """For each width that some pair needs: it, the pairs' numbers, the width of their targets."""
        fits = np.searchsorted(self.widths, self._sizes)
        heaps = [np.flatnonzero(fits == place) for place in range(len(self.widths))]
        return [
            (width, heap, 1 + max(len(self.targets[int(i)]) for i in heap))
            for width, heap in zip(self.widths, heaps, strict=True)
            if len(heap)
        ]

    @functools.cached_property
    def _places(self):
        """(heap, first pair) of each batch of an epoch."""
        return [(h, i) for h, heap in enumerate(self._heaps) for i in range(0, len(heap[1]), self.batch_size)]

    @property
    def n_batches(self) -> int:
        """Batches in an epoch."""
        return len(self._places)

    def batch(self, step: int) -> Batch:
        """The batch of step 0, 1, 2, ...; any step at once, without those before it."""
        epoch, index = divmod(step, self.n_batches)
        h, first = self._places[self._order(epoch, -1, self.n_batches)[index]]
        width, heap, t = self._heaps[h]
        rows = heap[self._order(epoch, h, len(heap))[np.arange(first, first + self.batch_size) % len(heap)]]
        return pad([self.sources[i] for i in rows], [self.targets[i] for i in rows], self.boundary, width, t)

    def _order(self, epoch, heap, n):
        return np.random.default_rng((self.seed, epoch, heap + 1)).permutation(n)


def _side_by_side(rows, width):
    length = np.array([len(row) for row in rows], np.int32)
    longest = int(length.max(initial=0))
    if width is not None and longest > width:
        raise ValueError(f"expected sequences of at most {width} tokens, got one of {longest}: leave it out.")
    padded = np.zeros((len(rows), longest if width is None else width), np.int32)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return padded, length
