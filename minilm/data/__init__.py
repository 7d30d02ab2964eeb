"""Text in, batches of token ids out: tokenizers, corpora and batching, in NumPy and the standard library alone."""
