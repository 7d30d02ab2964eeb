"""From text to words: normalisation in steps that compose, splitting by a pattern, and words that say little.

    clean = in_order(compatible, caseless, compatible)
    words(clean(text))

Each step is a function from text to text that does one thing, and whoever needs another step writes one. What a step
takes away no model gets back: tokenizers for language models (`minilm.data.tokenizers`) take nothing away.
"""

import unicodedata
from collections.abc import Callable, Iterable

import regex

# ── normalisation ────────────────────────────────────────────────────────────────────────────────────────────────────


def in_order(*steps: Callable[[str], str]) -> Callable[[str], str]:
    """The steps, one after the other, as one.

    >>> in_order(without_accents, str.upper, single_spaces)(" déjà   vu ")
    'DEJA VU'
    """

    def all_of_them(text: str) -> str:
        for step in steps:
            text = step(text)
        return text

    return all_of_them


def compatible(text: str) -> str:
    """Unicode's form NFKC: one spelling for what differs in its encoding or its typography alone.

    é is one character, not e and an accent; ligatures, full-width letters and exponents become plain ones.

    >>> compatible("ﬁne Ａ１ x² … 한")
    'fine A1 x2 ... 한'
    """
    return unicodedata.normalize("NFKC", text)


def caseless(text: str) -> str:
    """Unicode's case folding: what `lower` does, and besides ß is ss, and both of Greek's small sigmas are one.

    >>> caseless("Straße ΣΑΣ"), "Straße ΣΑΣ".lower()
    ('strasse σασ', 'straße σας')
    """
    return text.casefold()


def without_accents(text: str) -> str:
    """Take the accents off Latin, Greek and Cyrillic letters, a dot or a ring included: the marks U+0300 to U+036F.

    The marks of other scripts stay, for there they are vowels or other consonants. (BERT drops those too.)

    >>> without_accents("naïve, Ångström, Ελλάς, हिन्दी, が")
    'naive, Angstrom, Ελλας, हिन्दी, が'
    """
    apart = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", regex.sub(r"[\u0300-\u036f]+", "", apart))


def single_spaces(text: str) -> str:
    r"""White space of any kind and length is one space, and none at either end.

    >>> single_spaces("\tone\u00a0 two\n")
    'one two'
    """
    return " ".join(text.split())


#: One spelling for each word. Folding takes some letters apart that NFKC writes as one (ΐ), so NFKC is asked again.
normalise = in_order(compatible, caseless, compatible)


# ── splitting ────────────────────────────────────────────────────────────────────────────────────────────────────────

_WORD = r"\p{L}[\p{L}\p{M}]*(?:['’]\p{L}[\p{L}\p{M}]*)*"  # letters with their marks; an apostrophe between letters
_NUMBER = r"\p{N}+(?:[.,]\p{N}+)*"  # digits; a point or a comma between digits
_WORDS = regex.compile(f"{_WORD}|{_NUMBER}")
_WORDS_AND_MARKS = regex.compile(rf"{_WORD}|{_NUMBER}|\S")


def words(text: str) -> list[str]:
    """The words and numbers of a text. A hyphen divides; an apostrophe within a word doesn't.

    Scripts that put no space between words give whole runs of letters: see `minilm.data.segmentation`.

    >>> words("Don't pay 1,000.50 for state-of-the-art (naïve) “words”.")
    ["Don't", 'pay', '1,000.50', 'for', 'state', 'of', 'the', 'art', 'naïve', 'words']
    """
    return _WORDS.findall(text)


def words_and_marks(text: str) -> list[str]:
    """The words and numbers of a text, and each other character that is no white space.

    >>> words_and_marks("Why? It's 3.5 km...")
    ['Why', '?', "It's", '3.5', 'km', '.', '.', '.']
    """
    return _WORDS_AND_MARKS.findall(text)


# ── words that say little ────────────────────────────────────────────────────────────────────────────────────────────

# English words of the closed classes, those that no new word ever joins: they are frequent for what they do in a
# sentence, not for what the text is about. A list by class, and not the most frequent words of a corpus: those are
# about it ("thou" and "lord" in Shakespeare, "film" in reviews). Negations are missing on purpose: whoever leaves out
# "not" cannot tell "not good" from "good".
_CLOSED_CLASSES = {
    "articles and determiners": "a an the this that these those each every either some any both all such another other",
    "pronouns": "i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its "
    "itself we us our ours ourselves they them their theirs themselves one who whom whose which what",
    "prepositions": "of in to for with on at by from up about into over after under above below between through during "
    "before against out off down upon within without toward towards among across behind beside near since until till",
    "conjunctions": "and or but if because as while than so though although whether",
    "auxiliaries": "be am is are was were been being have has had having do does did doing will would shall should can "
    "could may might must",
    "adverbs that point": "here there when where why how then now again once also too very just only own same more "
    "most",
    "contracted": "i'm you're he's she's it's we're they're i've you've we've they've i'd you'd he'd she'd we'd they'd "
    "i'll you'll he'll she'll we'll they'll that's who's what's here's there's let's",
}
ENGLISH_STOP_WORDS = frozenset(word for words_of_class in _CLOSED_CLASSES.values() for word in words_of_class.split())


def without_stop_words(among: Iterable[str], stop_words: frozenset[str] = ENGLISH_STOP_WORDS) -> list[str]:
    """The words that are not stop-words, whatever their case; ’ counts as '.

    It helps where words are counted regardless of their order (bags of words, topics, word clouds), and harms where
    order matters: a language model without "the" writes no English.

    >>> without_stop_words(["The", "play", "isn't", "what", "It’s", "about"])
    ['play', "isn't"]
    """
    return [word for word in among if word.casefold().replace("’", "'") not in stop_words]
