"""Pictures hold the numbers, each under its names."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from minilm.metrics.drawing import draw_alignment, draw_confusion, draw_weights


def test_a_confusion_matrix_is_drawn_with_every_count_under_its_names():
    figure, axes = plt.subplots()
    draw_confusion(axes, np.array([[1200, 3], [0, 0]]), ["O", "PER"])
    assert sorted(text.get_text() for text in axes.texts) == ["0", "0", "1,200", "3"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["O", "PER"]
    with pytest.raises(ValueError, match="each of 1 classes"):
        draw_confusion(axes, np.zeros((2, 2)), ["O"])
    plt.close(figure)


def test_an_alignment_is_drawn_with_what_was_read_across_and_what_was_written_down():
    figure, axes = plt.subplots()
    weights = np.array([[0.9, 0.1, 0.0], [0.0, 0.2, 0.8]])
    draw_alignment(axes, weights, "two", ["T", "UW"])
    (image,) = axes.images
    assert (image.get_array() == weights).all()
    assert image.get_clim() == (0, 1)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["t", "w", "o"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["T", "UW"]
    assert axes.yaxis_inverted(), "the first that was written stands above"
    with pytest.raises(ValueError, match=r"each of 3 tokens written and a column for each of 2 read.*\(2, 3\)"):
        draw_alignment(axes, weights, "ab", "abc")
    plt.close(figure)


def test_words_are_drawn_in_lines_on_grounds_as_dark_as_their_weights():
    figure, axes = plt.subplots()
    words = ["word"] * 20 + ["last"]
    draw_weights(axes, words, np.array([1.0] * 20 + [2.0]), "positive")
    places = [text.get_position() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == words
    assert places[0] == (0, 0)
    assert places[18] == (0, -1), "after eighteen words of four letters and two of room the next line begins"
    assert all(x + 4 <= 112 for x, _ in places)
    darkness = [text.get_bbox_patch().get_facecolor()[3] for text in axes.texts]
    np.testing.assert_allclose(darkness, [0.45] * 20 + [0.9])
    assert axes.get_title("left") == "positive"
    draw_weights(axes, ["naïve", "中文", "end"], np.ones(3))
    assert [text.get_position()[0] for text in axes.texts[-3:]] == [0, 7, 13], "a letter of Chinese has the room of two"
    assert [text.get_fontfamily() == ["monospace"] for text in axes.texts[-3:]] == [True, False, True]
    with pytest.raises(ValueError, match=r"each of 2 tokens, got weights of \(3,\)"):
        draw_weights(axes, ["a", "b"], np.ones(3))
    plt.close(figure)
