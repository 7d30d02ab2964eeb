"""Text from anywhere, document by document: Python's own prose and sources, files, folders, globs, standard input."""

import ast
import codecs
import glob
import inspect
import io
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

BLOCK = 1 << 20  # bytes read at a time
LONG = 1 << 20  # characters; a longer file is several documents
STRETCH = 1 << 13  # characters of a document cut from a single file
FEWEST, SHORTEST = 20, 100  # documents that a single file is cut into where it can, and the characters of the least
BUILT_IN = ("prose", "code")
TOPICS = "pydoc_data/topics.py"  # the language reference as text, all of it in one dictionary


def documents(source: str, encoding: str = "utf-8") -> Iterator[str]:
    """The documents of a corpus, always in the same order.

    Args:
      source: `prose` (the English of Python's documentation and docstrings), `code` (the standard library's sources), a
        file, a folder, a glob (`books/**/*.txt`), or `-` for standard input. A file called `prose` is `./prose`.
      encoding: of files and standard input; any that Python knows, such as `gb18030`.
    Returns:
      An iterator of texts. Each file of a folder or a glob is a document. One file alone, or standard input, is cut at
      empty lines into documents of some 8,000 characters, so that some of them can be held out.
    Raises:
      ValueError, FileNotFoundError: in a sentence, where there is no text or it is not in this encoding.

    >>> next(documents("prose"))[:66]
    'Assert statements are a convenient way to insert debugging asserti'
    """
    _check_encoding(encoding)
    if not source:
        raise ValueError("The name of the corpus is empty: give prose, code, a file, a folder, a glob, or -.")
    if source == "prose":
        return prose()
    if source == "code":
        return code()
    if source == "-":
        stretches = _stretches(_read(sys.stdin.buffer, "standard input", encoding), STRETCH, FEWEST)
        return _some(stretches, "Standard input is empty, or white space alone; pipe a text into it.")
    files = _files(source)
    which = str(files[0]) if len(files) == 1 else f"Each of {len(files)} files"
    return _some(_documents_of_files(files, encoding), f"{which} is empty; give a file that holds text.")


def prose() -> Iterator[str]:
    """English: the topics of Python's language reference, then each module's docstrings and longer comments.

    Paragraphs that are code, grammar, tables or signatures are left out, the others are written on one line each.
    """
    for module, source in _standard_library():
        texts = _topics(source) if module == TOPICS else ["\n\n".join(_explanations(source))]
        for text in texts:
            paragraphs = list(dict.fromkeys(_paragraphs(text)))
            if sum(map(len, paragraphs)) >= 200:
                yield "\n\n".join(paragraphs) + "\n"


def code() -> Iterator[str]:
    """The sources of the standard library, a module a document."""
    for module, source in _standard_library():
        if module != TOPICS and source.strip():
            yield source


def _standard_library():
    """Path and source of each module, without those that few programs import: tests, IDLE, what pip installed."""
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__", "turtledemo"}
    paths = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - left_out)
        paths += [Path(folder, name) for name in names if name.endswith(".py")]
    topics_first = sorted(paths, key=lambda path: (path.parent.name != "pydoc_data", path.relative_to(root).as_posix()))
    for path in topics_first:
        try:
            yield path.relative_to(root).as_posix(), path.read_bytes().decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError:
            continue  # a few modules keep an older encoding to test it


def _topics(source):
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return list(ast.literal_eval(node.value).values())
    return []


def _explanations(source):
    """The docstrings, and the comments of two lines or more, in the order of the source."""
    nodes = [node for node in _owners(ast.parse(source)) if ast.get_docstring(node)]
    found = [(node.body[0].lineno, ast.get_docstring(node) or "") for node in nodes]
    for comment in re.finditer(r"(?:^[ \t]*#(?: .*)?\n){2,}", source, re.MULTILINE):
        text = re.sub(r"^[ \t]*# ?", "", comment[0], flags=re.MULTILINE)
        found.append((1 + source.count("\n", 0, comment.start()), text))
    return [text for _, text in sorted(found)]


def _owners(node):
    """The module, its classes and its functions; expressions, the larger part of a tree, are not looked into."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node
    for block in ("body", "orelse", "handlers", "finalbody"):
        for statement in getattr(node, block, ()):
            yield from _owners(statement)


def _paragraphs(text):
    """The paragraphs of a documentation text that are English, each on one line."""
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        for item in re.split(r"\n(?=\s*(?:[*+-]|\d+[.)]) )", block):
            line = " ".join(item.split())
            if _is_english(line):
                yield line


def _is_english(line):
    words = re.findall(r"[A-Za-z]+", line)
    plain = sum(map(len, re.findall(r"[A-Za-z ,.;:'\"()-]", line)))
    return (
        len(words) >= 5
        and plain >= 0.94 * len(line)
        and ">>>" not in line
        and "::=" not in line
        and not re.match(r"[\w.]+\([^)]*\)( ->.*)?$", line)
        and sum(word.islower() for word in words) >= 0.6 * len(words)
    )


def _files(source):
    path = Path(source)
    if path.is_dir():
        found = sorted(
            p
            for p in path.rglob("*")
            if p.is_file() and not any(part.startswith(".") for part in p.relative_to(path).parts)
        )
        if not found:
            raise FileNotFoundError(f"The folder {source} holds no files; give one that holds text.")
        return found
    if path.is_file():
        return [path]
    if path.exists():
        raise ValueError(f"{source} is neither a file nor a folder: give its text by standard input, as '-'.")
    found = sorted(Path(name) for name in glob.glob(source, recursive=True) if Path(name).is_file())
    if not found:
        raise FileNotFoundError(
            f"There is no file, folder or match for {source!r}. Give the path of a text, a glob, '-' for standard "
            f"input, or one of the built-in corpora: {', '.join(BUILT_IN)}."
        )
    return found


def _documents_of_files(paths, encoding):
    for path in paths:
        with open(path, "rb") as file:
            size, fewest = (STRETCH, FEWEST) if len(paths) == 1 else (LONG, 1)
            yield from _stretches(_read(file, str(path), encoding), size, fewest)


def _some(documents, otherwise):
    empty = True
    for document in documents:
        empty = False
        yield document
    if empty:
        raise ValueError(otherwise)


def _read(file, name, encoding):
    """The text of a binary file, piece by piece, with line ends written as a newline."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset, block = 0, file.read(BLOCK)
    if b"\0" in block and not encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32", "utf16", "utf32")):
        raise ValueError(
            f"{name} is binary: byte {block.index(0)} is zero. Give a text file, or name the encoding if it is UTF-16."
        )
    while True:
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeError as error:
            why = "its bytes spell no text in it"
            if isinstance(error, UnicodeDecodeError):  # before Python 3.13 Punycode does not say where
                why = f"byte {offset - waiting + error.start} ({error.reason})"
            other = "gb18030" if encoding.lower().startswith("utf") else "utf-8"
            raise ValueError(
                f"{name} is not {encoding}: {why}. Name its encoding, for example {other}, or convert the file."
            ) from None
        yield newlines.decode(text.removeprefix("\ufeff") if not offset else text, final=not block)
        if not block:
            return
        offset += len(block)
        block = file.read(BLOCK)


def _stretches(pieces, size, fewest=1):
    """Documents of at least `size` characters, fewer where the whole would not make `fewest` documents."""
    rest, cuts = "", 0
    for piece in pieces:
        rest += piece
        start = 0
        while len(rest) - start > 4 * size:
            cut = _cut(rest, start, size)
            yield rest[start:cut]
            start, cuts = cut, cuts + 1
        rest = rest[start:]
    start, size = 0, size if cuts else min(size, max(SHORTEST, len(rest) // fewest))
    while len(rest) - start > 2 * size and rest[_cut(rest, start, size) :].strip():
        cut = _cut(rest, start, size)
        yield rest[start:cut]
        start = cut
    if rest[start:].strip():
        yield rest[start:]


def _cut(text, start, size):
    """After an empty line, or any line where there is none for long, or anywhere."""
    end = start + 4 * size
    for mark in ("\n\n", "\n"):
        if (found := text.find(mark, start + size, end)) >= 0:
            return found + len(mark)
    return end


def _check_encoding(encoding):
    try:
        b"a".decode(encoding, "replace")
    except (LookupError, ValueError):  # base64 is a codec too, but none of text
        raise ValueError(
            f"Python knows no encoding of text called {encoding!r}; utf-8, gb18030 and latin-1 are some that it knows."
        ) from None
