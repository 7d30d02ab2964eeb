"""The same rules, asked one pair of tokens at a time: `allows((p_t, document_t), (p_s, document_s))`."""

from dataclasses import dataclass
from typing import Any

from minilm.reference.attention.masks import Rule


@dataclass(frozen=True)
class Global(Rule):
    """One of the two stands before `length`."""

    length: int

    def allows(self, q, k):
        """The earlier one does, if any."""
        return min(q[0], k[0]) < self.length


@dataclass(frozen=True)
class BlockWindow(Rule):
    """Fewer than n borders of blocks lie between the two."""

    size: int
    n: int

    def allows(self, q, k):
        """A border stands before each multiple of `size`."""
        between = range(min(q[0], k[0]) + 1, max(q[0], k[0]) + 1)
        return sum(p % int(self.size) == 0 for p in between) < self.n


@dataclass(frozen=True)
class RandomBlocks(Rule):
    """The key stands in a block of the query's row."""

    size: int
    chosen: Any

    def allows(self, q, k):
        """Walks through the row's blocks, position by position."""
        size = int(self.size)
        for b, row in enumerate(self.chosen):
            if q[0] in range(b * size, (b + 1) * size):
                return any(k[0] in range(int(c) * size, (int(c) + 1) * size) for c in row)
        return False
