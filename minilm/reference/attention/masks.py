"""The same rules, asked one pair of tokens at a time: `allows((p_t, document_t), (p_s, document_s))`."""

from dataclasses import dataclass

import numpy as np


class Rule:
    """Loops over the pairs."""

    def __call__(self, query, key):
        """True where the query may see the key, `(t, s)`."""
        queries, keys = (list(zip(*(map(int, axis) for axis in tokens), strict=True)) for tokens in (query, key))
        return np.array([[self.allows(q, k) for k in keys] for q in queries], bool).reshape(len(queries), len(keys))


@dataclass(frozen=True)
class And(Rule):
    """Both."""

    left: Rule
    right: Rule

    def allows(self, q, k):
        """Both say yes."""
        return self.left.allows(q, k) and self.right.allows(q, k)


@dataclass(frozen=True)
class Or(Rule):
    """Either."""

    left: Rule
    right: Rule

    def allows(self, q, k):
        """One says yes."""
        return self.left.allows(q, k) or self.right.allows(q, k)


@dataclass(frozen=True)
class Not(Rule):
    """The contrary."""

    rule: Rule

    def allows(self, q, k):
        """The rule says no."""
        return not self.rule.allows(q, k)


@dataclass(frozen=True)
class Everything(Rule):
    """Always."""

    def allows(self, q, k):
        """Yes."""
        return True


@dataclass(frozen=True)
class Causal(Rule):
    """The key is not in the future."""

    def allows(self, q, k):
        """It stands no later."""
        return not k[0] > q[0]


@dataclass(frozen=True)
class SlidingWindow(Rule):
    """The key is among the `width` tokens that end, or begin, with the query itself."""

    width: int

    def allows(self, q, k):
        """Enumerates the window."""
        return any(k[0] in (q[0] - step, q[0] + step) for step in range(int(self.width)))


@dataclass(frozen=True)
class Prefix(Rule):
    """The key stands before `length`."""

    length: int

    def allows(self, q, k):
        """Counted from 0."""
        return k[0] <= self.length - 1


@dataclass(frozen=True)
class SameDocument(Rule):
    """Both are of one document."""

    def allows(self, q, k):
        """The numbers agree."""
        return q[1] == k[1]


@dataclass(frozen=True)
class Padding(Rule):
    """Neither stands behind the end."""

    length: int

    def allows(self, q, k):
        """The later one is still real."""
        return max(q[0], k[0]) < self.length


@dataclass(frozen=True)
class Dilated(Rule):
    """The distance is made of whole steps of `rate`."""

    rate: int

    def allows(self, q, k):
        """Walks from the earlier to the later."""
        return max(q[0], k[0]) in range(min(q[0], k[0]), max(q[0], k[0]) + 1, int(self.rate))


@dataclass(frozen=True)
class Chunked(Rule):
    """No border of a chunk lies between the two."""

    size: int

    def allows(self, q, k):
        """A border stands before each multiple of `size`."""
        return not any(p % int(self.size) == 0 for p in range(min(q[0], k[0]) + 1, max(q[0], k[0]) + 1))
