r"""GPT-2 (Radford et al., 2019): a decoder-only Transformer with learned positions and pre-norm blocks.

x = E[tokens] + P[positions]
x = x + attention(norm(x))          for each block: mix positions causally,
x = x + feed_forward(norm(x))       then transform each position alone
logits = norm(x) Eᵀ                 the embedding, transposed, reads the answer out
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minilm.data.batching import Batch
from minilm.layers.attention.cache import KVCache, init_cache
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Causal
from minilm.layers.attention.multi_head import MultiHeadParams, init_multi_head, multi_head, multi_head_step
from minilm.layers.dropout import dropout
from minilm.layers.embedding import embed, init_embedding, unembed
from minilm.layers.feed_forward import MLPParams, init_mlp, mlp
from minilm.layers.normalization import LayerNormParams, init_layer_norm, layer_norm
from minilm.losses import cross_entropy
from minilm.shapes import Tokens


@jax.tree_util.register_static
@dataclass(frozen=True)
class Config:
    """GPT-2's hyper-parameters; the defaults are those of its smallest release, of 124 million parameters."""

    vocab_size: int = 50257
    context_length: int = 1024
    n_layers: int = 12
    n_heads: int = 12
    d_model: int = 768
    dropout: float = 0.0
    remat: bool = False  # recompute a block's activations in the backward pass instead of keeping them


class BlockParams(NamedTuple):
    """One block: two residual branches, each with its norm."""

    attention_norm: LayerNormParams
    attention: MultiHeadParams
    feed_forward_norm: LayerNormParams
    feed_forward: MLPParams


class Params(NamedTuple):
    """All of GPT-2; `unembedding=None` ties the output to the embedding, as GPT-2 does."""

    embedding: Float[Array, "n d"]
    position_embedding: Float[Array, "p d"]
    blocks: tuple[BlockParams, ...]
    norm: LayerNormParams
    unembedding: Float[Array, "n d"] | None = None


def init(key, config: Config) -> Params:
    """Random parameters: N(0, 0.02²), and those that end a residual branch smaller by √(2 n_layers), as in GPT-2."""
    d, deviation = config.d_model, 0.02
    embedding_key, position_key, *block_keys = jax.random.split(key, 2 + config.n_layers)
    residual = deviation / math.sqrt(2 * config.n_layers)

    def init_block(key):
        attention_key, mlp_key = jax.random.split(key)
        k = d // config.n_heads
        attention = init_multi_head(
            attention_key, d, g=config.n_heads, r=1, k=k, v=k, deviation=deviation, out_deviation=residual
        )
        feed_forward = init_mlp(mlp_key, d, 4 * d, deviation=deviation, out_deviation=residual)
        return BlockParams(init_layer_norm(d), attention, init_layer_norm(d), feed_forward)

    return Params(
        embedding=init_embedding(embedding_key, config.vocab_size, d, deviation=deviation),
        position_embedding=init_embedding(position_key, config.context_length, d, deviation=deviation),
        blocks=tuple(init_block(key) for key in block_keys),
        norm=init_layer_norm(d),
    )


def apply(params: Params, tokens: Int[Array, "... t"], *, config: Config, key=None) -> Float[Array, "... t n"]:
    """Logits of the next token at every position, `(..., t, n)`; dropout acts only when a key is given."""
    where = Tokens.arange(tokens.shape[-1])
    keys = [None] * (1 + config.n_layers) if key is None else list(jax.random.split(key, 1 + config.n_layers))

    def block(params, x, key):
        return _block(params, x, lambda p, x: multi_head(p, x, where, Dense(Causal())), config.dropout, key)

    x = dropout(_embed(params, tokens, where.position), config.dropout, keys[0])
    for block_params, block_key in zip(params.blocks, keys[1:], strict=True):
        x = (jax.checkpoint(block) if config.remat else block)(block_params, x, block_key)
    return _unembed(params, x)


def loss(params: Params, batch: Batch, *, config: Config, key=None):
    """Mean cross-entropy in nats over the batch's weighted positions, and the metrics that training logs."""
    return cross_entropy(apply(params, batch.tokens, config=config, key=key), batch.targets, batch.weights)


def init_state(params: Params, size: int, *, config: Config) -> tuple[KVCache, ...]:
    """Empty caches for one sequence, with room for `size` positions."""
    return tuple(init_cache(block.attention, size) for block in params.blocks)


def step(params: Params, state, tokens: Int[Array, " t"], position: Int[Array, " t"], *, config: Config):
    """Read a chunk of one sequence; return the new caches and the logits after each of its tokens.

    Chunks of any length give what `apply` gives on the whole. A position of −1 marks padding.
    """
    where, caches = Tokens(position, jnp.zeros_like(position)), []
    x = _embed(params, tokens, position)
    for block_params, cache in zip(params.blocks, state, strict=True):

        def attention(p, x, cache=cache):
            cache, y = multi_head_step(p, cache, x, where, Dense(Causal()))
            caches.append(cache)
            return y

        x = _block(block_params, x, attention, 0.0, None)
    return tuple(caches), _unembed(params, x)


def _embed(params, tokens, position):
    return embed(params.embedding, tokens) + embed(params.position_embedding, jnp.maximum(position, 0))


def _block(params, x, attention, rate, key):
    attention_key, mlp_key = (None, None) if key is None else jax.random.split(key)
    x = x + dropout(attention(params.attention, layer_norm(params.attention_norm, x)), rate, attention_key)
    return x + dropout(mlp(params.feed_forward, layer_norm(params.feed_forward_norm, x)), rate, mlp_key)


def _unembed(params, x):
    unembedding = params.embedding if params.unembedding is None else params.unembedding
    return unembed(unembedding, layer_norm(params.norm, x))
