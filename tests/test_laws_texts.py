"""What a tokenizer may lose is asked for, character by character, and a correct one loses nothing."""

from functools import cache

import pytest

from minilm import laws
from minilm.data.tokenizers import BPETokenizer, ByteTokenizer

ONE = laws.Search(examples=1)


def lossy(lose):
    """A tokenizer of characters, of which decoding loses something."""
    return list, lambda ids: lose("".join(ids))


def replacing(old, new):
    return lossy(lambda text: text.replace(old, new))


@pytest.mark.parametrize("lose", [lambda c: replacing(c, ""), lambda c: replacing(2 * c, c)], ids=["all", "of two one"])
def test_no_character_of_ascii_is_lost_unnoticed(lose):
    for character in map(chr, range(128)):
        with pytest.raises(laws.LawBroken, match="text round trip: it comes back as"):
            laws.text_round_trip(*lose(character), search=ONE)


@pytest.mark.parametrize("lost", ["\u0110", "\u4e00\u4e01", "\u0e33", "\U0001f9d4", "\ue123", "\U000e0041", "\ufb01"])
def test_what_is_lost_of_many_characters_is_told_and_no_more(lost):
    with pytest.raises(laws.LawBroken) as caught:
        laws.text_round_trip(*replacing(lost, "?"), search=ONE)
    assert caught.value.inputs == {"text": lost}
    assert caught.value.sentence == "it comes back as '?'"


def test_of_characters_that_are_lost_the_smallest_is_told():
    narrow = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
    with pytest.raises(laws.LawBroken, match="it comes back as '!'") as caught:
        laws.text_round_trip(*lossy(lambda text: text.translate(narrow)), search=ONE)
    assert caught.value.inputs == {"text": "\uff01"}


def test_a_text_that_ends_too_early_is_told_by_one_token_more():
    with pytest.raises(laws.LawBroken) as caught:
        laws.text_round_trip(*lossy(lambda text: text[:512]), search=ONE)
    assert len(caught.value.inputs["text"]) == 513


def test_a_tokenizer_that_raises_is_told_its_character():
    ids = {chr(code): code for code in range(0x110000) if code != 0x153}
    with pytest.raises(laws.LawBroken, match="the function raised KeyError") as caught:
        laws.text_round_trip(lambda text: [ids[c] for c in text], lambda ids: "".join(map(chr, ids)), search=ONE)
    assert caught.value.inputs == {"text": "\u0153"}


def test_some_seven_hundred_texts_are_asked_beside_those_that_are_drawn():
    asked = []
    laws.text_round_trip(lambda text: asked.append(text) or list(text), "".join, search=ONE)
    assert len(asked) < 700
    assert len("".join(asked)) < 200_000


@cache
def remembering(text):
    return tuple(text.encode())


def pieces(text):
    """Tokens of three characters, the last of fewer."""
    return [text[i : i + 3] for i in range(0, len(text), 3)]


TOKENIZERS = {
    "bytes": ByteTokenizer(),
    "byte pairs": BPETokenizer.train(["It was the best of times, it was the worst of times, café, naïve, 中文。"], 300),
}


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_correct_tokenizer_loses_nothing(tokenizer):
    laws.check_tokenizer(
        tokenizer.encode,
        tokenizer.decode,
        n=len(tokenizer.token_bytes),
        encode_bytes=tokenizer.encode_bytes,
        decode_bytes=tokenizer.decode_bytes,
    ).raise_if_broken()


def test_neither_does_one_that_remembers_nor_one_of_another_library():
    laws.text_round_trip(remembering, lambda ids: bytes(ids).decode())
    laws.text_round_trip(pieces, "".join)
    laws.text_round_trip(lambda text: text.encode("utf-16-le"), lambda ids: bytes(ids).decode("utf-16-le"))
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(["low lower lowest"], tokenizers.trainers.BpeTrainer(initial_alphabet=alphabet))
    laws.text_round_trip(lambda text: tokenizer.encode(text).ids, tokenizer.decode)
