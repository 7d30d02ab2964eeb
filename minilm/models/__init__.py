"""Models: namespaces with `Config, Params, init, apply, loss, init_state, step`, each a composition of `minilm.layers`.

None is imported until it is asked for, as `minilm.models.gpt`; the table below is what the command line knows of them.
"""

MODELS = {"gpt": "GPT-2: learned positions, layer norm before each branch, tied embedding (Radford et al., 2019)"}
