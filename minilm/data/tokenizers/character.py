"""Characters as tokens: those of a text, and bytes for every other, so that nothing is unknown."""

from collections.abc import Iterable

import numpy as np

from minilm.data.tokenizers.base import Tokenizer, special_after


class CharacterTokenizer(Tokenizer):
    """The characters of an alphabet in order of code point, then the 256 bytes, then special tokens.

    A character outside the alphabet is written as its UTF-8 bytes. The `tokenizers` library calls this byte fallback.

    >>> tokenizer = CharacterTokenizer.train(["abba"])
    >>> tokenizer.encode("baé").tolist(), tokenizer.decode(tokenizer.encode("baé"))
    ([1, 0, 197, 171], 'baé')
    """

    def __init__(self, alphabet: Iterable[str], special_tokens: Iterable[str] = ()):
        self.alphabet = "".join(sorted(set(alphabet)))
        size = len(self.alphabet)
        token_bytes = [*(c.encode() for c in self.alphabet), *(bytes([byte]) for byte in range(256))]
        super().__init__(token_bytes, special_after(size + 256, special_tokens))
        # Row c holds the id of character c, -1 where it has none; stray bytes are the surrogates U+DC80 to U+DCFF.
        self._ids = np.full(0x110000, -1, np.int32)
        self._ids[[ord(c) for c in self.alphabet]] = np.arange(size)
        self._ids[0xDC80:0xDD00] = size + np.arange(128, 256)

    @classmethod
    def train(cls, texts: Iterable[str], special_tokens: Iterable[str] = ()) -> "CharacterTokenizer":
        """The tokenizer whose alphabet is all the characters of some texts."""
        alphabet = set()
        for text in texts:
            alphabet.update(text)
        return cls(alphabet, special_tokens)

    def _encode(self, text):
        ids = self._ids[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)]
        unknown = np.flatnonzero(ids < 0)
        if not unknown.size:
            return ids
        parts, start = [], 0
        for place in unknown.tolist():
            written = np.frombuffer(text[place].encode(), np.uint8).astype(np.int32) + len(self.alphabet)
            parts += [ids[start:place], written]
            start = place + 1
        return np.concatenate([*parts, ids[start:]])

    def pipeline(self):
        """The pre-tokenizer, model and decoder of the `tokenizer.json`."""
        size = len(self.alphabet)
        vocab = {c: i for i, c in enumerate(self.alphabet)} | {f"<0x{byte:02X}>": size + byte for byte in range(256)}
        model = {"type": "BPE", "vocab": vocab | self.special_tokens, "merges": [], "byte_fallback": True}
        return {
            "pre_tokenizer": None,
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
            "model": model,
        }
