r"""How far one sequence is from another: edit distance with its alignment, error rates of words, phonemes, characters.

A sequence is a string, a list of words, an array of ids; its elements are what can be a dictionary's keys.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

Row = Sequence | np.ndarray


class Edits(NamedTuple):
    """How a hypothesis came from its reference: what was kept, replaced, added, left out."""

    matches: int
    substitutions: int
    insertions: int
    deletions: int


def edit_distance(reference: Row, hypothesis: Row) -> int:
    r"""The fewest insertions, deletions and substitutions that turn one sequence into the other (Levenshtein, 1966).

    $$ D_{ij} = \min\left(D_{i-1,j-1} + [r_i \ne h_j],\ D_{i-1,j} + 1,\ D_{i,j-1} + 1\right), \qquad
       D_{i0} = i, \quad D_{0j} = j $$

    Args:
      reference: r, m elements.
      hypothesis: h, n elements.
    Returns:
      $D_{mn}$, in time and memory m n.

    >>> edit_distance("kitten", "sitting")
    3
    """
    *_, last = _rows(reference, hypothesis)
    return int(last[-1])


def alignment(reference: Row, hypothesis: Row) -> list[tuple[int | None, int | None]]:
    r"""Which element became which, along one cheapest way: pairs of indices, None where one side has nothing.

    It is the way back through the table of `edit_distance`, from $D_{mn}$ to $D_{00}$. Where several ways are as cheap,
    a pair is preferred to a deletion and a deletion to an insertion, looking from the end.

    Args:
      reference: r, m elements.
      hypothesis: h, n elements.
    Returns:
      `(i, j)` where $r_i$ stands opposite $h_j$, equal to it or not; `(i, None)` where $r_i$ was left out;
      `(None, j)` where $h_j$ was added.

    >>> alignment("cart", "cat")
    [(0, 0), (1, 1), (2, None), (3, 2)]
    """
    D = list(_rows(reference, hypothesis))
    pairs, i, j = [], len(reference), len(hypothesis)
    while i or j:
        if i and j and D[i][j] == D[i - 1][j - 1] + (reference[i - 1] != hypothesis[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and D[i][j] == D[i - 1][j] + 1:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1]


def edits(reference: Row, hypothesis: Row) -> Edits:
    """What the alignment counts: substitutions, insertions and deletions add up to the edit distance.

    >>> edits("kitten", "sitting")
    Edits(matches=4, substitutions=2, insertions=1, deletions=0)
    """
    pairs = alignment(reference, hypothesis)
    insertions = sum(i is None for i, _ in pairs)
    deletions = sum(j is None for _, j in pairs)
    matches = sum(i is not None and j is not None and reference[i] == hypothesis[j] for i, j in pairs)
    return Edits(matches, len(pairs) - matches - insertions - deletions, insertions, deletions)


def token_error_rate(references: Sequence[Row], hypotheses: Sequence[Row]) -> float:
    r"""Edits for each token of the references, over a whole corpus; with phonemes as tokens, the phoneme error rate.

    $$ \frac{\sum_k D(r_k, h_k)}{\sum_k |r_k|} $$

    Long sequences weigh more than short ones, and the rate may exceed 1: hypotheses may add without end.

    Args:
      references: r, sequences of tokens.
      hypotheses: h, one for each reference.
    Raises:
      ValueError: they are not equally many, or the references hold no token.

    >>> token_error_rate([["HH", "AH", "L", "OW"], ["K", "AE", "T"]], [["HH", "EH", "L", "OW"], ["K", "AE", "T", "S"]])
    0.2857142857142857
    """
    pairs = _pairs(references, hypotheses)
    tokens = sum(len(reference) for reference, _ in pairs)
    if not tokens:
        raise ValueError("expected references that hold at least one token, got none: an error rate divides by them.")
    return sum(edit_distance(*pair) for pair in pairs) / tokens


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    r"""The token error rate of texts whose tokens are words, parted by white space.

    $$ \text{WER} = \frac{S + D + I}{\text{words of the references}} $$

    Arguments and errors are those of `token_error_rate`, with strings for sequences. (Of single words, such as a
    dictionary's, "word error" mostly means something else: `1 - exact_match(...)` of their phonemes.)

    >>> word_error_rate(["the cat sat"], ["a cat sat down"])
    0.6666666666666666
    """
    return token_error_rate([text.split() for text in references], [text.split() for text in hypotheses])


def character_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    r"""The token error rate of texts whose tokens are characters: Unicode code points, white space among them.

    $$ \text{CER} = \frac{S + D + I}{\text{characters of the references}} $$

    Arguments and errors are those of `token_error_rate`, with strings for sequences.

    >>> character_error_rate(["minilm"], ["minim"])
    0.16666666666666666
    """
    return token_error_rate(references, hypotheses)


def exact_match(references: Sequence[Row], hypotheses: Sequence[Row]) -> float:
    r"""The share of sequences that are right from the first token to the last.

    $$ \frac1n \sum_k [h_k = r_k] $$

    Args:
      references: r, sequences of tokens, or strings.
      hypotheses: h, one for each reference.
    Raises:
      ValueError: they are not equally many, or there is none.

    >>> exact_match(["2024-02-29", "1999-12-31"], ["2024-02-29", "1999-12-13"])
    0.5
    """
    pairs = _pairs(references, hypotheses)
    if not pairs:
        raise ValueError("expected at least one sequence to match, got none: check what was selected.")
    return sum(list(reference) == list(hypothesis) for reference, hypothesis in pairs) / len(pairs)


def closest(references: Sequence[Row], hypothesis: Row) -> Any:
    """Of several right answers, the first that is nearest to the hypothesis: a word may have several pronunciations.

    >>> closest(["tomayto", "tomahto"], "tomato")
    'tomayto'
    """
    if not len(references):
        raise ValueError("expected at least one right answer to choose from, got none: leave such examples out.")
    return min(references, key=lambda reference: edit_distance(reference, hypothesis))


def _rows(reference, hypothesis) -> Iterator[np.ndarray]:
    """The rows of D. A cell's minimum looks at the cell to its left; over a whole row it is a running minimum.

    D_ij = j + min_{k ≤ j} (E_k − k), with the cheaper of the ways from above, E_k = min(D_{i−1,k−1} + [r_i ≠ h_k],
    D_{i−1,k} + 1), and E_0 = i.
    """
    numbers: dict = {}
    h = np.array([numbers.setdefault(token, len(numbers)) for token in hypothesis], np.int64)
    steps = np.arange(len(h) + 1)
    row = steps
    yield row
    for i, token in enumerate(reference, start=1):
        from_above = np.minimum(row[:-1] + (h != numbers.get(token, -1)), row[1:] + 1)
        row = steps + np.minimum.accumulate(np.concatenate([[i], from_above - steps[1:]]))
        yield row


def _pairs(references, hypotheses):
    if len(references) != len(hypotheses):
        raise ValueError(
            f"expected a hypothesis for each reference, got {len(hypotheses)} for {len(references)}: give equally many."
        )
    if isinstance(references, str) or isinstance(hypotheses, str):
        raise ValueError("expected lists of sequences, got one string: put a single pair into lists of one.")
    return list(zip(references, hypotheses, strict=True))
