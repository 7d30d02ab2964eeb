"""Every variant, core and backend: what it is, what it can be told, where it is from, and why it is unavailable here.

Variants are whole mixers, for --variants of `ops` and `decode`; cores are the attention inside, for --cores of `ops`.
All variants also take `convolution=3`, a short convolution before them. Backends are those of a model's softmax
attention, by `minilm.backends.Attention(rule, backend=...)`.
"""

from benchmarks.attention import cores, options
from benchmarks.attention.candidates import Spec


def main(words: list[str]) -> int:
    """Read the options, and run."""
    parser = options.Parser("list", __doc__)
    options.add_device(parser)
    return run(parser.parse_args(words))


def run(chosen) -> int:
    """Print the tables."""
    import jax

    from minilm import variants
    from minilm.backends import BACKENDS, limits
    from minilm.layers.attention.masks import Causal

    platform = jax.default_backend()
    for name, row in variants.VARIANTS.items():
        _entry(name, row.family, row.about, row.options, row.paper)
    for name, build in cores.CORES.items():
        made = cores.make(name, 8, 64)
        missing = made.supports(Spec("float32", "fwd", platform))
        _entry(name, f"core, {made.backend}", cores.about(build), cores.options_of(build), "", missing)
    asked = limits.Spec(Causal(), None, 8, 1, 1024, 1024, 64, 64, in_order=True, platform=platform)
    for name, backend in BACKENDS.items():
        _entry(name, "backend", backend.about, {}, "", backend.supports(asked))
    print("my_module:my_attention names a variant of your own: a function (d, heads, **options) -> Mixer.")
    return 0


def _entry(name, family, about, options, paper, missing=None):
    print(f"{name:18}{about}")
    told = ", ".join(f"{key}={value}" for key, value in options.items())
    print(f"{'':18}{'; '.join(filter(None, (family, told and f'options {told}', paper)))}")
    if missing:
        print(f"{'':18}unavailable here: {missing}")
    print()
