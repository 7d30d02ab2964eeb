"""From a corpus to tokens on disk: read, hold some documents out, learn a tokenizer from the rest, encode both."""

from itertools import compress
from pathlib import Path
from typing import NamedTuple

from minilm.config import DataConfig
from minilm.data.corpora import documents
from minilm.data.held_out import held_out
from minilm.data.spool import Spool
from minilm.data.token_file import TokenFile, open_tokens, write_tokens
from minilm.data.tokenizers import BPETokenizer, ByteTokenizer, CharacterTokenizer, Tokenizer

_BLOCK = 1 << 22  # tokens looked at together


class Corpus(NamedTuple):
    """A corpus ready for training; the held-out documents are near-duplicates of none that is trained on."""

    train: TokenFile
    validation: TokenFile


def prepare(config: DataConfig, folder: str | Path) -> Corpus:
    """Write `tokenizer.json`, `train.bin` and `validation.bin` into the folder of a run, and open the tokens.

    The tokenizer learns from the training documents alone. Which documents are held out depends on their content,
    not on the run's seed, so that runs with other seeds are measured on the same text. The documents wait on disk and
    are read one by one, so the corpus may exceed memory; a BPE tokenizer holds its distinct words, at 300 bytes each.
    """
    folder = Path(folder)
    with Spool(documents(config.corpus, config.encoding), folder) as texts:
        out = held_out(texts, config.held_out)
        tokenizer = _learn(config, compress(texts, ~out))
        tokenizer.save(folder / "tokenizer.json")
        write_tokens(compress(texts, ~out), tokenizer, folder / "train.bin")
        write_tokens(compress(texts, out), tokenizer, folder / "validation.bin")
    return reopen(folder)


def reopen(folder: Path) -> Corpus:
    """The tokens that `prepare` wrote."""
    return Corpus(open_tokens(folder / "train.bin"), open_tokens(folder / "validation.bin"))


def check_lengths(corpus: Corpus, context_length: int) -> None:
    """Refuse a corpus of which one part is shorter than a context and its last target."""
    for name, tokens in [("training", corpus.train.tokens), ("held-out", corpus.validation.tokens)]:
        if len(tokens) <= context_length:
            raise ValueError(
                f"The {name} text has {len(tokens)} tokens, fewer than the {context_length + 1} of one context and its "
                f"last target: give more text, or --context-length {max(1, len(tokens) - 1)} or less."
            )


def check_ids(corpus: Corpus, vocab_size: int) -> None:
    """Refuse tokens that a model with this vocabulary doesn't know; one pass over them, a block at a time."""
    for name, tokens in [("training", corpus.train.tokens), ("held-out", corpus.validation.tokens)]:
        for start in range(0, len(tokens), _BLOCK):
            block = tokens[start : start + _BLOCK]
            if (largest := int(block.max())) >= vocab_size:
                raise ValueError(
                    f"The {name} text holds the token id {largest}, at place {start + int(block.argmax())}, and the "
                    f"model knows ids from 0 to {vocab_size - 1}: its file was changed, or is another tokenizer's. "
                    f"Restore it, or train anew."
                )


def _learn(config, texts) -> Tokenizer:
    if config.tokenizer == "byte":
        return ByteTokenizer()
    if config.tokenizer == "char":
        return CharacterTokenizer.train(texts)
    return BPETokenizer.train(texts, config.vocab_size)
