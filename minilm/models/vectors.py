r"""What is done with finished word vectors: neighbours, analogies, similarity as people judge it, and files.

cos(a, b) = a · b / (|a| |b|)          b − a + c ≈ d: what is to c as b is to a?
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Vectors(NamedTuple):
    """Words, the frequent ones first, and a unit vector for each in the rows of `unit`, `(n, d)`."""

    words: list[str]
    index: dict[str, int]
    unit: np.ndarray

    def __getitem__(self, word: str) -> np.ndarray:  # type: ignore[override]
        """The unit vector of a word."""
        return self.unit[_place(self, word)]


def make(words: Sequence[str], rows: np.ndarray) -> Vectors:
    """Vectors from words and one row for each, of any length: what follows compares directions only.

    >>> make(["north", "east"], np.array([[0.0, 2.0], [5.0, 0.0]]))["east"].tolist()
    [1.0, 0.0]
    """
    words, rows = list(words), np.asarray(rows)
    if rows.ndim != 2 or len(words) != len(rows):
        raise ValueError(f"Each of {len(words)} words needs one row of numbers, but the array is {rows.shape}.")
    index = {word: i for i, word in enumerate(words)}
    if len(index) < len(words):
        raise ValueError(f"{len(words) - len(index)} words stand twice; each may have one vector.")
    if not (finite := np.isfinite(rows).all(1)).all():
        raise ValueError(f"The row of {words[int(np.argmin(finite))]!r} holds numbers that are not finite.")
    length = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return Vectors(words, index, (rows / np.where(length == 0, 1, length)).astype(np.result_type(rows, np.float32)))


def nearest(vectors: Vectors, word: str | np.ndarray, count: int = 10) -> list[tuple[str, float]]:
    """The words whose vectors point most nearly as a word's (or a given vector), each with its cosine; not itself.

    >>> nearest(make(["a", "b", "c"], np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])), "a", 1)
    [('b', 0.6)]
    """
    if isinstance(word, str):
        own = _place(vectors, word)
        cosine = vectors.unit @ vectors.unit[own]
        cosine[own] = -np.inf
    else:
        cosine = vectors.unit @ (word / np.linalg.norm(word))
    best = np.argsort(-cosine, kind="stable")[: min(count, np.isfinite(cosine).sum())]
    return [(vectors.words[i], float(cosine[i])) for i in best]


def scores_by_sum(vectors: Vectors, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    r"""How well each word d answers "a is to b as c is to d": 3CosAdd, one row a question, `(q, n)`.

    $$ \cos(d, b) - \cos(d, a) + \cos(d, c) $$

    Args:
      vectors: n words.
      a, b, c: numbers of words, `(q,)` each.

    Paper: Mikolov, Yih and Zweig (2013).
    """
    return (vectors.unit[b] - vectors.unit[a] + vectors.unit[c]) @ vectors.unit.T


def scores_by_product(vectors: Vectors, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    r"""The same by 3CosMul, in which no large one of the three cosines drowns the others.

    $$ \frac{\cos(d, b)\, \cos(d, c)}{\cos(d, a) + \epsilon}, \qquad \text{each cosine moved to } [0, 1] $$

    Args: as `scores_by_sum`. Paper: Levy and Goldberg (2014), with ε = 0.001 as there.
    """
    to_a, to_b, to_c = ((1 + vectors.unit[w] @ vectors.unit.T) / 2 for w in (a, b, c))
    return to_b * to_c / (to_a + 0.001)


def analogy(vectors: Vectors, a: str, b: str, c: str, count: int = 1, scores=scores_by_sum) -> list[str]:
    """What is to c as b is to a: the best words that are none of the three.

    >>> square = make(["man", "king", "woman", "queen"], np.array([[1.0, 0, 1], [1, 1, 1], [1, 0, -1], [1, 1, -1]]))
    >>> analogy(square, "man", "king", "woman")
    ['queen']
    """
    asked = np.array([[_place(vectors, word)] for word in (a, b, c)])
    score = scores(vectors, *asked)[0]
    score[asked[:, 0]] = -np.inf
    best = np.argsort(-score, kind="stable")[: min(count, np.isfinite(score).sum())]
    return [vectors.words[i] for i in best]


# ── held against people ──────────────────────────────────────────────────────────────────────────────────────────────


class Score(NamedTuple):
    """A figure, and how many of the questions it is over: those all of whose words have vectors."""

    value: float
    answered: int
    asked: int


def analogy_accuracy(vectors: Vectors, questions: Sequence[Sequence[str]], scores=scores_by_sum) -> Score:
    """The share of questions (a, b, c, d) whose best answer is d, of those whose four words are known.

    Args:
      vectors: what is asked. Every word of it may be an answer, but for the three of the question.
      questions: four words each; written as the vectors write them (`read_analogies` gives lower case).
    """
    known = [[vectors.index[word] for word in four] for four in questions if all(w in vectors.index for w in four)]
    right = 0
    for start in range(0, len(known), 256):
        a, b, c, d = np.array(known[start : start + 256]).T
        score, rows = scores(vectors, a, b, c), np.arange(len(a))
        for word in (a, b, c):
            score[rows, word] = -np.inf
        right += int(np.sum(score.argmax(1) == d))
    return Score(right / max(len(known), 1), len(known), len(questions))


def similarity_correlation(vectors: Vectors, pairs: Sequence[tuple[str, str, float]]) -> Score:
    r"""Spearman's ρ between the cosine of two words and what people said of their similarity.

    $$ \rho = \text{the correlation of the ranks, ties sharing their mean rank} $$

    Args:
      vectors: what is asked.
      pairs: two words and a judgement each; those with a word that has no vector are left out.

    >>> v = make(["a", "b", "c"], np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]))
    >>> similarity_correlation(v, [("a", "b", 9.0), ("b", "c", 4.0), ("a", "c", 1.0), ("a", "z", 1.0)])
    Score(value=1.0, answered=3, asked=4)
    """
    known = [(vectors.index[a], vectors.index[b], x) for a, b, x in pairs if a in vectors.index and b in vectors.index]
    if len(known) < 2:
        raise ValueError(f"Of {len(pairs)} pairs {len(known)} are known; a correlation needs two or more.")
    a, b, judged = (np.array(column) for column in zip(*known, strict=True))
    cosine = np.sum(vectors.unit[a] * vectors.unit[b], 1)
    rho = np.corrcoef(_ranks(cosine), _ranks(judged))[0, 1]
    return Score(round(float(rho), 12), len(known), len(pairs))


def _ranks(values):
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) - (sizes - 1) / 2)[group]


def read_analogies(path: str | Path) -> list[list[str]]:
    """The questions of `questions-words.txt`, in lower case; lines that begin with a colon name a section."""
    lines = Path(path).read_text("utf-8").splitlines()
    return [line.lower().split() for line in lines if line.strip() and not line.startswith(":")]


def read_similarities(path: str | Path) -> list[tuple[str, str, float]]:
    """The pairs of `wordsim353.tsv`, in lower case: two words and a number, between tabs, comments aside."""
    rows = [line.lower().split("\t") for line in Path(path).read_text("utf-8").splitlines() if not line.startswith("#")]
    return [(row[0], row[1], float(row[2])) for row in rows if len(row) >= 3]


def neighbours_in_group(vectors: Vectors, groups: Mapping[str, Sequence[str]]) -> Score:
    """The share of words whose nearest, of all the groups' other words, is of their own group.

    >>> v = make(["a", "b", "x", "y"], np.array([[2.0, 0.0], [3.0, 0.1], [0.0, 1.0], [0.1, 2.0]]))
    >>> neighbours_in_group(v, {"letters": ["a", "b"], "unknowns": ["x", "y", "z"]})
    Score(value=1.0, answered=4, asked=5)
    """
    group, words = _of_groups(vectors, groups)
    rows = vectors.unit[[vectors.index[word] for word in words]]
    nearest = (rows @ rows.T - 2 * np.eye(len(rows))).argmax(1)
    right = np.array(group)[nearest] == group
    return Score(float(right.mean()), len(words), sum(map(len, groups.values())))


def draw_groups(vectors: Vectors, groups: Mapping[str, Sequence[str]], path: str | Path, title: str = "") -> None:
    """Draw the words of the groups along the two directions in which they differ most (principal components)."""
    import matplotlib.pyplot as plt

    group, words = _of_groups(vectors, groups)
    rows = vectors.unit[[vectors.index[word] for word in words]]
    _, _, directions = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    places = (rows - rows.mean(0)) @ directions[:2].T
    figure, axes = plt.subplots(figsize=(9, 7))
    for name in groups:
        own = [i for i, one in enumerate(group) if one == name]
        (points,) = axes.plot(*places[own].T, "o", label=name, markersize=4)
        for i in own:
            axes.annotate(words[i], places[i], (3, 3), textcoords="offset points", color=points.get_color(), fontsize=9)
    axes.set(xticks=[], yticks=[], title=title)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def _of_groups(vectors, groups):
    """The groups' words that have vectors, and the group of each."""
    known = [(name, word) for name, words in groups.items() for word in words if word in vectors.index]
    if len(known) < 2:
        raise ValueError(f"Of the {sum(map(len, groups.values()))} words of the groups {len(known)} have vectors.")
    return tuple(zip(*known, strict=True))


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def save(path: str | Path, words: Sequence[str], rows: np.ndarray) -> None:
    """Write word2vec's text format: the two sizes, then a word and its numbers on each line, read back without loss."""
    if bad := [word for word in words if not word or word.split() != [word]]:
        raise ValueError(f"The format puts spaces between fields, so {bad[0]!r} cannot be a word.")
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(f"{len(rows)} {rows.shape[1]}\n")
        for word, row in zip(words, rows, strict=True):
            file.write(f"{word} {' '.join(map(str, row.tolist()))}\n")


def load(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Read word2vec's text format, or GloVe's, which has no first line: words and their rows, `(n, d)` in float32."""
    with open(path, encoding="utf-8", newline="\n") as file:
        lines = [line.rstrip("\n ").split(" ") for line in file]
    if lines and len(lines[0]) == 2 and all(size.isdigit() for size in lines[0]):
        promised, d = map(int, lines.pop(0))
        if promised != len(lines):
            raise ValueError(f"{path} promises {promised} words and holds {len(lines)}; is it whole?")
    else:
        d = len(lines[0]) - 1 if lines else 0
    for i, (_, *numbers) in enumerate(lines):
        if len(numbers) != d:
            raise ValueError(f"{path} has {len(numbers)} numbers where {d} were expected, for word {i + 1}.")
    rows = np.empty((len(lines), d), np.float32)
    for i, (_, *numbers) in enumerate(lines):
        rows[i] = numbers
    return [line[0] for line in lines], rows


def _place(vectors, word):
    if word not in vectors.index:
        raise KeyError(f"{word!r} has no vector; it was not among the {len(vectors.words):,} words.")
    return vectors.index[word]
