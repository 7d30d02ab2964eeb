"""What counting and compressing give, in the unit that compares them with a neural model."""

import numpy as np
import pytest

from minilm.baselines import baselines
from minilm.data.token_file import write_tokens
from minilm.data.tokenizers import BPETokenizer, ByteTokenizer
from tests.tolerances import FORMULA, assert_close


def test_longer_contexts_and_the_right_answer_beat_shorter_ones(tmp_path):
    documents = [f"{a} and {b} are {a + b} in all. " * 5 for a in range(12) for b in range(12)]
    tokenizer = ByteTokenizer()
    train = write_tokens(documents[::2], tokenizer, tmp_path / "train")
    validation = write_tokens(documents[1::2], tokenizer, tmp_path / "validation")
    bits = baselines(["unigram", "bigram", "5-gram", "xz"], train, validation, tokenizer)
    assert 8 > bits["unigram"] > bits["bigram"] > bits["5-gram"] > 0
    assert bits["xz"] > 0


def test_a_uniform_guess_costs_the_logarithm_of_the_vocabulary(tmp_path):
    tokenizer = ByteTokenizer()
    tokens = write_tokens(["ab", "cde"], tokenizer, tmp_path / "tokens")
    # Five bytes and two ends are targets, and five bytes are divided by.
    assert_close(tokens.bits_per_byte(np.log(256)), 8 * 7 / 5, FORMULA)


def test_a_long_text_is_measured_on_its_beginning_and_by_that_s_own_bytes(tmp_path, monkeypatch):
    tokenizer = BPETokenizer.train(["abab " * 99], 262)
    train = write_tokens(["abab " * 99], tokenizer, tmp_path / "train")
    short = write_tokens(["abab " * 40], tokenizer, tmp_path / "short")
    long = write_tokens(["abab " * 40 + "漢字" * 50], tokenizer, tmp_path / "long")
    monkeypatch.setattr("minilm.baselines.COUNTED", len(short.tokens) - 1)
    ours, theirs = (baselines(["unigram", "xz"], train, part, tokenizer) for part in (short, long))
    assert ours == theirs


def test_an_unknown_baseline_is_named(tmp_path):
    tokenizer = ByteTokenizer()
    tokens = write_tokens(["some text"], tokenizer, tmp_path / "tokens")
    with pytest.raises(ValueError, match="no baseline called 'transformer'"):
        baselines(["transformer"], tokens, tokens, tokenizer)
