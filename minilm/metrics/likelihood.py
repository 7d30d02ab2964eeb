r"""What a model's loss says in units that compare: perplexity, and bits for each byte or character of the text.

All three take the *total* loss of a text in nats, so that no mean has to say over what it was taken.
"""

import math


def perplexity(nats: float, n_tokens: int) -> float:
    r"""Among how many equally likely tokens the model is left to choose, on average.

    $$ \exp\left(\frac{\text{nats}}{\text{tokens}}\right) = \left(\prod_i P(w_i \mid w_{<i})\right)^{-1/t} $$

    It compares models of one vocabulary only: who cuts a text into fewer tokens has more to guess at each.

    Args:
      nats: the text's total cross-entropy, −Σ log P.
      n_tokens: t, the tokens it was taken over.
    Returns:
      At least 1 for any probabilities; infinite where it exceeds the largest float.
    Raises:
      ValueError: n_tokens is not positive.

    >>> round(perplexity(nats=math.log(50) * 10, n_tokens=10), 9)
    50.0
    """
    try:
        return math.exp(nats / _positive(n_tokens, "token"))
    except OverflowError:
        return math.inf


def bits_per_byte(nats: float, n_bytes: int) -> float:
    r"""The loss on a text in bits for each of its bytes, which no choice of tokenizer can flatter.

    $$ \frac{\text{nats}}{\ln 2 \cdot \text{bytes}} $$

    Args:
      nats: the text's total cross-entropy, −Σ log P.
      n_bytes: its length in UTF-8.
    Raises:
      ValueError: n_bytes is not positive.

    >>> bits_per_byte(nats=math.log(256) * 10, n_bytes=10)
    8.0
    """
    return nats / math.log(2) / _positive(n_bytes, "byte")


def bits_per_character(nats: float, n_characters: int) -> float:
    r"""The loss on a text in bits for each of its characters: bits per byte, times the bytes of a character.

    $$ \frac{\text{nats}}{\ln 2 \cdot \text{characters}} $$

    Older papers on English text give this one; where all is ASCII, it is bits per byte.

    Args:
      nats: the text's total cross-entropy, −Σ log P.
      n_characters: its length in Unicode code points, Python's `len`.
    Raises:
      ValueError: n_characters is not positive.

    >>> bits_per_character(nats=math.log(2) * 12, n_characters=len("四个字符"))
    3.0
    """
    return nats / math.log(2) / _positive(n_characters, "character")


def _positive(count, what):
    if not count > 0:
        raise ValueError(f"expected at least one {what} to share the loss among, got {count}: measure on some text.")
    return count
