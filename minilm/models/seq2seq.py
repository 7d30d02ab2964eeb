r"""Sequence to sequence: one network reads a text, another writes what it stands for, in another language or alphabet.

h = encode(source)                          (..., s, e)     `minilm.models.encoders`
memory, state = remember(h)                                 `minilm.models.decoders`
state, (y, a) = step(memory, state, E[token])
log P(target | source) = Σ_t log softmax(readout(y_t) W + b)[target_t]

In training the decoder is told at every step what it should have written so far (teacher forcing), so that all steps
are scored at once. To write, it is told what it has written: `read` and `step`, which `minilm.beam.translate` calls.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minilm.data.pairs import Batch
from minilm.layers.dropout import dropout
from minilm.layers.embedding import embed, init_embedding
from minilm.layers.linear import LinearParams, init_linear, linear
from minilm.layers.recurrent.unroll import unroll
from minilm.losses import cross_entropy
from minilm.models.decoders import Decoder, Memory, State
from minilm.models.encoders import Encoder, each_text, inside


@jax.tree_util.register_static
@dataclass(frozen=True)
class Config:
    """What reads, what writes, and how many words it has for it.

    >>> from minilm.models import decoders, encoders, scorers
    >>> reader = encoders.recurrent(encoders.Config(vocab_size=30, d_model=8, d_hidden=6))
    >>> writer = decoders.bahdanau(decoders.Config(d_hidden=5), scorers.additive(7))
    >>> config = Config(reader, writer, vocab_size=40, d_model=9)
    """

    encoder: Encoder
    decoder: Decoder
    vocab_size: int = 10000  # of the target; the encoder knows the source's
    d_model: int = 64  # numbers of a target token's vector
    dropout: float = 0.0  # of the decoder's inputs, and of what is read out


class Params(NamedTuple):
    """All of the model."""

    encoder: Any
    embedding: Float[Array, "n d"]
    decoder: Any
    output: LinearParams


def init(key, config: Config) -> Params:
    """Random parameters: each part's own, target vectors of N(0, 0.3²) as the encoder's, and logits near zero."""
    encoder_key, embedding_key, decoder_key, output_key = jax.random.split(key, 4)
    return Params(
        encoder=config.encoder.init(encoder_key),
        embedding=init_embedding(embedding_key, config.vocab_size, config.d_model, deviation=0.3),
        decoder=config.decoder.init(decoder_key, config.d_model, config.encoder.width),
        output=init_linear(output_key, config.decoder.width, config.vocab_size),
    )


def apply(
    params: Params,
    source: Int[Array, "..."],
    source_length: Int[Array, "..."],
    inputs: Int[Array, "..."],
    *,
    config: Config,
    key=None,
) -> Float[Array, "..."]:
    """The logits of every next target token, given the ones before it: teacher forcing.

    Args:
      params, config: the model.
      source: `(..., s)`.
      source_length: how many tokens of each source count, `(...)`; what stands behind them changes nothing.
      inputs: the boundary and the target's tokens, `(..., t)`.
      key: a random key for dropout; None drops nothing.
    Returns:
      logits `(..., t, n)`.

    Reference: `minilm.reference.models.seq2seq.apply`.
    """
    return _forced(params, source, source_length, inputs, config, key)[0]


def align(params: Params, source, source_length, inputs, *, config: Config) -> Float[Array, "..."] | None:
    """Where it looked before it wrote each token: `(..., t, s)`, or None of a decoder that looks nowhere.

    Arguments are those of `apply`; row t stands beside target t.
    """
    return _forced(params, source, source_length, inputs, config, None)[1]


def loss(params: Params, batch: Batch, *, config: Config, key=None):
    r"""Mean cross-entropy in nats over the targets' tokens, their boundaries included, and the metrics for the log.

    $$ L = -\frac{1}{\sum_t w_t} \sum_t w_t \log P(y_t \mid y_{<t}, \text{source}) $$
    """
    logits = apply(params, batch.source, batch.source_length, batch.inputs, config=config, key=key)
    return cross_entropy(logits, batch.targets, batch.weights)


def read(params: Params, source, source_length, *, config: Config, key=None) -> tuple[Memory, State]:
    """What the decoder keeps of each source, and its state before the first step; leading axes are those of source."""
    values = config.encoder.apply(params.encoder, source, source_length, key)
    values = jnp.where(inside(values, source_length)[..., None], values, 0)
    memory = config.decoder.remember(params.decoder, values, source_length)
    return memory, config.decoder.start(params.decoder, memory)


def step(params: Params, memory: Memory, state: State, token: Int[Array, ""], *, config: Config):
    """Tell one decoder the token that stands before: (state, logits `(n,)`). Step by step it is `apply`."""
    state, (y, _) = config.decoder.step(params.decoder, memory, state, embed(params.embedding, token))
    return state, linear(params.output, config.decoder.readout(params.decoder, y))


def reverse(source: Int[Array, "... s"], source_length: Int[Array, "..."]) -> Int[Array, "... s"]:
    """Each source from its end to its beginning, padding where it was.

    >>> reverse(jnp.array([[1, 2, 3, 0], [4, 5, 0, 0]]), jnp.array([3, 2])).tolist()
    [[3, 2, 1, 0], [5, 4, 0, 0]]
    """
    place, length = jnp.arange(source.shape[-1]), source_length[..., None]
    return jnp.take_along_axis(source, jnp.where(place < length, length - 1 - place, place), axis=-1)


@cache
def backwards(encoder: Encoder) -> Encoder:
    """The encoder, given every source from its end to its beginning; its places then are counted from the end.

    What it read last is the source's first word, which the target's first word needs: a gradient soon finds the way
    from one to the other, and from there to the rest. So Sutskever's encoder reads, in one direction.
    """

    def apply(params, tokens, length, key=None):
        return encoder.apply(params, reverse(tokens, length), length, key)

    return encoder._replace(apply=apply)


def _forced(params, source, source_length, inputs, config, key):
    encoder_key, inputs_key, output_key = (None, None, None) if key is None else jax.random.split(key, 3)
    memory, state = read(params, source, source_length, config=config, key=encoder_key)
    xs = dropout(embed(params.embedding, inputs), config.dropout, inputs_key)

    def one(memory, state, xs):
        return unroll(_over_memory(config.decoder.step), (params.decoder, memory), state, xs)

    _, (ys, weights) = each_text(one, source_length)(memory, state, xs)
    # All steps' outputs in one product, for nothing waits for them.
    y = dropout(config.decoder.readout(params.decoder, ys), config.dropout, output_key)
    return linear(params.output, y), weights


@cache
def _over_memory(step: Callable) -> Callable:
    """The step as a cell for the one loop: a memory is a parameter, the same at each step of its sequence."""
    return lambda params_and_memory, state, x: step(*params_and_memory, state, x)
