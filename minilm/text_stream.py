"""Text as it is written: tokens come one by one, and a reader sees no half character and no stop string."""

from collections.abc import Iterable


class TextStream:
    """Tokens in, text out: whole characters up to the first complete stop string, and nothing that may be part of one.

    The text is the same however tokens cut it. Of stop strings that end at the same character, the longest counts.

    >>> from minilm.data.tokenizers import ByteTokenizer
    >>> text = TextStream(ByteTokenizer(), stop=["END"])
    >>> [text.push(byte) for byte in b"An END."], text.stopped
    (['A', 'n', ' ', '', '', '', ''], True)
    """

    def __init__(self, tokenizer, stop: Iterable[str] = ()):
        self._decoder, self._stop, self._held, self.stopped = tokenizer.stream(), tuple(stop), "", False
        if isinstance(stop, str) or not all(self._stop):
            raise ValueError("Stop strings come as a list of strings, none of them empty: an empty one is everywhere.")

    def push(self, token: int) -> str:
        """The text that is certain now that this token has come."""
        return "" if self.stopped else self._release(self._held + self._decoder.push(token))

    def flush(self) -> str:
        """What was held back, now that no token will follow."""
        if self.stopped:
            return ""
        text = self._release(self._held + self._decoder.flush())
        return text + ("" if self.stopped else self._held)

    def _release(self, text):
        places = [(text.find(stop) + len(stop), -len(stop)) for stop in self._stop if stop in text]
        if places:
            self.stopped = True
            end, minus_length = min(places)
            return text[: end + minus_length]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text, stop):
    """How many characters at the end of text are the beginning of stop."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
