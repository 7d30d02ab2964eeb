"""Attention as a recurrence: what is read goes into a state of fixed size, and each row is another way to write it."""

from minilm.layers.linear_attention.delta_net import delta_mixer, gated_delta_mixer
from minilm.layers.linear_attention.feature_maps import elu_plus_one
from minilm.layers.linear_attention.gated import gated_linear_mixer
from minilm.layers.linear_attention.linear import based_mixer, linear_mixer, performer_mixer
from minilm.layers.linear_attention.mamba import mamba2_mixer
from minilm.layers.linear_attention.retention import retention_mixer
from minilm.layers.linear_attention.rwkv import rwkv6_mixer
from minilm.variants.table import heads_of, variant


@variant("state", paper="arXiv:2006.16236")
def linear(d, heads, chunk=64):
    """Linear attention: elu(x) + 1 of queries and keys, not the exponential of their product; no positions."""
    return linear_mixer(elu_plus_one, **state_heads(d, heads), chunk=chunk)


@variant("state", paper="arXiv:2402.18668")
def based(d, heads, width=16, chunk=64):
    """Based: the exponential's Taylor series up to the square, of keys as narrow as `width`; no positions."""
    return based_mixer(**state_heads(d, heads) | {"k": width}, chunk=chunk)


@variant("state", paper="arXiv:2009.14794")
def performer(d, heads, features=64, chunk=64):
    """Performer: random features whose product is the softmax's weight on average; no positions."""
    return performer_mixer(**state_heads(d, heads), m=features, chunk=chunk)


@variant("state", paper="arXiv:2307.08621")
def retnet(d, heads, chunk=64):
    """RetNet: every head forgets at a fixed rate of its own; positions are rotary."""
    return retention_mixer(**state_heads(d, heads), chunk=chunk)


@variant("state", paper="arXiv:2312.06635")
def gla(d, heads):
    """Gated linear attention: what each key dimension forgets is read from the input."""
    return gated_linear_mixer(**state_heads(d, heads))


@variant("state", paper="arXiv:2404.05892")
def rwkv6(d, heads):
    """RWKV-6: such gates, the current token read apart from the state, and a token shift not read from the data."""
    return rwkv6_mixer(**state_heads(d, heads))


@variant("state", paper="arXiv:2405.21060")
def mamba2(d, heads, state=64, chunk=64, fastest=16.0):
    """Mamba-2: how much a head forgets is read from the input; heads share keys and queries of width `state`."""
    return mamba2_mixer(g=heads, k=state, v=heads_of(d, heads)["v"], chunk=chunk, fastest=fastest)


@variant("state", paper="arXiv:2406.06484")
def delta_net(d, heads, chunk=32):
    """DeltaNet: what the state already holds under a key is subtracted from what is written there."""
    return delta_mixer(**state_heads(d, heads), chunk=chunk)


@variant("state", paper="arXiv:2412.06464")
def gated_delta_net(d, heads, chunk=32, fastest=16.0):
    """Gated DeltaNet: the same in a state that fades as the input says."""
    return gated_delta_mixer(**state_heads(d, heads), chunk=chunk, fastest=fastest)


def state_heads(d: int, heads: int) -> dict[str, int]:
    """The sizes g, k and v of heads that share the width d, each with a state `(k, v)`."""
    sizes = heads_of(d, heads)
    return {name: sizes[name] for name in ("g", "k", "v")}
