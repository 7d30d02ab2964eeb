"""What word2vec reads: text thinned of its commonest words, a window around each, noise, and a Huffman tree. NumPy."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

STEPS = 64  # in one call of the compiled loop


class Text(NamedTuple):
    """Words as numbers, documents one after another.

    tokens:   `(t,)`, each at least 0 and below n.
    document: `(t,)`, the number of the document (or sentence) that each stands in; no window reaches into another.
    counts:   `(n,)`, how often each word occurs.
    """

    tokens: np.ndarray
    document: np.ndarray
    counts: np.ndarray


class Tree(NamedTuple):
    """The way to every word in a binary tree, from the root: at which fork, and there to which side.

    nodes: `(n, l)`, forks numbered from 0 to n − 2.
    signs: `(n, l)`, +1 where the way goes left, −1 right, and 0 behind its end.
    """

    nodes: np.ndarray
    signs: np.ndarray


def number(documents: Iterable[Sequence[str]], min_count: int = 5) -> tuple[list[str], Text]:
    """The words that come often enough, the most frequent first, and the documents written in their numbers.

    Rarer words are left out as if they had not been there, as word2vec.c does: windows close over them.

    >>> words, text = number([["a", "rose", "is", "a", "rose"], ["is", "a", "rose"]], min_count=2)
    >>> words, text.tokens.tolist(), text.document.tolist(), text.counts.tolist()
    (['a', 'rose', 'is'], [0, 1, 2, 0, 1, 2, 0, 1], [0, 0, 0, 0, 0, 1, 1, 1], [3, 3, 2])
    """
    documents = list(documents)
    counts = Counter(word for document in documents for word in document)
    words = [word for word, count in counts.most_common() if count >= min_count]
    if not words:
        raise ValueError(f"No word comes {min_count} times or more; give more text, or a smaller min_count.")
    index = {word: i for i, word in enumerate(words)}
    numbered = [[index[word] for word in document if word in index] for document in documents]
    tokens = np.fromiter(chain.from_iterable(numbered), np.int32)
    document = np.repeat(np.arange(len(numbered)), [len(ids) for ids in numbered])
    return words, Text(tokens, document, np.array([counts[word] for word in words]))


def keep_probability(counts: np.ndarray, subsample: float) -> np.ndarray:
    r"""With which probability an occurrence of each word is kept, `(n,)`.

    $$ P = \min\Big(1, \sqrt{\frac{s}{f}} + \frac{s}{f}\Big) $$

    with f the share of the word in the text and s the threshold. That is word2vec.c's; the paper (arXiv:1310.4546) has
    the square root alone, which keeps fewer.

    >>> keep_probability(np.array([90, 9, 1]), 0.1).round(3).tolist()
    [0.444, 1.0, 1.0]
    """
    share = subsample * counts.sum() / np.maximum(counts, 1)
    return np.minimum(1, np.sqrt(share) + share)


def noise_distribution(counts: np.ndarray) -> np.ndarray:
    r"""The probability of each word among those drawn at random, $P \propto c^{3/4}$, `(n,)`.

    Between the text's own frequencies and none at all: 3/4 was found best by trial (arXiv:1310.4546).

    >>> noise_distribution(np.array([16, 1])).round(3).tolist()
    [0.889, 0.111]
    """
    weights = counts**0.75
    return weights / weights.sum()


def huffman(counts: np.ndarray) -> Tree:
    r"""The binary tree in which the mean length of the way to a word, $\sum_w c_w \ell_w / \sum_w c_w$, is least.

    The two rarest words, or trees, are joined into one, until there is one (Huffman, 1952). A frequent word is thus
    few forks from the root.

    >>> huffman(np.array([5, 2, 1, 1])).signs.tolist()
    [[-1, 0, 0], [1, 1, 0], [1, -1, 1], [1, -1, -1]]
    """
    n = len(counts)
    if n < 2:
        raise ValueError(f"A Huffman tree needs two words or more, but there are {n}.")
    heap = [(int(count), i) for i, count in enumerate(counts)]
    heapq.heapify(heap)
    parent, sign = np.zeros(2 * n - 2, np.int64), np.zeros(2 * n - 2, np.int8)
    for fork in range(n, 2 * n - 1):
        (rarest, left), (rare, right) = heapq.heappop(heap), heapq.heappop(heap)
        parent[[left, right]], sign[[left, right]] = fork, (1, -1)
        heapq.heappush(heap, (rarest + rare, fork))
    ways, root = [], 2 * n - 2
    for word in range(n):
        way, place = [], word
        while place != root:
            way.append((parent[place] - n, sign[place]))
            place = parent[place]
        ways.append(way[::-1])
    longest = max(map(len, ways))
    nodes, signs = np.zeros((n, longest), np.int32), np.zeros((n, longest), np.int8)
    for word, way in enumerate(ways):
        nodes[word, : len(way)], signs[word, : len(way)] = zip(*way, strict=True)
    return Tree(nodes, signs)


def check_numbers(text: Text) -> None:
    """Refuse a text whose numbers are not those of its counts."""
    if text.tokens.size and not (text.tokens.min() >= 0 and text.tokens.max() < len(text.counts)):
        raise ValueError(
            f"There are counts of {len(text.counts)} words, but the text's numbers run from {text.tokens.min()} to "
            f"{text.tokens.max()}; both must come from the same vocabulary."
        )


def batches(
    text: Text, config, tree: Tree | None, seed: int, epoch: int
) -> Iterator[tuple[float, float, dict[str, Any]]]:
    """One pass over the text, thinned anew: a function of (seed, epoch).

    Args:
      text: the words.
      config: as in `minilm.models.word2vec`.
      tree: for hierarchical softmax; None for negative sampling.
    Returns:
      An iterator of (share of the epoch before, share after, arrays of STEPS batches). The last one's end is empty.
    """
    check_numbers(text)
    rng = np.random.default_rng([seed, epoch])
    kept = rng.random(len(text.tokens)) < keep_probability(text.counts, config.subsample)[text.tokens]
    c, t, b = config.window, config.stretch, config.stretches
    length = np.count_nonzero(kept)
    missing = max(-length % (STEPS * b * t), STEPS * b * t if not length else 0)
    around = (c, c + missing)  # so that the first and the last word have a whole window too, of no document
    tokens = np.pad(text.tokens[kept], around).astype(np.int32)
    document = np.pad(text.document[kept], around, constant_values=-1)
    radius = np.pad(rng.integers(1, c + 1, length), around)
    cumulative = np.cumsum(noise_distribution(text.counts))
    distance = np.abs(np.arange(t)[:, None] - (np.arange(t + 2 * c) - c))
    words, neighbours = c + np.arange(STEPS * b * t).reshape(STEPS, b, t), np.arange(t + 2 * c) - c
    for start in range(0, length + missing, STEPS * b * t):
        center = start + words
        context = center[..., :1] + neighbours
        near = (distance <= radius[center][..., None]) & (distance > 0)
        near &= document[center][..., None] == document[context][..., None, :]
        near &= document[center][..., None] >= 0
        output = tokens[center][..., None] if tree is None else tree.nodes[tokens[center]]
        drawn = np.searchsorted(cumulative, rng.random((STEPS, config.shared if tree is None else 0)))
        yield (
            min(1.0, start / max(length, 1)),
            min(1.0, (start + STEPS * b * t) / max(length, 1)),
            {
                "context": tokens[context],
                "near": near,
                "output": output,
                "sign": np.ones(output.shape, np.int8) if tree is None else tree.signs[tokens[center]],
                "noise": np.minimum(drawn, len(cumulative) - 1).astype(np.int32),
                "noise_weight": np.full(STEPS, config.negatives / max(config.shared, 1), np.float32),
            },
        )
