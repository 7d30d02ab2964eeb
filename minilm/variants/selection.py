"""Attention that chooses what it reads by what it has read."""

from minilm.layers.attention.block_selection import moba_mixer
from minilm.layers.attention.native_sparse import native_sparse_mixer
from minilm.variants.table import heads_of, variant


@variant("selection", paper="arXiv:2502.13189")
def moba(d, heads, size=64, n=3):
    """Mixture of block attention: a query reads its own block and the n past ones of best mean key; no positions."""
    return moba_mixer(**heads_of(d, heads), size=size, n=n, bias=False)


@variant("selection", paper="arXiv:2502.11089")
def nsa(d, heads, groups=1, length=32, stride=16, size=64, n=4, width=64):
    """Native sparse attention: compressed blocks, blocks they select, a window; outside a block, no positions."""
    sizes = {"length": length, "stride": stride, "size": size, "n": n, "width": width}
    return native_sparse_mixer(**heads_of(d, heads, groups), **sizes, bias=False)
