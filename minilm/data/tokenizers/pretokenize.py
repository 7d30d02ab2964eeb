r"""GPT-2's pre-tokenization: text is cut into words first, and no token crosses a cut.

    's 't 're ...                 an English contraction, or else, with the one space before it,
     ?\p{L}+  ?\p{N}+             letters, numbers,
     ?[^\s\p{L}\p{N}]+            or anything but these,
    \s+(?!\S) \s+                 or white space, of which the last one is left to the word that follows

Letters and numbers are those of Unicode 16.0 whatever the installed `regex` knows, for a tokenizer must give the same
ids next year; the `tokenizers` library stands at that version too.
"""

import re
from collections.abc import Iterator

import regex

PIECE = 1 << 20  # characters cut at a time, so that a long text's words are never all alive at once

# Code points that became letters or numbers after Unicode 16.0, with the unassigned ones between them.
_NEWER = (
    "558 58b-58c 88f c5c cdc 208f 209d-209f a7ce-a7cf a7d2 a7d4 a7dd-a7f1 ab6c-ab6d 107bb-107bf 10940-10959 "
    "10ec5-10eee 11b0a 11db0-11df1 1246f-1247f 12550-12686 16ea0-16ed3 16ff2-16ff6 187f8-187ff 18cd6-18cda "
    "18d09-191d2 1b123-1b128 1b168 1d6a6 1df1f-1df24 1df2b-1dfff 1e6c0-1e6ff 2b73a-2b73f 2b81e 2cea2-2cead "
    "323b0-33479 3d000-3fc3f"
)
NEWER = re.sub(r"(\w+)", lambda point: f"\\U{point[0]:0>8}", _NEWER).replace(" ", "")

GPT2_PATTERN = regex.compile(
    rf"'(?:[sdmt]|ll|ve|re)"
    rf"| ?[\p{{L}}--[{NEWER}]]+"
    rf"| ?[\p{{N}}--[{NEWER}]]+"
    rf"| ?[[^\s\p{{L}}\p{{N}}]||[{NEWER}]]+"
    r"|\s+(?!\S)|\s+",
    regex.V1,
)

# The same cuts where all is ASCII, which the standard library finds twice as fast. Letters come first because they are
# most frequent; an apostrophe alone may start a contraction, so it begins a word of punctuation only after that fails.
_SPACE = r"\t-\r "
_ASCII_PATTERN = re.compile(
    rf" ?(?:[A-Za-z]+|[^{_SPACE}A-Za-z0-9']+[^{_SPACE}A-Za-z0-9]*|[0-9]+)"
    rf"|'(?:[sdmt]|ll|ve|re)"
    rf"| ?[^{_SPACE}A-Za-z0-9]+"
    rf"|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]+"
)

# No word holds white space after something else, so a text may be cut there before it is cut into words.
_SAFE_CUT = re.compile(r"\S(?=[ \n])")


def words(text: str) -> Iterator[list[str]]:
    """The words of a text, in lists of some hundred thousand; joined, they are the text again.

    >>> [word for piece in words("I'm  here.") for word in piece]
    ['I', "'m", ' ', ' here', '.']
    """
    start = 0
    while start < len(text):
        cut = _SAFE_CUT.search(text, start + PIECE)
        piece = text[start : cut.end()] if cut else text[start:]
        yield (_ASCII_PATTERN if piece.isascii() else GPT2_PATTERN).findall(piece)
        start += len(piece)
