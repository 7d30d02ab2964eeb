r"""Phrases: words that come together more often than chance become one, so that "new york" is not new and York.

$$ \text{score}(a, b) = \frac{c(a b) - \delta}{c(a)\, c(b)}\, N $$

The discount δ keeps pairs of rare words from being phrases by accident. N, the number of different words and pairs,
is gensim's: it grows with the text, if not as fast as the counts do; the paper leaves it out. One pass joins two
words; the next may join what the first has joined, to phrases of up to four. Paper: arXiv:1310.4546, section 4.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

Phrases = dict[tuple[str, str], float]


def find(texts: Iterable[Sequence[str]], discount: float = 5.0, threshold: float = 10.0) -> Phrases:
    """The pairs of neighbouring words that score above a threshold, each with its score.

    Args:
      texts: words in order, one sequence a text.
      discount: δ. A pair must come more often than this.
      threshold: the larger, the fewer phrases.

    >>> find([["new", "york", "is", "new"], ["in", "new", "york"]], discount=1.0, threshold=1.0)
    {('new', 'york'): 1.3333333333333333}
    """
    words, pairs = Counter(), Counter()
    for text in texts:
        words.update(text)
        pairs.update(pairwise(text))
    n = len(words) + len(pairs)
    scored = {pair: (c - discount) / (words[pair[0]] * words[pair[1]]) * n for pair, c in pairs.items() if c > discount}
    return {pair: score for pair, score in scored.items() if score > threshold}


def join(text: Sequence[str], phrases: Phrases, by: str = "_") -> list[str]:
    """The text with its phrases written as one word, from left to right.

    >>> join(["in", "new", "york", "now"], {("new", "york"): 1.5})
    ['in', 'new_york', 'now']
    """
    joined, i = [], 0
    while i < len(text):
        together = tuple(text[i : i + 2]) in phrases
        joined.append(by.join(text[i : i + 2]) if together else text[i])
        i += 2 if together else 1
    return joined


def passes(
    texts: Sequence[Sequence[str]], n: int = 2, discount: float = 5.0, threshold: float = 10.0
) -> list[list[str]]:
    """The texts with phrases joined n times over, each pass at half the threshold of the one before.

    >>> passes([["a", "b", "c"]] * 3 + [["b"], ["x"]], n=2, discount=1.0, threshold=0.5)[0]
    ['a_b_c']
    """
    texts = [list(text) for text in texts]
    for i in range(n):
        found = find(texts, discount, threshold / 2**i)
        texts = [join(text, found) for text in texts]
    return texts
