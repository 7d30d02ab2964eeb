"""Dates as people write them in a thousand places, beside what ISO 8601 makes of them.

What is written in figures alone is left out, for nobody can tell whether 5/9/1987 is in May; so is what does not spell
the year out. Babel knows the places; where it is not installed, `generated` can stand in.
"""

import datetime
import importlib
from typing import NamedTuple

import numpy as np

FORMS = ("medium", "long", "full")
FIRST, LAST = datetime.date(1900, 1, 1).toordinal(), datetime.date(2099, 12, 31).toordinal()


class Written(NamedTuple):
    """A date as it is written in a locale, such as `de_AT`, and as ISO 8601 writes it."""

    text: str
    iso: str
    locale: str


def written(count: int, seed: int = 0, forms: tuple[str, ...] = FORMS) -> list[Written]:
    """Dates from 1900 to 2099, each in a language drawn among all, there in a locale, there in a form.

    Raises:
      OSError: Babel is not installed.
    """
    try:
        babel, localedata = importlib.import_module("babel.dates"), importlib.import_module("babel.localedata")
    except ImportError:
        raise OSError("Dates in all languages come from Babel, which is not installed: pip install babel.") from None
    places: dict[str, list[str]] = {}
    for locale in sorted(localedata.locale_identifiers()):
        places.setdefault(locale.split("_")[0], []).append(locale)

    def write(date, locale, form):
        return babel.format_date(date, form, locale=locale)

    return _draw(count, seed, places, forms, write)


MONTHS = {
    "en": "January February March April May June July August September October November December",
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
}
PATTERNS = {"en": "{month} {day}, {year}", "de": "{day}. {month} {year}", "fr": "{day} {month} {year}"}


def generated(count: int, seed: int = 0) -> list[Written]:
    """Dates in three languages, each in one way.

    >>> generated(1)
    [Written(text='February 15, 2070', iso='2070-02-15', locale='en')]
    """

    def write(date, locale, form):
        month = MONTHS[locale].split()[date.month - 1]
        return PATTERNS[locale].format(month=month, day=date.day, year=date.year)

    return _draw(count, seed, {language: [language] for language in MONTHS}, ("long",), write)


def _draw(count, seed, places, forms, write):
    rng, found, languages = np.random.default_rng(seed), [], sorted(places)
    while len(found) < count:
        date = datetime.date.fromordinal(int(rng.integers(FIRST, LAST + 1)))
        locales = places[languages[rng.integers(len(languages))]]
        locale, form = locales[rng.integers(len(locales))], forms[rng.integers(len(forms))]
        text = write(date, locale, form)
        if str(date.year) in text and any(letter.isalpha() for letter in text):
            found.append(Written(text, date.isoformat(), locale))
    return found
