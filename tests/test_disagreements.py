"""What taggers get wrong: every error stands in one place of the report, and nothing right does."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minilm.metrics.disagreements import Recall, differences, entity_mistakes, recall_of_known
from minilm.metrics.spans import Span, segmentation_scores, span_counts, word_spans

TEXT = "研究生命起源"
borders = st.lists(st.sets(st.integers(1, 5)), min_size=2, max_size=2)


def cut(at):
    return [TEXT[a:b] for a, b in zip([0, *sorted(at)], [*sorted(at), 6], strict=True)]


@given(borders)
def test_differences_put_in_place_make_one_segmentation_of_the_other_and_are_as_short_as_can_be(at):
    true, predicted = map(cut, at)
    patched, place = [], 0
    for start, ours, theirs in differences(true, predicted):
        assert "".join(ours) == "".join(theirs) == TEXT[start : start + len("".join(ours))]
        assert not {span[:2] for span in word_spans(ours)} & {span[:2] for span in word_spans(theirs)}
        assert len(ours) == 1 or len(theirs) == 1 or set(word_spans(ours)).isdisjoint(word_spans(theirs))
        patched += [*_between(true, place, start), *theirs]
        place = start + len("".join(ours))
    assert [*patched, *_between(true, place, 6)] == predicted


def _between(words, start, stop):
    return [word for word, span in zip(words, word_spans(words), strict=True) if start <= span.start < stop]


@given(borders, st.sets(st.sampled_from(["研究", "生命", "研", "起源", "源"])))
def test_the_recall_of_known_and_of_unknown_words_together_is_the_recall(at, dictionary):
    true, predicted = map(cut, at)
    recall = recall_of_known([TEXT], [word_spans(true)], [word_spans(predicted)], dictionary)
    known = sum(word in dictionary for word in true)
    parts = [r * n for r, n in zip(recall, (known, len(true) - known), strict=True) if n]
    assert math.isclose(sum(parts), segmentation_scores([true], [predicted]).recall * len(true))
    assert math.isnan(recall.known) == (known == 0)


def test_a_span_is_known_by_its_text_and_found_only_with_its_type():
    texts, true = ["abc", "a"], [[Span(0, 1, "X"), Span(1, 3, "Y")], [Span(0, 1, "X")]]
    predicted = [[Span(0, 1, "X"), Span(1, 3, "X")], []]
    assert recall_of_known(texts, true, predicted, {"a"}) == Recall(0.5, 0.0)
    assert recall_of_known(texts, true, predicted, {"bc"}) == Recall(0.0, 0.5)


@st.composite
def spans(draw):
    """Of a text of six tokens cut anywhere, the pieces that are of a type."""
    ends = [*sorted(draw(st.sets(st.integers(1, 5)))), 6]
    pieces = zip([0, *ends], ends, strict=False)
    return [Span(a, b, t) for a, b in pieces if (t := draw(st.sampled_from(["PER", "LOC", ""])))]


@given(spans(), spans())
@example([Span(2, 4, "PER")], [Span(0, 2, "PER"), Span(4, 6, "PER")])
def test_each_true_entity_is_right_or_mistaken_in_one_way_and_only_what_overlaps_nothing_is_invented(true, predicted):
    mistakes = list(entity_mistakes(true, predicted))
    _, counts = span_counts([true], [predicted])
    assert [span for _, span, _ in mistakes if span] == [span for span in true if span not in predicted]
    assert len(true) == counts.correct.sum() + sum(span is not None for _, span, _ in mistakes)
    for kind, ours, theirs in mistakes:
        if kind == "other type":
            assert (ours[:2], ours.type == theirs.type) == (theirs[:2], False)
        elif kind == "other borders":
            assert ours[:2] != theirs[:2]
            assert set(range(*ours[:2])) & set(range(*theirs[:2]))
        else:
            here, others = (ours, predicted) if kind == "missed" else (theirs, true)
            assert (ours is None) == (kind == "invented")
            assert (theirs is None) == (kind == "missed")
            assert not any(set(range(*here[:2])) & set(range(*other[:2])) for other in others)


def test_two_texts_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="two segmentations of one text, got 'a b' and 'a c'"):
        list(differences(["a", "b"], ["a", "c"]))
