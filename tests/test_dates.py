"""Dates as they are written: each says what its ISO form says, in a place that has such dates."""

import datetime

import pytest

from minilm.data import dates


def test_generated_dates_say_what_their_iso_form_says():
    found = dates.generated(300, seed=1)
    assert found == dates.generated(300, seed=1) != dates.generated(300, seed=2)
    assert {one.locale for one in found} == {"en", "de", "fr"}
    for text, iso, locale in found:
        date = datetime.date.fromisoformat(iso)
        assert 1900 <= date.year <= 2099
        assert dates.MONTHS[locale].split()[date.month - 1] in text
        assert {str(date.year), str(date.day)} == {
            word.strip(".,") for word in text.split() if word.strip(".,").isdigit()
        }


def test_babel_writes_in_many_languages_and_nothing_in_figures_alone():
    pytest.importorskip("babel")
    found = dates.written(400, seed=1)
    assert len({one.locale.split("_")[0] for one in found}) > 150
    for text, iso, _ in found:
        assert iso[:4] in text
        assert any(letter.isalpha() for letter in text)


def test_without_babel_it_is_said_what_to_install(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(dates.importlib, "import_module", absent)
    with pytest.raises(OSError, match="pip install babel"):
        dates.written(1)
