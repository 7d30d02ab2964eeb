"""What spans are: those that seqeval reads from any tags, and as many of them right as seqeval counts."""

from itertools import pairwise

import pytest
import seqeval.metrics
import seqeval.scheme
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import metrics
from tests.tolerances import REDUCTION, assert_close

many = settings(max_examples=60)


@st.composite
def corpora(draw, letters):
    """Two taggings of a few sequences, their tags in any order, whether or not a scheme allows it."""
    tags = st.sampled_from([*(f"{letter}-{type_}" for letter in letters for type_ in ("PER", "LOC")), "O", "O"])
    lengths = draw(st.lists(st.integers(0, 8), min_size=1, max_size=3))
    targets, predictions = ([[draw(tags) for _ in range(n)] for n in lengths] for _ in range(2))
    copied = draw(st.integers(0, 2))  # or hardly a span would be right
    return targets, targets[:copied] + predictions[copied:]


READERS = {
    "lenient BIO": ("BI", metrics.lenient_spans, None),
    "lenient BIOES": ("BIES", metrics.lenient_spans, None),
    "BIO": ("BI", metrics.bio_spans, seqeval.scheme.IOB2),
    "BIOES": ("BIES", metrics.bioes_spans, seqeval.scheme.IOBES),
}
every_reader = pytest.mark.parametrize("reader", READERS)


def seqeval_spans(tags, scheme):
    if scheme is None:
        found = seqeval.metrics.sequence_labeling.get_entities(tags)
        return [metrics.Span(start, last + 1, type_) for type_, start, last in found]
    return [
        metrics.Span(entity.start, entity.end, entity.tag) for entity in seqeval.scheme.Tokens(tags, scheme).entities
    ]


def seqeval_scores(targets, predictions, scheme, average):
    if scheme is None:
        module, given = seqeval.metrics.sequence_labeling, {}
    else:
        module, given = seqeval.metrics.v1, {"scheme": scheme}
    return module.precision_recall_fscore_support(targets, predictions, average=average, zero_division=0, **given)


@every_reader
@many
@given(data=st.data())
def test_spans_are_those_that_seqeval_reads(reader, data):
    letters, spans, scheme = READERS[reader]
    for tags in data.draw(corpora(letters))[0]:
        assert spans(tags) == seqeval_spans(tags, scheme)


@every_reader
@many
@given(data=st.data())
def test_entity_scores_are_those_of_seqeval(reader, data):
    letters, spans, scheme = READERS[reader]
    targets, predictions = data.draw(corpora(letters))
    actual, expected = (
        metrics.entity_scores(targets, predictions, spans),
        seqeval_scores(targets, predictions, scheme, "micro"),
    )
    assert actual[:2] == expected[:2]
    assert_close(actual.f1, expected[2], REDUCTION)  # whose formula is 2 P R / (P + R), and whose last bit is another


@every_reader
@many
@given(data=st.data())
def test_scores_of_each_type_are_those_of_seqeval(reader, data):
    letters, spans, scheme = READERS[reader]
    targets, predictions = data.draw(corpora(letters))
    _, counts = metrics.span_counts(*([spans(tags) for tags in side] for side in (targets, predictions)))
    actual = metrics.per_class_scores(counts)
    assert_close(list(actual), list(seqeval_scores(targets, predictions, scheme, None)), REDUCTION)


@st.composite
def spans_of_a_sequence(draw):
    borders = sorted(draw(st.sets(st.integers(0, 12), max_size=7)))
    types = st.sampled_from(["PER", "LOC", ""])
    spans = [metrics.Span(a, b, draw(types)) for a, b in pairwise(borders) if draw(st.booleans())]
    return spans, 12


@many
@given(spans_of_a_sequence())
def test_spans_written_as_tags_are_read_back_by_either_rule(arguments):
    spans, length = arguments
    bio, bioes = metrics.bio_tags(spans, length), metrics.bioes_tags(spans, length)
    bmes = [tag.replace("I", "M", 1) if tag.startswith("I") else tag for tag in bioes]
    assert metrics.bio_spans(bio) == metrics.lenient_spans(bio) == spans
    for tags in (bioes, bmes):
        assert metrics.bioes_spans(tags) == metrics.lenient_spans(tags) == spans
    assert len(bio) == len(bioes) == length


texts = st.lists(st.text("abc", min_size=1, max_size=4), max_size=6)


@given(texts, st.lists(st.integers(1, 4), min_size=1))
def test_a_word_is_right_if_both_its_borders_are(words, sizes):
    text, cut, place = "".join(words), [], 0
    while place < len(text):
        cut.append(text[place : place + sizes[len(cut) % len(sizes)]])
        place += len(cut[-1])

    def borders(words):
        return {(len("".join(words[:i])), len("".join(words[: i + 1]))) for i in range(len(words))}

    right = len(borders(words) & borders(cut))
    scores = metrics.segmentation_scores([words], [cut])
    assert scores.precision == (right / len(cut) if cut else 0)
    assert scores.recall == (right / len(words) if words else 0)
    assert_close(scores.f1, 2 * right / (len(cut) + len(words)) if words else 0, REDUCTION)
    assert metrics.segmentation_scores([words], [words]).f1 == (1 if words else 0)


@given(texts)
def test_words_are_the_spans_of_their_tags(words):
    spans = metrics.word_spans(words)
    assert metrics.lenient_spans(metrics.bioes_tags(spans, len("".join(words)))) == spans
    assert ["".join(words)[start:stop] for start, stop, _ in spans] == words


def test_no_bmes_tag_leaves_a_character_outside_of_a_word():
    for tags in ("MMEB", "EBSM", "BBEE", "SEMI"):
        spans = metrics.lenient_spans(list(tags))
        assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
        assert spans[-1].stop == len(tags)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: metrics.bio_spans(["B-PER", "E-PER"]), "one of B, I, O, got 'E-PER' at position 1"),
        (lambda: metrics.lenient_spans(["O", ""]), "got '' at position 1"),
        (lambda: metrics.lenient_spans(["PER"]), "got 'PER' at position 0"),
        (lambda: metrics.bio_tags([metrics.Span(0, 2, ""), metrics.Span(1, 3, "")], 4), "from 1 to 3 where 2 was"),
        (lambda: metrics.bioes_tags([metrics.Span(2, 5, "")], 4), "end by 4, got one from 2 to 5"),
        (lambda: metrics.bioes_tags([metrics.Span(2, 2, "")], 4), "hold a token"),
        (lambda: metrics.span_counts([[]], []), "got 1 of targets and 0 of predictions"),
        (lambda: metrics.entity_scores([["O"], ["O", "O"]], [["O"], ["O"]]), "got 1 for 2 in sequence 1"),
        (lambda: metrics.entity_scores([["O"]], []), "got 1 of targets and 0 of predictions"),
        (lambda: metrics.segmentation_scores([["ab", "c"]], [["a", "b"]]), "got 'ab c' and 'a b'"),
    ],
)
def test_spans_that_cannot_be_are_refused_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
