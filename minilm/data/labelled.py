"""Texts with labels: read, numbered by class, and parted so that no text stands on both sides."""

import csv
import hashlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Labelled(NamedTuple):
    """As many labels as texts."""

    texts: list[str]
    labels: list[str]


def read_csv(
    path: str | Path, text: str = "text", label: str = "label", encoding: str = "utf-8", delimiter: str = ","
) -> Labelled:
    """The texts and labels of a CSV file with a header.

    Args:
      path: the file.
      text, label: the names of their columns.
      encoding: as Python names it: gb18030 for most Chinese text that is not UTF-8.
      delimiter: what stands between two columns.
    Raises:
      ValueError: for bytes that the encoding does not know, a missing column, a row of more or fewer columns than the
        header, a quotation mark that nothing closes, a text or label without any character; with the line.
    """
    rows = csv.DictReader(io.StringIO(decoded(path, encoding), newline=""), delimiter=delimiter, strict=True)
    found = Labelled([], [])
    csv.field_size_limit(1 << 30)  # by default a text may have 128 KiB
    try:
        names = list(rows.fieldnames or ())
        missing = [name for name in (text, label) if name not in names]
        if missing:
            raise ValueError(f"{path} has no column {missing[0]!r}; its first line names {', '.join(names) or 'none'}.")
        if len({*names}) < len(names):
            raise ValueError(f"{path} has two columns of one name: {', '.join(names)}. Rename one of them.")
        for row in rows:
            if None in row or None in row.values():
                raise ValueError(
                    f"{path}, line {rows.line_num}: a row of as many columns as the header was expected, "
                    f"{len(names)} of them. Texts that hold a {delimiter!r} need quotation marks."
                )
            if not row[text].strip() or not row[label].strip():
                empty = text if not row[text].strip() else label
                raise ValueError(f"{path}, line {rows.line_num}: the {empty} is empty. Fill it, or take the row out.")
            found.texts.append(row[text])
            found.labels.append(row[label].strip())
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: this is no CSV ({error}).") from None
    if not found.texts:
        raise ValueError(f"{path} has a header and no row below it.")
    return found


def read_lines(paths: dict[str, str | Path], encoding: str = "utf-8") -> Labelled:
    """The texts of files that hold one a line, a file for each label; lines of white space alone are none."""
    found = Labelled([], [])
    for label, path in paths.items():
        lines = [line.strip() for line in re.split(r"\r\n?|\n", decoded(path, encoding)) if line.strip()]
        if not lines:
            raise ValueError(f"The class {label!r} is empty: {path} holds no line of text.")
        found.texts.extend(lines)
        found.labels.extend([label] * len(lines))
    return found


def class_names(labels: Sequence[str]) -> tuple[str, ...]:
    """The different labels in order: class 0, class 1, ...

    >>> class_names(["spam", "ham", "ham"])
    ('ham', 'spam')
    """
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise ValueError(f"At least two classes are needed to tell one from another, and here is {names or 'none'}.")
    return names


def numbered(labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """The number of each label among the classes, `(b,)` int32.

    >>> numbered(["spam", "ham"], ("ham", "spam")).tolist()
    [1, 0]
    """
    number = {name: i for i, name in enumerate(classes)}
    for place, label in enumerate(labels):
        if label not in number:
            raise ValueError(f"Label {place} is {label!r}, which is none of the classes {', '.join(classes)}.")
    return np.array([number[label] for label in labels], np.int32)


def held_out_by_hash(texts: Sequence[str], share: float, seed: int = 0) -> np.ndarray:
    """Which texts to hold out, `(b,)` bool: those whose hash with the seed falls into the first `share` of all hashes.

    Equal texts, white space aside, fall on the same side, wherever and how often they stand; a text that is added moves
    no other.

    >>> held_out_by_hash(["one", "two", " one", "three"], share=0.5).tolist()
    [False, True, False, False]
    """
    if not 0 < share < 1:
        raise ValueError(f"The share to hold out must lie between 0 and 1, but is {share}.")

    def fraction(text):
        digest = hashlib.sha256(f"{seed}:{' '.join(text.split())}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    return np.array([fraction(text) < share for text in texts], bool)


def decoded(path: str | Path, encoding: str) -> str:
    """The text of a file; a ValueError names the line that is not in this encoding."""
    contents = Path(path).read_bytes()
    try:
        return contents.decode(encoding).removeprefix(
            "\ufeff"
        )  # a byte-order mark is no part of the first column's name
    except LookupError:
        raise ValueError(f"Python knows no encoding {encoding!r}: utf-8, gb18030, big5 and latin-1 are some.") from None
    except UnicodeDecodeError as error:
        line = contents.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: byte {error.start} is not {encoding}. Name the encoding that the file has: "
            "gb18030 for Chinese, latin-1 or cp1252 for Western texts, perhaps."
        ) from None
