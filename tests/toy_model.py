"""The smallest model with a memory: a recurrent net of three lines, and the same in NumPy, for tests of generation."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TRACES = []  # the lengths of the chunks with which `step` was traced


@jax.tree_util.register_static
@dataclass(frozen=True)
class Config:
    vocab_size: int = 7
    context_length: int = 24


class Params(NamedTuple):
    embedding: jax.Array
    position: jax.Array
    w_h: jax.Array
    w_o: jax.Array


def init(seed: int, config: Config, width: int = 5, scale: float = 1.5) -> Params:
    n, p = config.vocab_size, config.context_length
    draw = np.random.default_rng(seed).standard_normal
    return Params(*(jnp.asarray(scale * draw(shape)) for shape in [(n, width), (p, width), (width, width), (width, n)]))


def init_state(params, size, *, config):
    return jnp.zeros(params.w_h.shape[0])


def step(params, state, tokens, position, *, config):
    TRACES.append(len(tokens))

    def one(h, token_and_position):
        token, position = token_and_position
        new = jnp.tanh(params.embedding[token] + params.position[position] + h @ params.w_h)
        h = jnp.where(position >= 0, new, h)
        return h, jnp.where(position >= 0, h, -h) @ params.w_o  # of padding, logits may be anything

    return jax.lax.scan(one, state, (tokens, position))


def next_logits(params, tokens) -> np.ndarray:
    """Of a whole sequence, from the beginning, in NumPy."""
    embedding, position, w_h, w_o = (np.asarray(leaf, np.float64) for leaf in params)
    h = np.zeros(len(w_h))
    for place, token in enumerate(tokens):
        h = np.tanh(embedding[token] + position[place] + h @ w_h)
    return h @ w_o
