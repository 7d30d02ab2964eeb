r"""A decoder as the open models since Llama compose it, and the one that `minilm train` trains.

GPT-2's two residual branches stand; every part inside them is a later paper's:

- positions by rotating queries and keys (arXiv:2104.09864) instead of adding a vector,
- queries and keys of unit size before they meet (QK-norm, arXiv:2010.04245), so that no score explodes at a high rate,
- norms without a mean and maps without a bias (arXiv:1910.07467),
- relu² between two matrices (arXiv:2109.08668),
- an output head of its own, and branches that begin at zero, so that training starts at exactly ln n.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minilm.data.batching import Batch
from minilm.layers.activation import squared_relu
from minilm.layers.attention.cache import KVCache, init_cache
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Causal
from minilm.layers.attention.multi_head import MultiHeadParams, init_multi_head, multi_head, multi_head_step
from minilm.layers.attention.qk_norm import NormalizedHeads
from minilm.layers.attention.rotary import Rotary
from minilm.layers.dropout import dropout
from minilm.layers.embedding import embed, init_embedding, unembed
from minilm.layers.feed_forward import MLPParams, init_mlp, mlp
from minilm.layers.normalization import RMSNormParams, init_rms_norm, rms_norm
from minilm.losses import cross_entropy
from minilm.shapes import Tokens


@jax.tree_util.register_static
@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the defaults give 124 million parameters in the blocks and head of GPT-2's smallest sizes."""

    vocab_size: int = 50257
    context_length: int = 1024
    n_layers: int = 12
    n_heads: int = 12
    d_model: int = 768
    dropout: float = 0.0
    remat: bool = False  # recompute a block's activations in the backward pass instead of keeping them


class AttentionParams(NamedTuple):
    """Multi-head attention, and the norms of its queries and keys."""

    multi_head: MultiHeadParams
    q_norm: RMSNormParams
    k_norm: RMSNormParams


class BlockParams(NamedTuple):
    """One block: two residual branches, each with its norm."""

    attention_norm: RMSNormParams
    attention: AttentionParams
    feed_forward_norm: RMSNormParams
    feed_forward: MLPParams


class Params(NamedTuple):
    """The whole decoder."""

    embedding: Float[Array, "n d"]
    embedding_norm: RMSNormParams
    blocks: tuple[BlockParams, ...]
    norm: RMSNormParams
    unembedding: Float[Array, "n d"]


def init(key, config: Config) -> Params:
    """Random parameters: N(0, 1/fan_in) into every branch, zero out of it and in the head."""
    d, k = config.d_model, config.d_model // config.n_heads
    embedding_key, head_key, *block_keys = jax.random.split(key, 2 + config.n_layers)

    def init_block(key):
        attention_key, mlp_key = jax.random.split(key)
        heads = init_multi_head(attention_key, d, g=config.n_heads, r=1, k=k, v=k, bias=False, out_deviation=0.0)
        feed_forward = init_mlp(mlp_key, d, 4 * d, bias=False, out_deviation=0.0)
        attention = AttentionParams(heads, q_norm=init_rms_norm(k), k_norm=init_rms_norm(k))
        return BlockParams(init_rms_norm(d), attention, init_rms_norm(d), feed_forward)

    return Params(
        embedding=init_embedding(embedding_key, config.vocab_size, d),
        embedding_norm=init_rms_norm(d),
        blocks=tuple(init_block(key) for key in block_keys),
        norm=init_rms_norm(d),
        unembedding=init_embedding(head_key, config.vocab_size, d, deviation=0.0),
    )


def apply(params: Params, tokens: Int[Array, "... t"], *, config: Config, key=None) -> Float[Array, "... t n"]:
    """Logits of the next token at every position, `(..., t, n)`; dropout acts only when a key is given."""
    where = Tokens.arange(tokens.shape[-1])
    keys = [None] * (1 + config.n_layers) if key is None else list(jax.random.split(key, 1 + config.n_layers))

    def attention(params, x):
        return multi_head(params.multi_head, x, where, _attend(params))

    def block(params, x, key):
        return _block(params, x, attention, config.dropout, key)

    x = dropout(_embed(params, tokens), config.dropout, keys[0])
    for block_params, block_key in zip(params.blocks, keys[1:], strict=True):
        x = (jax.checkpoint(block) if config.remat else block)(block_params, x, block_key)
    return _unembed(params, x)


def loss(params: Params, batch: Batch, *, config: Config, key=None):
    """Mean cross-entropy in nats over the batch's weighted positions, and the metrics that training logs."""
    return cross_entropy(apply(params, batch.tokens, config=config, key=key), batch.targets, batch.weights)


def init_state(params: Params, size: int, *, config: Config) -> tuple[KVCache, ...]:
    """Empty caches for one sequence, with room for `size` positions."""
    return tuple(init_cache(block.attention.multi_head, size) for block in params.blocks)


def step(params: Params, state, tokens: Int[Array, " t"], position: Int[Array, " t"], *, config: Config):
    """Read a chunk of one sequence; return the new caches and the logits after each of its tokens.

    Chunks of any length give what `apply` gives on the whole. A position of −1 marks padding.
    """
    where, caches = Tokens(position, jnp.zeros_like(position)), []
    x = _embed(params, tokens)
    for block_params, cache in zip(params.blocks, state, strict=True):

        def attention(params, x, cache=cache):
            cache, y = multi_head_step(params.multi_head, cache, x, where, _attend(params))
            caches.append(cache)
            return y

        x = _block(block_params, x, attention, 0.0, None)
    return tuple(caches), _unembed(params, x)


def _attend(params):
    return NormalizedHeads(Rotary(Dense(Causal())), params.q_norm, params.k_norm)


def _embed(params, tokens):
    return rms_norm(params.embedding_norm, embed(params.embedding, tokens))


def _block(params, x, attention, rate, key):
    attention_key, mlp_key = (None, None) if key is None else jax.random.split(key)
    x = x + dropout(attention(params.attention, rms_norm(params.attention_norm, x)), rate, attention_key)
    return x + dropout(mlp(params.feed_forward, rms_norm(params.feed_forward_norm, x), squared_relu), rate, mlp_key)


def _unembed(params, x):
    return unembed(params.unembedding, rms_norm(params.norm, x))
