"""Laws of tokenizers: any encode(text) -> ids and decode(ids) -> text, or the same of bytes."""

import unicodedata
from collections.abc import Callable
from functools import cache

from hypothesis import strategies as st

from minilm.laws.search import Search, forall, shortened

THOROUGH = Search(examples=200)
# What a decoder that reads files takes for a mark of their encoding, and what one that tidies English up takes away.
BYTE_ORDER_MARK = "\ufeff"
TIDIED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
# What SentencePiece writes for a blank, what holds an emoji or a word together unseen, what makes an emoji of a sign,
# what is no character, and what ends a line or a paragraph without being a newline.
UNSEEN = ("\u2581", "\u200d", "\u00ad", "\ufe0f", "\ufffe", "\u2028", "\u2029")
# What a text may say and not mean: entities, escapes, the spelling of a byte, the two ways to end a line, an accent.
LITERAL = ("&amp;", "&lt;", "&#39;", r"\n", r"\t", r"\u0041", "%20", "<0x41>", "<0x0A>", "\r\n", "a\rb", "e\u0301")
ASCII = tuple(map(chr, range(128)))
BLOCK = 512  # characters of a text that holds others than ASCII
LONG_TEXT = " ".join(map(str, range(1100)))  # of more than 1024 tokens, for no token holds two words
KNOWN = (
    BYTE_ORDER_MARK,
    *(f"{word}{blank}" for word in ("", "a") for blank in TIDIED),
    *(f"{word}{unseen}{word}" for word in ("", "a") for unseen in UNSEEN),
    *LITERAL,
    *ASCII,
    *(character * 2 for character in ASCII),
    LONG_TEXT,
)


def text_round_trip(encode: Callable, decode: Callable, *, search: Search = THOROUGH) -> None:
    r"""Whatever can be written comes back as it was: any Unicode, white space and control characters included.

    $$ \mathrm{decode}(\mathrm{encode}(s)) = s $$

    Each of `KNOWN` is asked: a leading byte order mark, the blanks that some decoders take from before a comma, a full
    stop or an n't, what SentencePiece writes for a blank, characters that nobody sees, entities and escapes that are
    only spelled, each character of ASCII alone and doubled, and a text of a thousand tokens. So is every character
    that Unicode has assigned, in texts of `BLOCK` of them, and the part is told that does not come back.
    """

    def violation(text):
        back = decode(encode(text))
        return None if back == text else f"it comes back as {shortened(back)}"

    known = ({"text": text} for text in (*KNOWN, *_blocks()))
    forall("text round trip", st.fixed_dictionaries({"text": _text()}), violation, search, known, _shorter)


def bytes_round_trip(encode: Callable, decode: Callable, *, search: Search = THOROUGH) -> None:
    r"""Any bytes come back, valid UTF-8 or not: `encode(bytes) -> ids`, `decode(ids) -> bytes`.

    $$ \mathrm{decode}(\mathrm{encode}(b)) = b $$
    """

    def violation(data):
        back = bytes(decode(encode(data)))
        return None if back == data else f"they come back as {back!r}"

    forall("bytes round trip", st.fixed_dictionaries({"data": st.binary(max_size=12)}), violation, search)


def pieces_join(encode: Callable, decode_bytes: Callable, *, search: Search = THOROUGH) -> None:
    r"""Tokens decoded one by one and joined give the whole, as streaming needs. `decode_bytes(ids) -> bytes`.

    $$ \mathrm{decode}(a) + \mathrm{decode}(b) = \mathrm{decode}(a + b) $$
    """

    def violation(text):
        ids = list(encode(text))
        joined, whole = b"".join(bytes(decode_bytes([i])) for i in ids), bytes(decode_bytes(ids))
        return None if joined == whole else f"its tokens one by one decode to {joined!r}, together to {whole!r}"

    forall("pieces join", st.fixed_dictionaries({"text": _text()}), violation, search)


def special_tokens_stay_text(encode: Callable, specials: dict[str, int], *, search: Search = THOROUGH) -> None:
    r"""What a user types is text: no spelling of a special token in it becomes that token. `specials`: spelling -> id.

    $$ \mathrm{encode}(s) \cap \mathrm{specials} = \varnothing $$

    Raises:
      ValueError: for no special tokens at all, of which there is nothing to ask.
    """
    if not specials:
        raise ValueError("`specials` holds the spelling and the id of one special token or more, but it is empty.")
    text = st.lists(st.one_of(st.sampled_from(sorted(specials)), st.text("a <|>\n", max_size=3)), max_size=4).map(
        "".join
    )

    def violation(text):
        smuggled = {name for name, i in specials.items() if i in set(encode(text))}
        return f"it produced the special token {min(smuggled)}" if smuggled else None

    forall("special tokens stay text", st.fixed_dictionaries({"text": text}), violation, search)


def ids_in_vocabulary(encode: Callable, n: int, *, search: Search = THOROUGH) -> None:
    r"""Every id has a row in an embedding of n rows: JAX would clamp one that has not, silently.

    $$ 0 \le \mathrm{encode}(s)_i < n $$
    """

    def violation(text):
        outside = [i for i in encode(text) if not 0 <= i < n]
        return f"it gives the id {outside[0]}, outside a vocabulary of {n}" if outside else None

    forall("ids in vocabulary", st.fixed_dictionaries({"text": _text()}), violation, search)


@cache
def _blocks():
    """Every assigned character, in order, and of those for private use the first 6,400: some 300 texts."""
    codes = range(0xF0000)  # beyond are two planes for private use
    assigned = "".join(filter(lambda c: unicodedata.category(c) not in ("Cn", "Cs"), map(chr, codes)))
    return [assigned[start : start + BLOCK] for start in range(0, len(assigned), BLOCK)]


def _shorter(case):
    """The halves of a text, the first one first, and the text without its first and without its last character."""
    text = case["text"]
    middle = len(text) // 2
    parts = (text[:middle], text[middle:], text[1:], text[:-1]) if len(text) > 1 else ()
    return ({"text": part} for part in parts)


def _text():
    """Any Unicode but lone surrogates, which no UTF-8 can hold; half of it of what tokenizers stumble over."""
    awkward = st.sampled_from(
        [" ", "  ", "\n", "\r\n", "\t", "'s", "é", "e\u0301", "中", "🙂", "\u00a0", "\x00", "\ufffd", "İ", "a", "1"]
    )
    return st.one_of(
        st.lists(awkward, max_size=6).map("".join), st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    )
