"""Where a tagger and the truth part ways: what F1 counts, to be read one by one."""

from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from minilm.metrics.spans import Span


class Recall(NamedTuple):
    """The share of spans that were found, of those whose text is known and of the others; NaN where there are none."""

    known: float
    unknown: float


class Difference(NamedTuple):
    """From the character `start` on, what two segmentations make of the same stretch of a text."""

    start: int
    true: tuple[str, ...]
    predicted: tuple[str, ...]


def recall_of_known(
    texts: Sequence[str],
    targets: Sequence[Sequence[Span]],
    predictions: Sequence[Sequence[Span]],
    known: Collection[str],
) -> Recall:
    """How many of the true words or names were found, apart for those that are known and for those that are new.

    Args:
      texts: the texts.
      targets: the true spans of each.
      predictions: the predicted ones.
      known: the words, or the names, of the training texts, say.

    >>> from minilm.metrics.spans import word_spans
    >>> recall_of_known(["研究生命"], [word_spans(["研究", "生命"])], [word_spans(["研究", "生", "命"])], {"研究"})
    Recall(known=1.0, unknown=0.0)
    """
    found: dict[bool, list[bool]] = {True: [], False: []}
    for text, true, predicted in zip(texts, targets, predictions, strict=True):
        hits = set(predicted)
        for span in true:
            found[text[span.start : span.stop] in known].append(span in hits)
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
