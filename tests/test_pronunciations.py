"""The dictionary of pronunciations: what is read is what was written, and who is held out is decided by the word."""

import numpy as np
import pytest

from minilm.data import pronunciations as p
from minilm.data.datasets import DATASETS
from minilm.data.fetch import is_here
from tests.tolerances import SAMPLING


def test_a_line_is_a_word_and_its_phones_without_stress_and_remarks():
    lines = ["tomato T AH0 M EY1 T OW2", "tomato(2) T AH0 M AA1 T OW2 # british", "tomato(3) T AH1 M EY0 T OW0"]
    assert p.parsed(lines) == {"tomato": [("T", "AH", "M", "EY", "T", "OW"), ("T", "AH", "M", "AA", "T", "OW")]}


def test_what_is_no_word_of_letters_is_left_out():
    assert list(p.parsed(["a.m. EY2 EH1 M", "ad-hoc AE D", "'em AH0 M", "3d TH"])) == ["'em"]


def test_ids_are_places_in_the_tables_and_0_is_no_letter_and_no_phone():
    assert len(set(p.LETTERS)) == 28
    assert len(set(p.PHONES)) == 40
    assert [p.LETTERS[i] for i in p.spelled("it's")] == [*"it's"]
    assert [p.PHONES[i] for i in p.spoken(["IH", "T", "S"])] == ["IH", "T", "S"]
    assert 0 not in p.spelled("'abcdefghijklmnopqrstuvwxyz")


def test_generated_words_are_read_by_rule_and_by_seed():
    words = p.generated(300, seed=1)
    assert len(words) == 300
    assert words == p.generated(300, seed=1) != p.generated(300, seed=2)
    for word, [phones] in words.items():
        assert all(p.spelled(word))
        assert all(p.spoken(phones))
        long = {"EY", "IY", "AY", "OW", "UW"} & set(phones)
        assert bool(long) == word.endswith("e"), word
        assert ("sh" in word.replace("ssh", "")) <= ("SH" in phones)


def test_shares_are_even_and_a_words_own():
    shares = np.array([p.share(f"word{i}") for i in range(5000)])
    assert abs((shares < 0.1).mean() - 0.1) < SAMPLING
    assert abs(shares.mean() - 0.5) < SAMPLING
    assert p.share("word7") == shares[7]


@pytest.mark.skipif(not is_here(DATASETS["cmudict"]), reason="the dictionary is not in the cache")
def test_every_word_of_the_dictionary_can_be_spelled_and_spoken():
    words = p.pronunciations()
    assert len(words) == 124_926
    assert {phone for one in words.values() for phones in one for phone in phones} == set(p.PHONES) - {""}
    assert {letter for word in words for letter in word} == set(p.LETTERS) - {""}
    assert words["tomato"] == [("T", "AH", "M", "EY", "T", "OW"), ("T", "AH", "M", "AA", "T", "OW")]


@pytest.mark.parametrize(
    ("number", "strange", "kind"), [(p.spelled, "Café", "letter 'C'"), (p.spoken, ["AH0"], "phone 'AH0'")]
)
def test_what_the_dictionary_has_not_is_refused_in_a_sentence(number, strange, kind):
    with pytest.raises(ValueError, match=f"There is no {kind} in the dictionary; there are"):
        number(strange)
