r"""Tasks of recall, made to measure: a text tells something early and asks for it later.

`MQAR` tells pairs of keys and values and asks for the value of each key; `SelectiveCopy` strews tokens among blanks and
asks for all of them in order; `Induction` shows once what follows a special token and asks when it comes again. Every
batch is a function of (seed, step) and none is like another, so that what is learnt is the rule and not the rows.

>>> task = MQAR(vocab_size=16, length=8, pairs=2)
>>> tokens, places, targets, _, distances = task.batch(seed=0, step=3, rows=1)
>>> print(tokens, places, targets, distances)
[[ 5  9  4 10  5  0  4  0]] [[4 6]] [[ 9 10]] [[3 3]]

Two accuracies mean that nothing was recalled, and stand beside every result as `chance`: that of any token, 1/V, and
that of a model that knows which values the text has and not which of them is asked for, about 1/K.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minilm.data.batching import Batch

POWER = 0.01  # Zoology's: the n-th slot for a question is drawn in proportion to n^(POWER − 1)


class Questions(NamedTuple):
    """Texts, and what is asked in them: at each place a model has read the text so far and should say the target.

    tokens:  (b, t) int32.
    places:  (b, q) int32, where the questions stand in each row, rising.
    targets: (b, q) int32, their answers.
    weights: (b, q) float32, 1 throughout: every question counts the same, and nothing else counts.
    distances: (b, q) int32, how many tokens before its place the answer was told: who reaches less far must guess.
    """

    tokens: Any
    places: Any
    targets: Any
    weights: Any
    distances: Any


class Chance(NamedTuple):
    """How often one is right who recalls nothing: with any token, and with any of the values that the text has."""

    token: float
    value: float


@dataclass(frozen=True)
class MQAR:
    r"""Multi-query associative recall, as Zoology has it (arXiv:2312.04927).

    $$ k_1\, v_1\, k_2\, v_2 \dots k_K\, v_K \quad \dots\; k_3\, 0\, 0\, 0\, k_1\, 0\, k_K \dots \qquad
       P(\text{slot } n) \propto n^{a - 1}, \quad a = 0.01 $$

    Keys are drawn from 1 … V/2 − 1 and values from V/2 … V − 1, none twice in a row; 0 fills the rest. Behind the pairs
    every other place is a slot, of which K are drawn without replacement: each key is asked for in one, and the target
    there is its value. Early slots are likelier, so most questions follow soon after the pairs, and some late.

    Args:
      vocab_size: V.
      length: t.
      pairs: K, at most a quarter of the length.
    """

    vocab_size: int = 256
    length: int = 64
    pairs: int = 8

    def __post_init__(self):
        _check(self, shortest=4 * self.pairs, least_vocabulary=2 * self.pairs + 2)

    @property
    def chance(self) -> Chance:
        """Values differ, so that the right one is one of K."""
        return Chance(1 / self.vocab_size, 1 / self.pairs)

    def batch(self, seed: int, step: int, rows: int = 64) -> Questions:
        """The batch of a step."""
        rng, half, told = _rng(seed, step), self.vocab_size // 2, 2 * self.pairs
        keys = 1 + _distinct(rng, rows, half - 1, self.pairs)
        values = half + _distinct(rng, rows, self.vocab_size - half, self.pairs)
        n = np.arange(1, (self.length - told) // 2 + 1)
        # The largest sums of log p and Gumbel noise are a draw without replacement, in the order of the draw.
        drawn = (POWER - 1) * np.log(n) + rng.gumbel(size=(rows, len(n)))
        places = told + 2 * np.argsort(-drawn, axis=1)[:, : self.pairs]
        tokens = np.zeros((rows, self.length), np.int32)
        tokens[:, 0:told:2], tokens[:, 1:told:2] = keys, values
        np.put_along_axis(tokens, places, keys, axis=1)
        return _questions(tokens, places, values, np.arange(1, told, 2))


@dataclass(frozen=True)
class SelectiveCopy:
    """Selective copying (arXiv:2312.00752; sizes as in MAD, arXiv:2403.17844): skip the blanks, keep the order.

    K tokens, each any of 1 … V − 2, stand at places drawn uniformly without replacement, among blanks, which are 0.
    Then comes the mark V − 1, and behind it K blanks: at the i-th of them the target is the i-th token.

    Args:
      vocab_size: V.
      length: t, with the mark and the blanks for the answers.
      pairs: K, the tokens to copy.
    """

    vocab_size: int = 18
    length: int = 64
    pairs: int = 8

    def __post_init__(self):
        _check(self, shortest=2 * self.pairs + 1, least_vocabulary=4)

    @property
    def chance(self) -> Chance:
        """One of the K is asked for, and another may happen to be the same token."""
        one = 1 / self.pairs
        return Chance(1 / self.vocab_size, one + (1 - one) / (self.vocab_size - 2))

    def batch(self, seed: int, step: int, rows: int = 64) -> Questions:
        """The batch of a step."""
        rng, mark = _rng(seed, step), self.length - self.pairs - 1
        copied = rng.integers(1, self.vocab_size - 1, (rows, self.pairs))
        tokens = np.zeros((rows, self.length), np.int32)
        where = np.sort(_distinct(rng, rows, mark, self.pairs), axis=1)
        np.put_along_axis(tokens, where, copied, axis=1)
        tokens[:, mark] = self.vocab_size - 1
        return _questions(tokens, np.broadcast_to(np.arange(mark + 1, self.length), copied.shape), copied, where)


@dataclass(frozen=True)
class Induction:
    """Induction heads (arXiv:2209.11895, arXiv:2302.10866): what followed the last time, follows now.

    Ordinary tokens, each any of 1 … V − 1, and among them once, anywhere, the special token 0. It stands again at the
    end, where the target is the token that followed it.

    Args:
      vocab_size: V.
      length: t.
    """

    vocab_size: int = 16
    length: int = 64

    pairs = 1

    def __post_init__(self):
        _check(self, shortest=3, least_vocabulary=3)

    @property
    def chance(self) -> Chance:
        """Of the t − 2 ordinary tokens one is asked for, and each other may happen to be the same."""
        one = 1 / (self.length - 2)
        return Chance(1 / self.vocab_size, one + (1 - one) / (self.vocab_size - 1))

    def batch(self, seed: int, step: int, rows: int = 64) -> Questions:
        """The batch of a step."""
        rng, row = _rng(seed, step), np.arange(rows)
        tokens = rng.integers(1, self.vocab_size, (rows, self.length)).astype(np.int32)
        special = rng.integers(0, self.length - 2, rows)
        tokens[row, special] = tokens[:, -1] = 0
        answer = special[:, None] + 1
        return _questions(tokens, np.full_like(answer, self.length - 1), tokens[row[:, None], answer], answer)


Task = MQAR | SelectiveCopy | Induction


def spread(questions: Questions) -> Batch:
    """The same as a language model's batch: a target at every position, of which only the questions' have weight.

    >>> spread(Induction(vocab_size=4, length=5).batch(seed=0, step=0, rows=1)).weights.tolist()
    [[0.0, 0.0, 0.0, 0.0, 1.0]]
    """
    targets, weights = np.zeros_like(questions.tokens), np.zeros(questions.tokens.shape, np.float32)
    np.put_along_axis(targets, questions.places, questions.targets, axis=1)
    np.put_along_axis(weights, questions.places, questions.weights, axis=1)
    return Batch(questions.tokens, targets, weights)


def _rng(seed, step):
    if seed < 0 or step < 0:
        raise ValueError(f"Seeds and steps count from 0, but seed {seed} and step {step} were asked for.")
    return np.random.default_rng((seed, step))


def _distinct(rng, rows, n, k):
    """In each row k of the numbers below n, none twice, in random order."""
    drawn = rng.random((rows, n))
    smallest = np.argpartition(drawn, k - 1, axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(drawn, smallest, axis=1), axis=1)  # a partition leaves an order of its own
    return np.take_along_axis(smallest, order, axis=1)


def _questions(tokens, places, targets, told_at):
    order, arrays = np.argsort(places, axis=1), (places, targets, places - told_at)
    places, targets, distances = (np.take_along_axis(a, order, axis=1).astype(np.int32) for a in arrays)
    return Questions(tokens, places, targets, np.ones(places.shape, np.float32), distances)


def _check(task, *, shortest, least_vocabulary):
    name = type(task).__name__
    if task.pairs < 1:
        raise ValueError(f"{name} needs something to recall, but pairs is {task.pairs}: give 1 or more.")
    if task.length < shortest:
        raise ValueError(
            f"{name} of {task.pairs} to recall takes {shortest} tokens or more, but the length is {task.length}."
        )
    if task.vocab_size < least_vocabulary:
        raise ValueError(
            f"{name} of {task.pairs} to recall takes a vocabulary of {least_vocabulary} or more, but it is "
            f"{task.vocab_size}."
        )
