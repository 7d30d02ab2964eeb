"""Planted bugs of tokenizers. The correct twins spell bytes: id 0 to 255, and 256 for the end of a text."""

import html
import re

from minilm import laws
from tests.gallery import plant

END = "<|endoftext|>"


def encode(text):
    return list(text.encode())


def decode(ids):
    return bytes(ids).decode()


@plant(laws.text_round_trip)
def white_space_that_is_lost():
    """Words split at white space and joined with one blank: LLMs-from-scratch issue 1017; byte-level BPE without a
    pre-tokenizer in
    dotnet/machinelearning issue 7715."""
    return (lambda text: text.split(), " ".join), (encode, decode)


@plant(laws.text_round_trip)
def a_blank_in_front():
    """`add_prefix_space` puts a blank before the text that nobody takes away again; see tokenizers issue 1399."""
    return (lambda text: encode(" " + text), decode), (encode, decode)


@plant(laws.text_round_trip)
def a_mark_of_the_encoding_taken_off():
    """A leading U+FEFF is a character of the text, which decoders of files drop: Effect issue 7672, gren issue 155."""
    return (encode, lambda ids: bytes(ids).decode("utf-8-sig")), (encode, decode)


@plant(laws.text_round_trip)
def a_decoder_that_tidies_up():
    """`clean_up_tokenization_spaces`, long on by default, takes the blank from before a mark: tokenizers issue 1543,
    transformers issue 40088."""

    def tidy(ids):
        text = decode(ids)
        for blank in (" .", " ,", " n't"):
            text = text.replace(blank, blank[1:])
        return text

    return (encode, tidy), (encode, decode)


@plant(laws.text_round_trip)
def a_mark_taken_for_a_blank():
    """SentencePiece writes a blank as U+2581, and a U+2581 of the text comes back as a blank. (Its README names the
    mark a meta symbol.)"""
    return (encode, lambda ids: decode(ids).replace("\u2581", " ")), (encode, decode)


def without(unseen, instead=""):
    return (lambda text: encode(text.replace(unseen, instead)), decode), (encode, decode)


@plant(laws.text_round_trip)
def a_family_taken_apart():
    """Format characters cleaned away, and with them the joiner of an emoji or of a word in Persian: BERT's
    `clean_text` drops every character of the categories Cc and Cf."""
    return without("\u200d")


@plant(laws.text_round_trip)
def a_separator_of_lines_taken_for_a_newline():
    """`str.splitlines` splits at U+2028 too, and what is joined again has a newline. (No thread known to us.)"""
    return without("\u2028", "\n")


@plant(laws.text_round_trip)
def a_text_that_ends_at_512_tokens():
    """Truncation, on unless told otherwise: a short text never knows. (No thread known to us.)"""
    return (lambda text: encode(text)[:512], decode), (encode, decode)


@plant(laws.text_round_trip)
def a_sign_that_is_not_in_the_pattern():
    """A pre-tokenizer whose pattern knows letters, numbers and punctuation drops what is neither: `$ + < = > ^ | ~` in
    dotnet/machinelearning issue 7725. Most of ASCII is in no drawn text."""
    return without("$")


@plant(laws.text_round_trip)
def quotes_of_the_penn_treebank():
    """A straight quotation mark becomes two backquotes or two apostrophes, which nobody turns back: nltk issue 2295."""
    return without('"', "''")


@plant(laws.text_round_trip)
def two_backquotes_taken_for_a_quotation_mark():
    """A detokenizer that does turn them back cannot know which stood in the text, as nltk issue 2935 says."""
    return (encode, lambda ids: decode(ids).replace("``", '"')), (encode, decode)


@plant(laws.text_round_trip)
def a_carriage_return_taken_for_a_newline():
    """Lines once ended so on a Macintosh, and a reader that keeps both characters of Windows may not keep the one. (No
    thread known to us.)"""
    return (lambda text: encode(re.sub("\r(?!\n)", "\n", text)), decode), (encode, decode)


@plant(laws.text_round_trip)
def entities_that_are_unescaped():
    """What undoes `&amp;` undoes it also in a plain text that spells it: sacrebleu issue 15."""
    return (encode, lambda ids: html.unescape(decode(ids))), (encode, decode)


@plant(laws.text_round_trip)
def a_backslash_and_an_n():
    """Escapes of a prompt are processed, also in a text that is about them: llama.cpp pull request 1173."""
    return without(r"\n", "\n")


@plant(laws.text_round_trip)
def the_spelling_of_a_byte_taken_for_a_byte():
    """`<0x41>` is how a vocabulary spells a byte that it falls back to, and a text may spell it too: zml pull request
    37."""
    byte = lambda match: chr(int(match[1], 16))  # noqa: E731
    return (encode, lambda ids: re.sub("<0x([0-7][0-9A-F])>", byte, decode(ids))), (encode, decode)


@plant(laws.text_round_trip)
def a_heart_that_loses_its_colour():
    """U+FE0F makes an emoji of a sign and is a character by itself, which cleaners drop: unsloth pull request 10741."""
    return without("\ufe0f")


@plant(laws.text_round_trip)
def a_wide_comma_made_narrow():
    """NFKC, SentencePiece's own habit, writes the comma of Chinese as that of English: sentencepiece issue 643."""
    return without("，", ",")


@plant(laws.bytes_round_trip)
def bytes_that_are_no_characters():
    """Bytes pass through a string and come back as U+FFFD: tiktoken issue 388 asks for a way around it."""
    lossy = lambda data: list(data.decode(errors="replace").encode())  # noqa: E731
    return (lossy, bytes), (list, bytes)


@plant(laws.pieces_join)
def half_a_character_decoded_alone():
    """Each token decoded to text by itself turns half a character into U+FFFD: Megatron-LM issue 4126."""
    one_by_one = lambda ids: "".join(bytes([i]).decode(errors="replace") for i in ids).encode()  # noqa: E731
    return (encode, lambda ids: bytes(ids) if len(ids) != 1 else one_by_one(ids)), (encode, bytes)


@plant(laws.special_tokens_stay_text, specials={END: 256})
def a_user_who_types_the_end():
    """The spelling of a control token in a user's message becomes the token: tokenizers issue 1347, gemma issue 768,
    transformers issue 29279."""

    def obliging(text):
        pieces = re.split(f"({re.escape(END)})", text)
        return [i for piece in pieces for i in ([256] if piece == END else piece.encode())]

    return obliging, encode


@plant(laws.ids_in_vocabulary, n=256)
def a_token_without_a_row():
    """A token added to the tokenizer but not to the embedding; a GPU or JAX doesn't even complain: transformers issue
    1062, E5-V issue 7."""
    return lambda text: [*encode(text), 256], encode
