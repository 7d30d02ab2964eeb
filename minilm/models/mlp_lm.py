r"""The first neural language model (Bengio et al., 2003): an n-gram model whose tokens have places in a space.

x_t = (E[w_{t−m+1}], …, E[w_t])        the vectors of the last m tokens, side by side; zeros before the text begins
h_t = tanh(x_t W + b)                  what they mean together
logits_t = h_t U + c  (+ x_t D)        a score for every token that may come next

What is learnt of one token moves its vector, and with it whatever is said of the tokens nearby: a history that never
occurred is still close to some that did. Counting cannot do that.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minilm.data.batching import Batch
from minilm.layers.embedding import embed, init_embedding
from minilm.layers.linear import LinearParams, init_linear, linear, matmul
from minilm.losses import cross_entropy


@jax.tree_util.register_static
@dataclass(frozen=True)
class Config:
    """Its hyper-parameters; the paper's own models read up to 5 tokens, of 30 to 100 numbers each."""

    vocab_size: int = 2048
    context_length: int = 128  # tokens of a window in training and of a text it writes; the model has no such bound
    history: int = 8  # m, how many tokens it sees: those of an n-gram model of order m + 1
    d_model: int = 64
    d_hidden: int = 256
    direct: bool = False  # the paper's optional shortcut from the vectors to the scores


class Params(NamedTuple):
    """All of the model; `w_direct=None` where nothing leads past the hidden layer."""

    embedding: Float[Array, "n d"]
    hidden: LinearParams
    output: LinearParams
    w_direct: Float[Array, "i n"] | None = None


def init(key, config: Config) -> Params:
    """Random parameters: vectors N(0, 0.3²), weights N(0, 1/i), and scores of zero, so that the loss begins at ln n.

    So small a vector is moved far by a few hundred steps, and the hidden layer begins where tanh is nearly straight.
    """
    embedding_key, hidden_key, output_key = jax.random.split(key, 3)
    width = config.history * config.d_model
    output = init_linear(output_key, config.d_hidden, config.vocab_size)
    return Params(
        embedding=init_embedding(embedding_key, config.vocab_size, config.d_model, deviation=0.3),
        hidden=init_linear(hidden_key, width, config.d_hidden),
        output=output._replace(w=jnp.zeros_like(output.w)),
        w_direct=jnp.zeros((width, config.vocab_size)) if config.direct else None,
    )


def apply(params: Params, tokens: Int[Array, "... t"], *, config: Config, key=None) -> Float[Array, "... t n"]:
    """Logits of the next token at every position, `(..., t, n)`; nothing is random, so a key changes nothing."""
    t, m = tokens.shape[-1], config.history
    e = embed(params.embedding, tokens)
    e = jnp.concatenate([jnp.zeros_like(e, shape=(*e.shape[:-2], m - 1, e.shape[-1])), e], -2)
    return _logits(params, jnp.concatenate([e[..., j : j + t, :] for j in range(m)], -1))


def loss(params: Params, batch: Batch, *, config: Config, key=None):
    """Mean cross-entropy in nats over the batch's weighted positions, and the metrics that training logs."""
    return cross_entropy(apply(params, batch.tokens, config=config, key=key), batch.targets, batch.weights)


def init_state(params: Params, size: int, *, config: Config) -> Int[Array, " s"]:
    """No token read yet: one sequence's last `size` tokens will stand here, each at its position modulo `size`."""
    return jnp.zeros(size, jnp.int32)


def step(params: Params, state: Int[Array, " s"], tokens: Int[Array, " t"], position: Int[Array, " t"], *, config):
    """Read a chunk of one sequence; return the state and the logits after each of its tokens.

    Chunks of any length give what `apply` gives on the whole, where `size` is at least history − 1 and the chunk
    together. A position of −1 marks padding.
    """
    size = len(state)
    state = state.at[jnp.where(position < 0, size, position % size)].set(tokens, mode="drop")
    source = position[:, None] + jnp.arange(1 - config.history, 1)  # the last m positions, of each token
    e = jnp.where(source[..., None] < 0, 0, embed(params.embedding, state[source % size]))
    return state, _logits(params, e.reshape(len(tokens), -1))


def _logits(params, x):
    h = jnp.tanh(linear(params.hidden, x))
    logits = linear(params.output, h)
    return logits if params.w_direct is None else logits + matmul(x, params.w_direct)
