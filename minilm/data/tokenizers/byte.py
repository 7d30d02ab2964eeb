"""Bytes as tokens: 256 ids that can write anything, in sequences as long as the text."""

from collections.abc import Iterable

import numpy as np

from minilm.data.tokenizers.base import Tokenizer, special_after

# A tokenizer.json holds text, so a byte needs a character to stand for it. GPT-2 takes the character of the same
# number where that one is printable, and the next free one from U+0100 on where it is not.
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
GPT2_ORDER = [*PRINTABLE, *(byte for byte in range(256) if byte not in PRINTABLE)]
BYTE_TO_CHARACTER = {
    byte: chr(byte if i < len(PRINTABLE) else 0x100 + i - len(PRINTABLE)) for i, byte in enumerate(GPT2_ORDER)
}
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}


class ByteTokenizer(Tokenizer):
    """The id of a byte is its value; special tokens follow from 256 on.

    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.encode("né").tolist(), tokenizer.vocab_size
    ([110, 195, 169], 257)
    """

    def __init__(self, special_tokens: Iterable[str] = ()):
        super().__init__([bytes([byte]) for byte in range(256)], special_after(256, special_tokens))

    def _encode(self, text):
        return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8).astype(np.int32)

    def pipeline(self):
        """The pre-tokenizer, model and decoder of the `tokenizer.json`."""
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        vocab = {BYTE_TO_CHARACTER[byte]: byte for byte in range(256)} | self.special_tokens
        return {
            "pre_tokenizer": byte_level,
            "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        }
