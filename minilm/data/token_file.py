"""Tokens on disk, memory-mapped, so that a corpus may exceed memory."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minilm.data.tokenizers.base import Tokenizer
from minilm.metrics.likelihood import bits_per_byte

FORMAT = 1


class TokenFile(NamedTuple):
    """A corpus as tokens: `<|endoftext|>`, then each document followed by `<|endoftext|>`.

    Every byte of every document thus belongs to a token that is a target, and so does the end of each document.
    Bits per byte count the cost of all targets, ends included, and divide by the bytes of the documents, to which the
    ends add none.

    tokens: `(t,)` ids, memory-mapped.
    n_bytes: the documents' length in UTF-8.
    n_documents: how many there are.
    vocab_size: of the tokenizer that made the ids.
    """

    tokens: np.ndarray
    n_bytes: int
    n_documents: int
    vocab_size: int

    def bits_per_byte(self, nats_per_token: float) -> float:
        """A mean loss over all targets, in nats, as bits per byte of text: comparable across tokenizers."""
        return bits_per_byte(nats_per_token * (len(self.tokens) - 1), self.n_bytes)


def write_tokens(documents: Iterable[str], tokenizer: Tokenizer, path: str | Path) -> TokenFile:
    """Encode documents one by one into the file at `path`, describe it in `path` + `.json`, and open it.

    Special tokens spelled out in a document are text.
    """
    path = Path(path)
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    end = np.array([tokenizer.end_of_text], dtype).tobytes()
    n_tokens, n_bytes, n_documents = 1, 0, 0
    aside = path.with_name(path.name + ".writing")
    with open(aside, "wb") as file:
        file.write(end)
        for document in documents:
            ids = tokenizer.encode(document)
            file.write(ids.astype(dtype).tobytes() + end)
            n_tokens, n_bytes, n_documents = n_tokens + len(ids) + 1, n_bytes + len(document.encode()), n_documents + 1
    if not n_bytes:
        aside.unlink()
        raise ValueError("There is no text to write tokens of: every document is empty, or there is none.")
    os.replace(aside, path)
    about = {
        "format": FORMAT,
        "dtype": dtype.str,
        "tokens": n_tokens,
        "bytes": n_bytes,
        "documents": n_documents,
        "vocab_size": tokenizer.vocab_size,
    }
    _about(path).write_text(json.dumps(about) + "\n")
    return open_tokens(path)


def open_tokens(path: str | Path) -> TokenFile:
    """Open what `write_tokens` wrote, checked against its description before anything is read."""
    path = Path(path)
    for file in (path, _about(path)):
        if not file.is_file():
            raise FileNotFoundError(f"There is no {file}, and without it no tokens: restore it, or train anew.")
    try:
        about = json.loads(_about(path).read_text())
        version, dtype = about["format"], np.dtype(about["dtype"])
        n_tokens, n_bytes, n_documents, vocab_size = (
            about[key] for key in ("tokens", "bytes", "documents", "vocab_size")
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{_about(path)} is no description of tokens ({error}): restore it, or train anew.") from None
    if version != FORMAT or dtype.str not in ("<u2", "<u4"):
        raise ValueError(
            f"{path} has format {version} and dtype {dtype}, where {FORMAT} and uint16 or uint32 were expected."
        )
    size = path.stat().st_size
    if size != n_tokens * dtype.itemsize:
        raise ValueError(
            f"{path} has {size} bytes, but its description promises {n_tokens} tokens of {dtype.itemsize} bytes: "
            "it is truncated or was changed. Restore it, or train anew."
        )
    return TokenFile(np.memmap(path, dtype, "r"), n_bytes, n_documents, vocab_size)


def _about(path):
    return path.with_name(path.name + ".json")
