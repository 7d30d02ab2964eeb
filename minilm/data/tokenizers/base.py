"""What every tokenizer shares: ids stand for bytes, special tokens stand for none that a user could type."""

import abc
import codecs
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import regex

END_OF_TEXT = "<|endoftext|>"


class Tokenizer(abc.ABC):
    """Text to ids and back, without loss.

    A tokenizer is a table of tokens, each a piece of bytes, and a rule that cuts text into them. Special tokens, of
    which `<|endoftext|>` is always one, have the ids after the others. They are never made from text, not even from
    their own spelling, unless the caller allows it: what a user types must not be able to end a document.

    Attributes:
      token_bytes: the bytes that each id stands for; a special token stands for its own spelling.
      special_tokens: the id of each special token, by its spelling.
      end_of_text: the id that separates documents.
    """

    def __init__(self, token_bytes: Sequence[bytes], special_tokens: Mapping[str, int]):
        self.special_tokens = dict(special_tokens)
        size = max([len(token_bytes), *(i + 1 for i in self.special_tokens.values())])
        table = [*token_bytes, *[b""] * (size - len(token_bytes))]
        for spelling, i in self.special_tokens.items():
            if len(spelling) < 2:
                raise ValueError(f"A special token needs at least two characters, but one is {spelling!r}.")
            table[i] = spelling.encode()
        self.token_bytes = tuple(table)
        self._special_pattern = regex.compile(
            "(" + "|".join(regex.escape(s) for s in sorted(self.special_tokens, key=len, reverse=True)) + ")"
        )

    @property
    def vocab_size(self) -> int:
        """The number of ids, special tokens included; a model's `n`."""
        return len(self.token_bytes)

    @property
    def end_of_text(self) -> int:
        """The id of the token that separates documents."""
        return self.special_tokens[END_OF_TEXT]

    def encode(self, text: str, allow_special: bool = False) -> np.ndarray:
        """The ids of a text, `(t,)` int32; special tokens are recognised in it only where they are allowed."""
        _check_text(text)
        if not (allow_special and self.special_tokens):
            return self._encode(text)
        pieces = self._special_pattern.split(text)
        parts = [
            np.array([self.special_tokens[piece]], np.int32) if i % 2 else self._encode(piece)
            for i, piece in enumerate(pieces)
        ]
        return np.concatenate(parts)

    def encode_bytes(self, data: bytes) -> np.ndarray:
        """The ids of any bytes, valid UTF-8 or not; equal to `encode` where they are valid."""
        return self._encode(data.decode("utf-8", "surrogateescape"))

    def decode(self, ids) -> str:
        """The text of some ids; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids) -> bytes:
        """The bytes of some ids, exactly."""
        ids = np.asarray(ids).reshape(-1)
        if ids.size and ids.dtype.kind not in "iu":
            raise ValueError(f"Token ids are integers, but {ids.dtype} came.")
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocab_size):
            where = int(np.flatnonzero((ids < 0) | (ids >= self.vocab_size))[0])
            raise ValueError(
                f"Token ids run from 0 to {self.vocab_size - 1}, but id {ids[where]} came at place {where}; "
                "were the ids made by another tokenizer?"
            )
        return b"".join(map(self.token_bytes.__getitem__, ids.tolist()))

    def stream(self) -> "Stream":
        """A decoder for ids that arrive one by one."""
        return Stream(self)

    def save(self, path: str | Path) -> None:
        """Write a `tokenizer.json` that `load` and the `tokenizers` library both read, to the same ids."""
        added = [
            {
                "id": i,
                "content": spelling,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for spelling, i in sorted(self.special_tokens.items(), key=lambda item: item[1])
        ]
        head = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "post_processor": None,
        }
        Path(path).write_text(json.dumps(head | self.pipeline(), ensure_ascii=False, indent=1), encoding="utf-8")

    @abc.abstractmethod
    def _encode(self, text: str) -> np.ndarray:
        """The ids of text without special tokens, in which lone surrogates U+DC80 to U+DCFF stand for stray bytes."""

    @abc.abstractmethod
    def pipeline(self) -> dict[str, Any]:
        """The pre-tokenizer, model and decoder of the `tokenizer.json`."""


class Stream:
    """Decodes ids as they arrive, and never emits half a character: incomplete bytes wait for the rest.

    >>> from minilm.data.tokenizers import ByteTokenizer
    >>> stream = ByteTokenizer().stream()
    >>> [stream.push(byte) for byte in "aé".encode()], stream.flush()
    (['a', '', 'é'], '')
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that this id completes, often none."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def flush(self) -> str:
        """What is left at the end: U+FFFD where a character never was completed."""
        return self._decoder.decode(b"", final=True)


def special_after(n: int, special_tokens: Iterable[str]) -> dict[str, int]:
    """Ids n, n + 1, ... for `<|endoftext|>` and the other special tokens, each once."""
    return {spelling: n + i for i, spelling in enumerate(dict.fromkeys([END_OF_TEXT, *special_tokens]))}


def _check_text(text):
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The text holds the lone surrogate U+{ord(text[error.start]):04X} at place {error.start}, which is "
            "no character. Read the file with its right encoding, or give its bytes to encode_bytes."
        ) from None
