"""Softmax attention, and what becomes of it when one line is another: each row is that line.

Where a row says nothing else, positions are rotary and no token sees the future. `usual` is the softmax of `mha`, in
tiles where scores are many; `Dense` stands where a row takes all of a query's scores in another way.
"""

from dataclasses import replace
from functools import partial

import jax
from jax.tree_util import Partial

from minilm.layers.attention.core import Dense
from minilm.layers.attention.differential import differential_mixer
from minilm.layers.attention.forgetting import forgetting_mixer
from minilm.layers.attention.gated import gated_mixer
from minilm.layers.attention.latent import latent_mixer
from minilm.layers.attention.masks import Causal, Chunked, Dilated, Prefix, SlidingWindow
from minilm.layers.attention.multi_head import learned_mixer, softmax_mixer
from minilm.layers.attention.qk_norm import CosineHeads, NormalizedHeads, init_qk_norm, init_temperature
from minilm.layers.attention.rotary import Rotary
from minilm.layers.attention.sigmoid import init_shift, sigmoid_attention
from minilm.layers.attention.sinks import init_sink, sink_attention
from minilm.layers.attention.soft_cap import soft_capped_attention
from minilm.layers.attention.sparse_masks import big_bird_rule
from minilm.layers.attention.streaming import streaming_mixer
from minilm.layers.attention.talking_heads import init_talking_heads, talking_heads_attention
from minilm.layers.attention.top_k import top_k_attention
from minilm.shapes import Mixer
from minilm.variants.table import heads_of, usual, variant


def ruled(rule, d: int, heads: int, groups: int | None = None) -> Mixer:
    """Rotary attention under a mask rule."""
    return softmax_mixer(Rotary(usual(rule)), **heads_of(d, heads, groups), bias=False)


def weighed(attention: Partial, d: int, heads: int) -> Mixer:
    """Rotary causal attention with another way from scores to weights."""
    return softmax_mixer(Rotary(Dense(Causal(), attention=attention)), **heads_of(d, heads), bias=False)


def learned(init_attend, attend_of, d: int, heads: int) -> Mixer:
    """The same with parameters of its own: `init_attend(key)` makes them, `attend_of` the attention of them."""
    return learned_mixer(init_attend, attend_of, **heads_of(d, heads), bias=False)


def bounded(mixer: Mixer, most: int, way_out: str) -> Mixer:
    """The same, where more than `most` tokens, and a cache of more, are refused."""

    def check(length):
        if length > most:
            raise ValueError(f"{length} tokens are more than the {most} that can be read: {way_out}.")

    def apply(params, x, tokens):
        check(x.shape[-2])
        return mixer.apply(params, x, tokens)

    def init_state(params, size, dtype=None):
        check(size)
        return mixer.init_state(params, size, dtype)

    return replace(mixer, apply=apply, init_state=init_state)


@variant("softmax", paper="arXiv:1706.03762")
def mha(d, heads):
    """Multi-head attention: every head has keys and values of its own; rotary, not the paper's sinusoids."""
    return ruled(Causal(), d, heads)


@variant("softmax", paper="arXiv:1911.02150")
def mqa(d, heads):
    """Multi-query attention: all heads read one head of keys and values."""
    return ruled(Causal(), d, heads, groups=1)


@variant("softmax", paper="arXiv:2305.13245")
def gqa(d, heads, groups=2):
    """Grouped queries: several heads read one head of keys and values."""
    return ruled(Causal(), d, heads, groups)


@variant("softmax", paper="arXiv:2004.05150")
def window(d, heads, width=256):
    """Sliding window: a token sees itself and the width − 1 before it."""
    return ruled(Causal() & SlidingWindow(width), d, heads)


@variant("softmax", paper="arXiv:2004.05150")
def dilated(d, heads, width=64, rate=4):
    """Dilated window: every rate-th of the width · rate tokens before."""
    return ruled(Causal() & SlidingWindow(width * rate) & Dilated(rate), d, heads)


@variant("softmax", paper="arXiv:2004.05150")
def longformer(d, heads, width=256, first=16):
    """Longformer, one way: a window, and the first tokens, which all see."""
    return ruled(Causal() & (SlidingWindow(width) | Prefix(first)), d, heads)


@variant("softmax", paper="arXiv:2007.14062")
def big_bird(d, heads, size=64, blocks=64, random=3):
    """BigBird, one way: a window of two blocks, two blocks that all see, and others drawn by lot among `blocks`.

    Beyond these nothing is drawn, so a sequence of more than size · blocks tokens is refused.
    """
    rule = big_bird_rule(jax.random.key(0), size=size, n_blocks=blocks, n_random=random)
    way_out = f"big-bird draws lots among {blocks} blocks of {size}, so give it more `blocks`"
    return bounded(ruled(Causal() & rule, d, heads), size * blocks, way_out)


@variant("softmax", paper="Llama 4")
def chunked(d, heads, size=256):
    """Chunks, of which none sees another."""
    return ruled(Causal() & Chunked(size), d, heads)


@variant("softmax", paper="arXiv:2309.17453")
def streaming(d, heads, sinks=4, width=256):
    """StreamingLLM: the first tokens and the last ones, placed by where they stand in the cache."""
    return streaming_mixer(**heads_of(d, heads), sinks=sinks, window=width, bias=False)


@variant("softmax", paper="arXiv:2508.10925")
def sink(d, heads):
    """A learned sink: one more key of a learned score and no value, for heads that find nothing."""
    return learned(
        lambda key: init_sink(heads, 1),
        lambda sink: Rotary(Dense(Causal(), attention=Partial(sink_attention, sink))),
        d,
        heads,
    )


@variant("softmax", paper="arXiv:2408.00118")
def soft_cap(d, heads, cap=50.0):
    """Soft-capped scores: no score goes beyond a cap, by a tanh."""
    return weighed(Partial(soft_capped_attention, cap), d, heads)


@variant("softmax", paper="arXiv:2010.04245")
def qk_norm(d, heads):
    """Normalised queries and keys: each of root mean square one, scaled as learned, before they turn and meet."""
    return learned(
        lambda key: init_qk_norm(d // heads),
        lambda norms: NormalizedHeads(Rotary(usual(Causal())), norms.q_norm, norms.k_norm),
        d,
        heads,
    )


@variant("softmax", paper="arXiv:2010.04245")
def cosine(d, heads, length=256):
    """Cosine attention: the angle between query and key, at a learned temperature."""
    return learned(
        lambda key: init_temperature(heads, 1, length),
        lambda scale: CosineHeads(Rotary(usual(Causal())), scale),
        d,
        heads,
    )


@variant("softmax", paper="arXiv:2409.04431")
def sigmoid(d, heads, length=256):
    """Sigmoid attention: every key is weighed by itself; the scores begin lower by the logarithm of the length."""
    return learned(
        lambda key: init_shift(heads, 1, length),
        lambda shift: Rotary(Dense(Causal(), attention=Partial(sigmoid_attention, shift))),
        d,
        heads,
    )


@variant("softmax", paper="arXiv:1912.11637")
def top_k(d, heads, n=16):
    """Explicit sparsity: only the n largest scores enter the softmax."""
    return weighed(Partial(partial(top_k_attention, n=n)), d, heads)


@variant("softmax", paper="arXiv:2003.02436")
def talking_heads(d, heads):
    """Talking heads: scores are mixed over heads before the softmax, and weights after it."""
    return learned(
        lambda key: init_talking_heads(heads, 1),
        lambda mixing: Rotary(Dense(Causal(), attention=Partial(talking_heads_attention, mixing))),
        d,
        heads,
    )


@variant("softmax", paper="arXiv:2505.06708")
def gated(d, heads):
    """Gated output: what a head brings passes a gate that the query's token opens."""
    return gated_mixer(Rotary(usual(Causal())), **heads_of(d, heads), bias=False)


@variant("softmax", paper="arXiv:2405.04434")
def mla(d, heads, latent=0, rotary=0):
    """Multi-head latent attention: all heads read keys and values off one short vector, the only thing kept.

    The vector is half as wide as the model, and the rotary key beside it as half a head, unless given.
    """
    sizes = heads_of(d, heads)
    sizes |= {"latent": latent or d // 2, "rotary": rotary or sizes["k"] // 2}
    return latent_mixer(Causal(), **sizes, attention=usual)


@variant("softmax", paper="arXiv:2410.05258")
def differential(d, heads, depth=1):
    """Differential attention: one softmax minus a share of another, so that what both see cancels; no positions."""
    sizes = heads_of(d, heads)
    if heads % 2:
        raise ValueError(f"Differential attention pairs its heads, and {heads} are odd: choose an even number.")
    return differential_mixer(g=heads // 2, r=1, k=sizes["k"], v=2 * sizes["v"], depth=depth)


@variant("softmax", paper="arXiv:2503.02130")
def forgetting(d, heads):
    """Forgetting attention: a score fades by the gates of all tokens between; there are no positions beside them."""
    return forgetting_mixer(Causal(), **heads_of(d, heads), bias=False)
