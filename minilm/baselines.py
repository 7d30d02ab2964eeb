"""What a neural model must beat: bits per byte of models that count, and of a compressor."""

import lzma
from collections.abc import Sequence

from minilm.config import ORDERS
from minilm.data.token_file import TokenFile
from minilm.data.tokenizers import Tokenizer
from minilm.models import ngram

COUNTED = 1 << 24  # tokens of either text that a baseline looks at: counting them takes some 2 GB


def baselines(names: Sequence[str], train: TokenFile, validation: TokenFile, tokenizer: Tokenizer) -> dict[str, float]:
    """Bits per byte of simple models on the held-out text, by name.

    The n-gram models, interpolated Kneser-Ney all, see the same tokens and pay for the same targets as the model, ends
    of documents included. `xz` compresses the held-out text alone, and pays for no ends. Of either text they take the
    first 16.8 million tokens.

    Args:
      names: of `unigram`, `bigram`, `trigram`, `4-gram`, `5-gram` and `xz`.
      train, validation: the corpus.
      tokenizer: that of the tokens.
    """
    results, seen, tokens = {}, train.tokens[:COUNTED], validation.tokens[:COUNTED]
    text = tokenizer.decode_bytes(tokens[tokens != tokenizer.end_of_text])
    held_out = validation._replace(tokens=tokens, n_bytes=len(text))
    for name in names:
        if name == "xz":
            results[name] = xz_bits_per_byte(text)
        elif name in ORDERS:
            model = ngram.kneser_ney(seen, ORDERS[name], train.vocab_size)
            results[name] = held_out.bits_per_byte(-float(ngram.log_probability(model, tokens)[1:].mean()))
        else:
            raise ValueError(f"There is no baseline called {name!r}; there are {', '.join(ORDERS)} and xz.")
    return results


def xz_bits_per_byte(data: bytes, given: bytes = b"") -> float:
    """What `xz -9e` makes of some bytes, in bits for each; `given` is compressed before them and not counted.

    >>> xz_bits_per_byte(bytes(10_000)) < 0.2
    True
    """
    preset = 9 | lzma.PRESET_EXTREME
    before = len(lzma.compress(given, preset=preset)) if given else 0
    return 8 * (len(lzma.compress(given + data, preset=preset)) - before) / len(data)
