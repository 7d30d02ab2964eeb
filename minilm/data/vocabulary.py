r"""The words of a corpus with their frequencies, and the law that these follow.

Zipf's law: the word of rank r occurs in proportion to 1 / r^s, with s near 1: 1.00 in Python's documentation, 1.02 in
Shakespeare, 1.00 in a month of the People's Daily. More than a third of the different words occur once. So the thousand
most frequent cover four fifths of a text, and all that are left out are one word, unknown.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

UNKNOWN = "<unk>"


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Words numbered from the most frequent; number 0 is the unknown word.

    words:  each word once: the unknown, the special ones, then by falling count, and by code point where counts agree.
    counts: (n,) int64, how often each occurred; the unknown's is that of all words left out.
    """

    words: tuple[str, ...]
    counts: np.ndarray

    def __post_init__(self):
        if not self.words or len(self.words) != len(self.counts) or len(set(self.words)) != len(self.words):
            raise ValueError(
                f"A vocabulary needs its words, each once, and a count for each; here are {len(self.words)} words, "
                f"{len(set(self.words))} of them different, and {len(self.counts)} counts."
            )

    @classmethod
    def count(
        cls,
        texts: Iterable[Iterable[str]],
        size: int | None = None,
        min_count: int = 1,
        special: tuple[str, ...] = (),
        unknown: str = UNKNOWN,
    ) -> "Vocabulary":
        """The vocabulary of texts that are already cut into words.

        Args:
          texts: each a sequence of words.
          size: at most so many words, the unknown and the special ones included; the most frequent stay.
          min_count: words that occur less often are left out.
          special: words that are always there, numbered from 1: padding, the start and end of a text.
          unknown: what stands for a word that is not there; where the texts hold it, it is counted as such.

        >>> vocabulary = Vocabulary.count([["to", "be", "or"], ["not", "to", "be"]], min_count=2)
        >>> vocabulary.words, vocabulary.counts.tolist()
        (('<unk>', 'be', 'to'), [2, 2, 2])
        """
        fixed = (unknown, *special)
        if size is not None and size < len(fixed):
            raise ValueError(
                f"A vocabulary of size {size} has no room for {', '.join(fixed)}: give {len(fixed)} or more."
            )
        if len(set(fixed)) < len(fixed):
            raise ValueError(f"The unknown and the special words must differ from each other, but are {fixed}.")
        counted = Counter[str]()
        for text in texts:
            if isinstance(text, str):
                raise TypeError(
                    f"Each text must be a sequence of words, and here is a string, {text[:20]!r}: cut it first, with "
                    "minilm.data.words.words or list."
                )
            counted.update(text)
        total = counted.total()
        known = [(word, counted.pop(word, 0)) for word in fixed]
        ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        room = None if size is None else size - len(fixed)
        known += [item for item in ranked if item[1] >= min_count][:room]
        counts = np.array([count for _, count in known], np.int64)
        counts[0] = total - counts[1:].sum()
        return cls(tuple(word for word, _ in known), counts)

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def number(self) -> dict[str, int]:
        """The number of each word."""
        return {word: i for i, word in enumerate(self.words)}

    @property
    def coverage(self) -> float:
        """The share of the running text whose words are known."""
        total = max(1, self.counts.sum())
        return float((total - self.counts[0]) / total)

    def encode(self, words: Iterable[str]) -> np.ndarray:
        """`(t,)` int32, the number of each word, 0 for an unknown one.

        >>> Vocabulary.count([["to", "be"]]).encode(["be", "or", "to"]).tolist()
        [1, 0, 2]
        """
        if isinstance(words, str):
            raise TypeError(f"To encode, give a sequence of words, and not a string, {words[:20]!r}: cut it first.")
        return np.fromiter((self.number.get(word, 0) for word in words), np.int32)

    def decode(self, numbers: np.ndarray | Iterable[int]) -> list[str]:
        """The words of these numbers."""
        numbers = [int(i) for i in numbers]
        for i in numbers:
            if not 0 <= i < len(self.words):
                raise ValueError(f"There is no word {i}: the vocabulary's {len(self.words)} words are numbered from 0.")
        return [self.words[i] for i in numbers]

    def save(self, path: str | Path) -> None:
        """Write it as JSON, at once: a reader sees the old file or the new one."""
        aside = Path(f"{path}.partial")
        contents = {"words": self.words, "counts": self.counts.tolist()}
        aside.write_text(json.dumps(contents, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(aside, path)

    @classmethod
    def load(cls, path: str | Path) -> "Vocabulary":
        """Read what `save` wrote; refuse, in a sentence, what it did not."""
        try:
            contents = json.loads(Path(path).read_text(encoding="utf-8"))
            words, counts = contents["words"], contents["counts"]
            fit = all(isinstance(word, str) for word in words) and all(type(c) is int and c >= 0 for c in counts)
            if fit:
                return cls(tuple(words), np.array(counts, np.int64))
        except FileNotFoundError:
            raise FileNotFoundError(f"There is no vocabulary at {path}: `Vocabulary.save` writes one.") from None
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"{path} is no vocabulary as `Vocabulary.save` writes it: {error!r}.") from None
        raise ValueError(f"{path} is no vocabulary: its words must be strings and its counts whole numbers from 0 on.")


# ── Zipf's law ───────────────────────────────────────────────────────────────────────────────────────────────────────


def rank_frequency(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks from 1, and the counts that are not zero in falling order: a line where both axes are logarithmic.

    >>> rank_frequency(np.array([2, 0, 7, 3]))
    (array([1, 2, 3]), array([7, 3, 2]))
    """
    frequency = np.sort(counts[counts > 0])[::-1]
    return np.arange(1, len(frequency) + 1), frequency


def zipf_exponent(counts: np.ndarray) -> float:
    r"""The exponent s of Zipf's law for which the text is likeliest.

    $$ p(r) = \frac{r^{-s}}{\sum_{q=1}^n q^{-s}}, \qquad \frac{\partial}{\partial s} \sum_r f_r \ln p(r) = 0
       \iff \sum_r p(r) \ln r = \frac{\sum_r f_r \ln r}{\sum_r f_r} $$

    The left side falls as s grows, so s is found by halving an interval. A straight line through the logarithms
    (least squares) is the usual way, and a worse one: it gives each *word* the same weight, so that the thousands that
    occur once or twice, steps in the tail whose ranks are arbitrary, outvote the words that make up the text (it finds
    1.48 in Shakespeare). Here each *occurrence* has the same weight. (Clauset, Shalizi and Newman, 2009,
    arXiv:0706.1062.) The ranks end at n, so s may lie below 1.

    Args:
      counts: `(n,)`, in any order; zeros are no words.
    Returns:
      s from 0, where all words are equally frequent, to 64, where there is hardly more than one.

    >>> round(zipf_exponent(1e6 / np.arange(1, 1001) ** 1.1), 6)
    1.1
    """
    rank, frequency = rank_frequency(np.asarray(counts, np.float64))
    if len(rank) < 2:
        raise ValueError(f"Zipf's law compares words, and there are {len(rank)} here that occur: give at least two.")
    log_rank = np.log(rank)
    mean = frequency @ log_rank / frequency.sum()
    low, high = 0.0, 64.0
    for _ in range(60):
        s = (low + high) / 2
        weight = np.exp(-s * log_rank)
        if weight @ log_rank > mean * weight.sum():
            low = s
        else:
            high = s
    return (low + high) / 2


def draw_zipf(texts: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Draw the counts of each text's words over their ranks, both axes logarithmic, with the line of Zipf's law.

    Args:
      texts: from a name to the counts of its words, as `zipf_exponent` takes them.
      path: where to, as an image.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4.5))
    for name, counts in texts.items():
        rank, frequency = rank_frequency(counts)
        s = zipf_exponent(counts)
        (points,) = axes.plot(rank, frequency, ".", markersize=3, label=f"{name}, s = {s:.2f}")
        law = rank**-s * frequency.sum() / (rank**-s).sum()
        axes.plot(rank, law, "--", color=points.get_color(), linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="rank of a word", ylabel="how often it occurs")
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
