r"""A decoder over any attention variant: what attention laboratories hold their variants side by side in.

x = E[tokens]
x = x + mixer(norm(x))              for each block; the mixer brings its own positions, if it has any
x = x + feed_forward(norm(x))       unless left out: tests of recall leave it out, so that nothing else can recall
logits = norm(x) Eᵀ                 the embedding, transposed, reads the answer out
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minilm import variants
from minilm.data.batching import Batch
from minilm.layers.dropout import dropout
from minilm.layers.embedding import embed, init_embedding, unembed
from minilm.layers.feed_forward import GLUParams, init_glu, swiglu
from minilm.layers.normalization import RMSNormParams, init_rms_norm, rms_norm
from minilm.losses import cross_entropy
from minilm.shapes import Mixer, Tokens


@jax.tree_util.register_static
@dataclass(frozen=True)
class Config:
    """Hyper-parameters; `mixer` is a row of `minilm.variants` with its options, such as `window:width=64`."""

    vocab_size: int = 50257
    context_length: int = 1024
    n_layers: int = 12
    n_heads: int = 12
    d_model: int = 768
    mixer: str = "mha"
    feed_forward: bool = True
    dropout: float = 0.0
    remat: bool = False  # recompute a block's activations in the backward pass instead of keeping them

    def __post_init__(self):
        self.made()  # a mixer that does not exist is refused here

    def made(self) -> Mixer:
        """The functions behind the mixer's name."""
        return variants.make(self.mixer, self.d_model, self.n_heads)


class BlockParams(NamedTuple):
    """One block: two residual branches, each with its norm; None for a branch that was left out."""

    mixer_norm: RMSNormParams
    mixer: Any
    feed_forward_norm: RMSNormParams | None
    feed_forward: GLUParams | None


class Params(NamedTuple):
    """The whole decoder; the embedding reads out too."""

    embedding: Float[Array, "n d"]
    blocks: tuple[BlockParams, ...]
    norm: RMSNormParams


def init(key, config: Config) -> Params:
    """Random parameters: the embedding N(0, 0.02²), every mixer as its variant begins."""
    d, mixer = config.d_model, config.made()
    embedding_key, *block_keys = jax.random.split(key, 1 + config.n_layers)

    def init_block(key):
        mixer_key, feed_forward_key = jax.random.split(key)
        block = BlockParams(init_rms_norm(d), mixer.init(mixer_key, d), None, None)
        if not config.feed_forward:
            return block
        f = math.ceil(8 * d / 3)  # three matrices of this width hold what two of 4 d do
        feed_forward = init_glu(feed_forward_key, d, f)
        return block._replace(feed_forward_norm=init_rms_norm(d), feed_forward=feed_forward)

    embedding = init_embedding(embedding_key, config.vocab_size, d, deviation=0.02)
    return Params(embedding, tuple(init_block(key) for key in block_keys), init_rms_norm(d))


def features(params: Params, tokens: Int[Array, "... t"], *, config: Config, key=None) -> Float[Array, "... t d"]:
    """What the un-embedding reads, `(..., t, d)`: whoever needs few logits takes them of few positions."""
    where, mixer = Tokens.arange(tokens.shape[-1]), config.made()
    keys = [None] * (1 + config.n_layers) if key is None else list(jax.random.split(key, 1 + config.n_layers))

    def block(params, x, key):
        return _block(params, x, lambda p, x: mixer.apply(p, x, where), config.dropout, key)

    x = dropout(embed(params.embedding, tokens), config.dropout, keys[0])
    for block_params, block_key in zip(params.blocks, keys[1:], strict=True):
        x = (jax.checkpoint(block) if config.remat else block)(block_params, x, block_key)
    return rms_norm(params.norm, x)


def apply(params: Params, tokens: Int[Array, "... t"], *, config: Config, key=None) -> Float[Array, "... t n"]:
    """Logits of the next token at every position, `(..., t, n)`; dropout acts only when a key is given."""
    return unembed(params.embedding, features(params, tokens, config=config, key=key))


def loss(params: Params, batch: Batch, *, config: Config, key=None):
    """Mean cross-entropy in nats over the batch's weighted positions, and the metrics that training logs."""
    return cross_entropy(apply(params, batch.tokens, config=config, key=key), batch.targets, batch.weights)


def init_state(params: Params, size: int, *, config: Config) -> tuple:
    """Empty states for one sequence, with room for `size` positions where a state grows."""
    return tuple(config.made().init_state(block.mixer, size) for block in params.blocks)


def step(params: Params, state, tokens: Int[Array, " t"], position: Int[Array, " t"], *, config: Config):
    """Read a chunk of one sequence; return the new states and the logits after each of its tokens.

    Chunks of any length give what `apply` gives on the whole. A position of −1 marks padding.
    """
    where, mixer, states = Tokens(position, jnp.zeros_like(position)), config.made(), []
    x = embed(params.embedding, tokens)
    for block_params, block_state in zip(params.blocks, state, strict=True):

        def mix(p, x, block_state=block_state):
            after, y = mixer.step(p, block_state, x, where)
            states.append(after)
            return y

        x = _block(block_params, x, mix, 0.0, None)
    return tuple(states), unembed(params.embedding, rms_norm(params.norm, x))


def _block(params, x, mix, rate, key):
    mixer_key, feed_forward_key = (None, None) if key is None else jax.random.split(key)
    x = x + dropout(mix(params.mixer, rms_norm(params.mixer_norm, x)), rate, mixer_key)
    if params.feed_forward is None:
        return x
    return x + dropout(swiglu(params.feed_forward, rms_norm(params.feed_forward_norm, x)), rate, feed_forward_key)
