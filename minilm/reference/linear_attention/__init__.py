"""The recurrences of `minilm.layers.linear_attention`, token by token, walked back by hand."""
