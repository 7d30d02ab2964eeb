r"""From tags to spans and back, and how many spans are right: named entities, words of a text without spaces.

A tag is a letter for the place within a span, and the span's type: `B-PER I-PER O`. Types may be absent, as in word
segmentation, where every character is in a span: `B M E S`.

| letter   | place                     | in                |
|----------|---------------------------|-------------------|
| `B`      | first of a span           | BIO, BIOES, BMES  |
| `I`, `M` | within it                 | BIO, BIOES; BMES  |
| `E`      | its last                  | BIOES, BMES       |
| `S`      | its only one              | BIOES, BMES       |
| `O`      | outside of every span     | BIO, BIOES        |

A tagger may write what no scheme allows, such as an I after an O. Two rules say what that means: `lenient_spans` reads
as much into it as it can, as CoNLL's script did and seqeval does by default; `bio_spans` and `bioes_spans` take whole
spans only, as seqeval does in its strict mode. On tags that a scheme allows all agree.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from minilm.metrics.classification import Counts, Scores, micro_scores

INSIDE = {"M": "I"}
OUTSIDE = ("O", "")


class Span(NamedTuple):
    """The tokens from start up to, not including, stop; type is "" where spans have none."""

    start: int
    stop: int
    type: str


def lenient_spans(tags: Sequence[str]) -> list[Span]:
    r"""The spans of any tags, of whichever scheme: a span goes on as long as nothing says that another begins.

    One begins at a B or an S, after an O, after an E or an S, and where the type changes; so, at each token i,

    $$ \text{begins}_i = [p_i \ne O] \wedge
       \left([p_i \in \{B, S\}] \vee [p_{i-1} \in \{O, E, S\}] \vee [\tau_i \ne \tau_{i-1}]\right) $$

    and it ends where another begins or an O comes.

    Args:
      tags: p with its type τ, `B-PER` or `B`, in BIO, BIOES or BMES.
    Returns:
      spans, in order.
    Raises:
      ValueError: a tag begins with none of the letters B, I, M, E, S, O.

    >>> lenient_spans(["O", "I-PER", "I-PER", "I-LOC", "B-LOC"])
    [Span(start=1, stop=3, type='PER'), Span(start=3, stop=4, type='LOC'), Span(start=4, stop=5, type='LOC')]
    """
    spans, start, previous = [], 0, OUTSIDE
    for i, (place, type_) in enumerate([*_parsed(tags, "BIMESO"), OUTSIDE]):
        begins = place != "O" and (place in "BS" or previous[0] in "OES" or type_ != previous[1])
        if previous[0] != "O" and (begins or place == "O"):
            spans.append(Span(start, i, previous[1]))
        start = i if begins else start
        previous = place, type_
    return spans


def bio_spans(tags: Sequence[str]) -> list[Span]:
    """The spans that BIO tags spell in full: a B, then as many I of its type as follow. Any other I is in no span.

    This is seqeval's strict mode with its scheme IOB2, another name of BIO.

    Raises:
      ValueError: a tag begins with none of the letters B, I, O.

    >>> bio_spans(["I-PER", "B-PER", "I-PER", "I-LOC"])
    [Span(start=1, stop=3, type='PER')]
    """
    parsed = _parsed(tags, "BIO")
    starts = [i for i, (place, _) in enumerate(parsed) if place == "B"]
    return [Span(start, _inside_until(parsed, start), parsed[start][1]) for start in starts]


def bioes_spans(tags: Sequence[str]) -> list[Span]:
    """The spans that BIOES or BMES tags spell in full: an S, or a B, any number of I, and an E, all of one type.

    This is seqeval's strict mode with its scheme IOBES.

    Raises:
      ValueError: a tag begins with none of the letters B, I, M, E, S, O.

    >>> bioes_spans(["B-PER", "E-PER", "S-LOC", "B-LOC", "I-LOC"])
    [Span(start=0, stop=2, type='PER'), Span(start=2, stop=3, type='LOC')]
    """
    parsed = [*_parsed(tags, "BIMESO"), OUTSIDE]
    spans = []
    for start, (place, type_) in enumerate(parsed):
        if place == "S":
            spans.append(Span(start, start + 1, type_))
        elif place == "B" and parsed[end := _inside_until(parsed, start)] == ("E", type_):
            spans.append(Span(start, end + 1, type_))
    return spans


def bio_tags(spans: Iterable[Span], length: int) -> list[str]:
    """The tags that `bio_spans` reads back, for a sequence of so many tokens.

    Raises:
      ValueError: spans are empty, overlap, or reach beyond the sequence.

    >>> bio_tags([Span(1, 3, "PER"), Span(3, 4, "LOC")], length=5)
    ['O', 'B-PER', 'I-PER', 'B-LOC', 'O']
    """
    return _written(spans, length, lambda size: "B" + "I" * (size - 1))


def bioes_tags(spans: Iterable[Span], length: int) -> list[str]:
    """The tags that `bioes_spans` reads back, for a sequence of so many tokens.

    Raises:
      ValueError: spans are empty, overlap, or reach beyond the sequence.

    >>> bioes_tags([Span(0, 3, "PER"), Span(3, 4, "LOC")], length=5)
    ['B-PER', 'I-PER', 'E-PER', 'S-LOC', 'O']
    """
    return _written(spans, length, lambda size: "S" if size == 1 else "B" + "I" * (size - 2) + "E")


def word_spans(words: Iterable[str]) -> list[Span]:
    """Where words stand in the text that they make up, character by character.

    >>> word_spans(["中国", "人"])
    [Span(start=0, stop=2, type=''), Span(start=2, stop=3, type='')]
    """
    ends = np.cumsum([0, *map(len, words)]).tolist()
    return [Span(start, stop, "") for start, stop in pairwise(ends)]


def span_counts(targets: Sequence[Iterable[Span]], predictions: Sequence[Iterable[Span]]) -> tuple[list[str], Counts]:
    r"""How many spans are right, in a corpus: one is, if a true span has the same start, stop and type.

    $$ \text{correct}_\tau = \sum_k |Y_k^\tau \cap \hat Y_k^\tau|, \qquad
       \text{predicted}_\tau = \sum_k |\hat Y_k^\tau|, \qquad \text{actual}_\tau = \sum_k |Y_k^\tau| $$

    Args:
      targets: Y, the true spans of each sequence.
      predictions: Ŷ, the predicted ones.
    Returns:
      `(types, counts)`: the types that occur anywhere, sorted, and the counts of each, for the scores of
      `minilm.metrics.classification`.
    Raises:
      ValueError: the two are not of equally many sequences.

    >>> span_counts([[Span(0, 2, "PER"), Span(4, 5, "LOC")]], [[Span(0, 2, "PER"), Span(3, 5, "LOC")]])
    (['LOC', 'PER'], Counts(correct=array([0, 1]), predicted=array([1, 1]), actual=array([1, 1])))
    """
    if len(targets) != len(predictions):
        raise ValueError(
            f"expected the spans of equally many sequences, got {len(targets)} of targets and {len(predictions)} of "
            "predictions: give an empty list to a sequence without spans."
        )
    actual = {(k, span) for k, spans in enumerate(targets) for span in spans}
    predicted = {(k, span) for k, spans in enumerate(predictions) for span in spans}
    types = sorted({span.type for _, span in actual | predicted})

    def count(found):
        return np.array([sum(span.type == type_ for _, span in found) for type_ in types], np.int64)

    return types, Counts(correct=count(actual & predicted), predicted=count(predicted), actual=count(actual))


def entity_scores(
    targets: Sequence[Sequence[str]],
    predictions: Sequence[Sequence[str]],
    spans: Callable[[Sequence[str]], list[Span]] = lenient_spans,
) -> Scores:
    """Precision, recall and F1 over all entities of a corpus, from tags: the figure that CoNLL's tables give.

    Args:
      targets: the true tags of each sequence.
      predictions: the predicted ones.
      spans: what tags mean: `lenient_spans`, `bio_spans` or `bioes_spans`.
    Raises:
      ValueError: a sequence has not as many predicted tags as true ones, or as `spans` raises it.

    >>> entity_scores([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "B-PER"]])
    Scores(precision=0.5, recall=0.5, f1=0.5, support=2)
    """
    for k, (true, predicted) in enumerate(zip(targets, predictions, strict=False)):
        if len(true) != len(predicted):
            raise ValueError(
                f"expected a predicted tag for each true one, got {len(predicted)} for {len(true)} in sequence {k}: "
                "cut the padding off both."
            )
    _, counts = span_counts([spans(tags) for tags in targets], [spans(tags) for tags in predictions])
    return micro_scores(counts)


def segmentation_scores(targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> Scores:
    """Precision, recall and F1 of a word segmentation: a word is right if it begins and ends where a true one does.

    Args:
      targets: the true words of each text.
      predictions: the predicted ones, of the same texts.
    Raises:
      ValueError: the words of the two do not make up the same texts.

    >>> segmentation_scores([["中国", "人", "民"]], [["中国", "人民"]])
    Scores(precision=0.5, recall=0.3333333333333333, f1=0.4, support=3)
    """
    for true, predicted in zip(targets, predictions, strict=False):
        if "".join(true) != "".join(predicted):
            raise ValueError(
                f"expected two segmentations of one text, got {' '.join(true)!r} and {' '.join(predicted)!r}: "
                "a segmenter must give back every character."
            )
    _, counts = span_counts([word_spans(words) for words in targets], [word_spans(words) for words in predictions])
    return micro_scores(counts)


def _parsed(tags, letters):
    """Each tag's place, M being another I, and its type."""
    parsed = []
    for i, tag in enumerate(tags):
        place, type_ = tag[:1], tag[1:].removeprefix("-")
        if not place or place not in letters:
            raise ValueError(
                f"expected tags that begin with one of {', '.join(letters)}, got {tag!r} at position {i}: "
                "rename the tags, or read them by another scheme."
            )
        parsed.append(OUTSIDE if place == "O" else (INSIDE.get(place, place), type_))
    return parsed


def _inside_until(parsed, start):
    """Where the I of the span that begins at start end."""
    stop = start + 1
    while stop < len(parsed) and parsed[stop] == ("I", parsed[start][1]):
        stop += 1
    return stop


def _written(spans, length, places):
    tags, free_from = ["O"] * length, 0
    for start, stop, type_ in sorted(spans):
        if not free_from <= start < stop <= length:
            raise ValueError(
                f"expected spans that hold a token, do not overlap and end by {length}, got one from {start} to {stop} "
                f"where {free_from} was the first token free: choose among overlapping spans before."
            )
        letters = places(stop - start)
        tags[start:stop] = [f"{letter}-{type_}" if type_ else letter for letter in letters]
        free_from = stop
    return tags
