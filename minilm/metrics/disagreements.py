"""Where a tagger and the truth part ways: what F1 counts, to be read one by one."""

from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from minilm.metrics.spans import Span, word_spans


class Recall(NamedTuple):
    """The share of words that were found, of those in a dictionary and of the others; NaN where there are none."""

    known: float
    unknown: float


class Difference(NamedTuple):
    """From the character `start` on, what two segmentations make of the same stretch of a text."""

    start: int
    true: tuple[str, ...]
    predicted: tuple[str, ...]


def word_recall(
    targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]], dictionary: Collection[str]
) -> Recall:
    """How many of the true words were found, apart for those of a dictionary and for those that no dictionary gave.

    Args:
      targets: the true words of each text.
      predictions: the predicted ones, of the same texts.
      dictionary: the known words; those of the training texts, say.

    >>> word_recall([["研究", "生命", "起源"]], [["研究", "生命", "起", "源"]], {"研究", "生命"})
    Recall(known=1.0, unknown=0.0)
    """
    found: dict[bool, list[bool]] = {True: [], False: []}
    for true, predicted in zip(targets, predictions, strict=True):
        spans = set(word_spans(predicted))
        for word, span in zip(true, word_spans(true), strict=True):
            found[word in dictionary].append(span in spans)
    return Recall(*(float(np.mean(found[which])) if found[which] else np.nan for which in (True, False)))


def differences(true: Sequence[str], predicted: Sequence[str]) -> Iterator[Difference]:
    """The stretches between borders that both have, where they have others besides; in order, none longer than need be.

    Raises:
      ValueError: the words of the two do not make up the same text.

    >>> list(differences(["他", "研究", "生命"], ["他", "研究生", "命"]))
    [Difference(start=1, true=('研究', '生命'), predicted=('研究生', '命'))]
    """
    text = "".join(true)
    if text != "".join(predicted):
        raise ValueError(
            f"expected two segmentations of one text, got {' '.join(true)!r} and {' '.join(predicted)!r}: a segmenter "
            "must give back every character."
        )
    borders = [{0, *accumulate(map(len, words))} for words in (true, predicted)]
    for start, stop in pairwise(sorted(borders[0] & borders[1])):
        cuts = [sorted(border for border in of_one if start <= border <= stop) for of_one in borders]
        if cuts[0] != cuts[1]:
            yield Difference(start, *(tuple(text[a:b] for a, b in pairwise(cut)) for cut in cuts))


def entity_mistakes(true: Sequence[Span], predicted: Sequence[Span]) -> Iterator[tuple[str, Span | None, Span | None]]:
    """What became of each entity that is not right: `(kind, true, predicted)`, one of them None where there is none.

    The kinds: `other type`, of the same tokens; `other borders`, where something that overlaps was predicted; `missed`,
    where nothing was; and `invented`, what was predicted where no entity is.

    >>> list(entity_mistakes([Span(0, 3, "PER")], [Span(0, 2, "PER"), Span(4, 6, "LOC")]))
    [('other borders', Span(start=0, stop=3, type='PER'), Span(start=0, stop=2, type='PER')),
     ('invented', None, Span(start=4, stop=6, type='LOC'))]
    """
    for span in (span for span in true if span not in predicted):
        near = [other for other in predicted if _overlap(span, other)]
        same = [other for other in near if other[:2] == span[:2]]
        kind = "other type" if same else "other borders" if near else "missed"
        yield kind, span, next(iter(same or near), None)
    for span in predicted:
        if not any(_overlap(span, other) for other in true):
            yield "invented", None, span


def _overlap(a, b):
    return a.start < b.stop and b.start < a.stop
