"""Reading a `tokenizer.json`: minilm's own, and a byte-level BPE from elsewhere, such as GPT-2's."""

import json
from pathlib import Path

from minilm.data.tokenizers.base import END_OF_TEXT, Tokenizer
from minilm.data.tokenizers.bpe import BPETokenizer
from minilm.data.tokenizers.byte import CHARACTER_TO_BYTE, ByteTokenizer
from minilm.data.tokenizers.character import CharacterTokenizer


def load(path: str | Path) -> Tokenizer:
    """The tokenizer that a `tokenizer.json` describes; what minilm can't reproduce exactly is refused in a sentence."""
    path = Path(path)
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no tokenizer at {path}; give the path of a tokenizer.json.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no tokenizer.json: it doesn't hold JSON ({error}).") from None
    try:
        return _build(contents)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is no complete tokenizer.json: {type(error).__name__} {error}.") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _build(contents):
    model, cutter = contents["model"], contents.get("pre_tokenizer") or {}
    _require(model.get("type", "BPE") == "BPE", f"its model is {model.get('type')}, where BPE was expected")
    _require(not contents.get("normalizer"), "it normalizes text, which minilm doesn't")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges", "unk_token"):
        _require(not model.get(option), f"its model sets {option}, which minilm doesn't know")
    vocab: dict[str, int] = model["vocab"]
    special = {token["content"]: token["id"] for token in contents.get("added_tokens", [])}
    ordinary = {spelling: i for spelling, i in vocab.items() if spelling not in special}
    _require(bool(ordinary), "its vocabulary is empty")
    _require(min(*ordinary.values(), *special.values()) >= 0, "it has negative ids")
    if model.get("byte_fallback"):
        _require(not model["merges"] and not cutter, "it combines byte fallback with merges or a pre-tokenizer")
        alphabet = [spelling for spelling in ordinary if len(spelling) == 1]
        tokenizer = CharacterTokenizer(alphabet, special)
        _require(
            tokenizer.pipeline()["model"]["vocab"] == vocab,
            "its ids are not in the order of minilm's character tokenizer",
        )
        return tokenizer
    _require(
        cutter.get("type") == "ByteLevel", f"its pre-tokenizer is {cutter.get('type')}, where ByteLevel was expected"
    )
    _require(not cutter.get("add_prefix_space"), "it adds a space before the text, which minilm doesn't")
    if not cutter.get("use_regex", True):
        tokenizer = ByteTokenizer(special)
        _require(
            not model["merges"] and tokenizer.pipeline()["model"]["vocab"] == vocab,
            "it is no byte tokenizer: it has other ids, or merges",
        )
        return tokenizer
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    token_bytes = [b""] * (max(ordinary.values()) + 1)
    for spelling, i in ordinary.items():
        token_bytes[i] = bytes(CHARACTER_TO_BYTE[character] for character in spelling)
    return BPETokenizer(
        token_bytes, [(vocab[a], vocab[b]) for a, b in pairs], special or {END_OF_TEXT: len(token_bytes)}
    )


def _require(condition, otherwise):
    if not condition:
        raise ValueError(f"this tokenizer.json can't be reproduced exactly: {otherwise}.")
