"""Batches of token ids as a function of (seed, step), so that a resumed run sees what the whole run would have seen."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

ROUNDS = 6  # of the Feistel network; four already make a permutation that no simple statistic tells from a random one


class Batch(NamedTuple):
    """What a language model learns from: at every position the tokens up to it predict `targets` there.

    tokens:  (b, t) int32, what the model reads.
    targets: (b, t) int32, the same text one position later.
    weights: (b, t) float32, 1 where the target counts and 0 where it is ignored (padding).

    They are NumPy arrays here and JAX's inside a compiled step; this package knows nothing of the latter.
    """

    tokens: Any
    targets: Any
    weights: Any


@dataclass(frozen=True, eq=False)
class Batches:
    r"""An endless sequence of training batches with random access: `batch(step)` depends on (seed, step) alone.

    The text is cut into windows of `context_length` tokens that don't overlap. An epoch is a permutation of the
    windows, computed index by index and never stored:

    $$ k = \text{step} \cdot b + j, \qquad e = \lfloor k / w \rfloor, \qquad
       \text{window}_k = \pi_{\text{seed}, e}(k \bmod w) $$

    with b the batch size, j the row and w the number of windows. Thus each window is used exactly once an epoch, also
    where a batch straddles two epochs. Every epoch moves all the cuts by a phase of its own, so that no token always
    stands at the beginning of a window, where there is nothing to predict it from.

    Args:
      tokens: one axis of token ids, in memory or memory-mapped (`minilm.data.token_file.open_tokens`).
      context_length: t, tokens of a window.
      batch_size: b, windows of a batch.
      seed: chooses permutations and phases.

    >>> batches = Batches(np.arange(9), context_length=4, batch_size=1, seed=0)
    >>> batch = batches.batch(0)
    >>> bool((batch.targets == batch.tokens + 1).all()), batch.tokens.shape
    (True, (1, 4))
    """

    tokens: np.ndarray
    context_length: int
    batch_size: int
    seed: int = 0

    def __post_init__(self):
        _check(self.tokens, self.context_length, self.batch_size)

    @property
    def n_windows(self) -> int:
        """Windows in an epoch: as many as fit at every phase."""
        return max(1, (len(self.tokens) - self.context_length) // self.context_length)

    def batch(self, step: int) -> Batch:
        """The batch of step 0, 1, 2, ...; any step at once, without those before it."""
        _check_step(step)
        epoch, index = np.divmod(step * self.batch_size + np.arange(self.batch_size), self.n_windows)
        return self._windows([self._start(int(e), int(i)) for e, i in zip(epoch, index, strict=True)])

    def _start(self, epoch, index):
        slack = len(self.tokens) - 1 - self.n_windows * self.context_length
        phase = _hash(self.seed, epoch, 0) % (min(slack, self.context_length - 1) + 1)
        return phase + self.context_length * permuted(index, self.n_windows, self.seed, epoch)

    def _windows(self, starts):
        rows = np.stack([self.tokens[start : start + self.context_length + 1] for start in starts]).astype(np.int32)
        return Batch(rows[:, :-1], rows[:, 1:], np.ones((len(starts), self.context_length), np.float32))


@dataclass(frozen=True, eq=False)
class ConsecutiveBatches:
    r"""An endless sequence of batches in which each row goes on where it stood: for a model that carries its state.

    The text is a circle of N tokens, and b readers go round it, each a b-th of the way ahead of the one before. At
    every step each reads one window of t tokens:

    $$ \text{tokens}_{j,i}(\text{step}) = \text{text}\left[\left(\lfloor j N / b \rfloor
       + \text{step} \cdot t + i\right) \bmod N\right] $$

    Thus every row reads all of the text in its order, again and again, and nothing tells it where an epoch ends but the
    text's own end, after which it begins anew. `batch(step)` depends on step alone.

    Args:
      tokens: one axis of token ids, in memory or memory-mapped.
      context_length: t, tokens of a window.
      batch_size: b, rows.

    >>> batches = ConsecutiveBatches(np.arange(10), context_length=3, batch_size=2)
    >>> [batches.batch(step).tokens.tolist() for step in (0, 1)]
    [[[0, 1, 2], [5, 6, 7]], [[3, 4, 5], [8, 9, 0]]]
    """

    tokens: np.ndarray
    context_length: int
    batch_size: int

    def __post_init__(self):
        _check(self.tokens, self.context_length, self.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of step 0, 1, 2, ...; any step at once, without those before it."""
        _check_step(step)
        n, t, b = len(self.tokens), self.context_length, self.batch_size
        starts = np.arange(b) * n // b + step * t
        rows = self.tokens[(starts[:, None] + np.arange(t + 1)) % n].astype(np.int32)
        return Batch(rows[:, :-1], rows[:, 1:], np.ones((b, t), np.float32))


def evaluation_batches(tokens: np.ndarray, context_length: int, batch_size: int) -> Iterator[Batch]:
    """Batches that cover a text once, in order: every token but the first is a target exactly once.

    The last window and the last batch are padded to full size with weight 0, so that one compiled function serves all.

    Args:
      tokens: one axis of token ids, in memory or memory-mapped.
      context_length: t, tokens of a window.
      batch_size: b, windows of a batch.

    >>> [batch.weights.sum().item() for batch in evaluation_batches(np.arange(12), context_length=4, batch_size=2)]
    [8.0, 3.0]
    """
    _check(tokens, context_length, batch_size)
    size, n_targets = context_length * batch_size, len(tokens) - 1
    for start in range(0, n_targets, size):
        piece = np.asarray(tokens[start : start + size + 1], np.int32)
        weights = np.arange(size) < len(piece) - 1
        padded = np.concatenate([piece, np.zeros(size + 1 - len(piece), np.int32)])
        shape = (batch_size, context_length)
        batch = Batch(padded[:-1].reshape(shape), padded[1:].reshape(shape), weights.reshape(shape).astype(np.float32))
        yield batch._replace(tokens=np.where(weights.reshape(shape), batch.tokens, 0))


def permuted(index: int, size: int, seed: int, epoch: int = 0) -> int:
    r"""The place to which a pseudo-random permutation of 0, 1, ..., size − 1 takes `index`.

    A Feistel network permutes the numbers of 2m bits, whatever its round function F; with l, r their halves, a round is

    $$ (l, r) \mapsto (r,\; l \oplus F(r)) $$

    which is undone by $(l, r) \mapsto (r \oplus F(l),\; l)$. Where the result is not below `size`, it is permuted again
    until it is: walking along a cycle of a permutation of the larger set is a permutation of the smaller. Paper: Black
    and Rogaway, "Ciphers with arbitrary finite domains" (2002).

    >>> sorted(permuted(i, 5, seed=7) for i in range(5))
    [0, 1, 2, 3, 4]
    """
    m = max(1, ((size - 1).bit_length() + 1) // 2)
    while True:
        left, right = index >> m, index & ((1 << m) - 1)
        for round_number in range(1, ROUNDS + 1):
            left, right = right, left ^ (_hash(seed, epoch, round_number, right) & ((1 << m) - 1))
        index = left << m | right
        if index < size:
            return index


def _hash(*numbers):
    """64 bits that look random, from any integers: the finalizer of splitmix64, chained over them."""
    h = 0
    for number in numbers:
        h = (h + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        h = ((h ^ h >> 30) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        h = ((h ^ h >> 27) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        h ^= h >> 31
    return h


def _check_step(step):
    if step < 0:
        raise ValueError(f"Steps count from 0, but step {step} was asked for.")


def _check(tokens, context_length, batch_size):
    if context_length < 1 or batch_size < 1:
        raise ValueError(
            f"context_length and batch_size must be at least 1, but are {context_length} and {batch_size}."
        )
    if np.ndim(tokens) != 1:
        raise ValueError(
            f"Tokens must have one axis, but have shape {np.shape(tokens)}; concatenate the documents first."
        )
    if len(tokens) < context_length + 1:
        raise ValueError(
            f"The corpus has {len(tokens)} tokens, fewer than the {context_length + 1} of one context and its last "
            f"target. Give more text, or a context_length of at most {max(len(tokens) - 1, 1)}."
        )
