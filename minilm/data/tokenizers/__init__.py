"""Tokenizers: text to ids and back, each saved as a `tokenizer.json` that the `tokenizers` library reads alike."""

from minilm.data.tokenizers.base import END_OF_TEXT, Stream, Tokenizer
from minilm.data.tokenizers.bpe import BPETokenizer
from minilm.data.tokenizers.byte import ByteTokenizer
from minilm.data.tokenizers.character import CharacterTokenizer
from minilm.data.tokenizers.file import load

__all__ = ["END_OF_TEXT", "BPETokenizer", "ByteTokenizer", "CharacterTokenizer", "Stream", "Tokenizer", "load"]
