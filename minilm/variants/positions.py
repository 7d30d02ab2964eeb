"""Where tokens stand: the same causal softmax attention, told positions in another way by each row.

Dynamic NTK scaling has no row: its frequencies follow the length of the text, so that a token's output changes with
what comes after it, and no cache can be right. (`rotary_scaling.dynamic_ntk_frequencies` gives them for a length.)
"""

from minilm.layers.attention.biases import Alibi, T5Relative
from minilm.layers.attention.masks import Causal
from minilm.layers.attention.multi_head import learned_mixer, softmax_mixer
from minilm.layers.attention.rotary import Rotary, ScaledRotary
from minilm.layers.rotary_scaling import linear_frequencies, llama3_frequencies, ntk_frequencies, yarn_frequencies
from minilm.variants.table import heads_of, usual, variant


@variant("positions", paper="arXiv:2305.19466")
def nope(d, heads):
    """No positions at all: the causal mask alone tells a token how many came before it."""
    return softmax_mixer(usual(Causal()), **heads_of(d, heads), bias=False)


@variant("positions", paper="arXiv:2108.12409")
def alibi(d, heads):
    """ALiBi: scores fall with the distance, in each head at another rate."""
    return softmax_mixer(usual(Causal(), Alibi.of(heads, 1)), **heads_of(d, heads), bias=False)


@variant("positions", paper="arXiv:1910.10683")
def t5(d, heads, buckets=32):
    """T5's relative bias: a learned number for each head and bucket of distances, here beside scores with a root."""
    return learned_mixer(
        lambda key: T5Relative.init(key, heads, p=buckets, bidirectional=False),
        lambda bias: usual(Causal(), bias),
        **heads_of(d, heads),
        bias=False,
    )


@variant("positions", paper="arXiv:2104.09864")
def rotary(d, heads, theta=10000.0):
    """Rotary, as `mha` is: queries and keys are turned by their positions, so that scores know distances."""
    return softmax_mixer(Rotary(usual(Causal()), theta), **heads_of(d, heads), bias=False)


@variant("positions", paper="arXiv:2306.15595")
def interpolated(d, heads, factor=4.0):
    """Position interpolation: rotary, every angle divided by the factor by which texts grew."""
    return scaled(d, heads, linear_frequencies(d // heads, factor=factor))


@variant("positions", paper="arXiv:2309.00071")
def ntk(d, heads, factor=4.0):
    """NTK-aware scaling: rotary of a larger θ, which divides the slowest angle by the factor and leaves the fastest."""
    return scaled(d, heads, ntk_frequencies(d // heads, factor=factor))


@variant("positions", paper="arXiv:2309.00071")
def yarn(d, heads, factor=4.0, trained=2048):
    """YaRN: slow angles divided by the factor, fast ones kept, a ramp between, and sharper scores."""
    return scaled(d, heads, *yarn_frequencies(d // heads, factor=factor, trained_length=trained))


@variant("positions", paper="arXiv:2407.21783")
def llama3(d, heads, factor=8.0, trained=8192):
    """Llama 3's scaling: as YaRN's, with a ramp of its own and the scores as they were."""
    return scaled(d, heads, llama3_frequencies(d // heads, factor=factor, trained_length=trained))


def scaled(d, heads, frequencies, magnitude=1.0):
    """Rotary attention by other frequencies."""
    return softmax_mixer(ScaledRotary(usual(Causal()), frequencies, magnitude), **heads_of(d, heads), bias=False)
