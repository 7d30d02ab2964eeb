"""Models: namespaces with `Config, Params, init, apply, loss, init_state, step`, each a composition of `minilm.layers`.

None is imported until it is asked for, as `minilm.models.gpt`; the table below is what `minilm train --model` takes.
"""

MODELS = {
    "gpt": "GPT-2: learned positions, layer norm before each branch, tied embedding (Radford et al., 2019)",
    "mixer_lm": "any attention variant, by its name in minilm.variants: --mixer gla, --mixer window:width=64, ...",
    "mlp_lm": "a neural n-gram: the last tokens' vectors, one hidden layer (Bengio et al., 2003)",
    "modern": "rotary positions, RMS norm, normalized queries and keys, squared ReLU",
    "rnn_lm": "a recurrent network: one state, rewritten at every token by --cell elman, gru or lstm",
}
