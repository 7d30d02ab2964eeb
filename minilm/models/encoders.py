r"""What reads a text and says something of each of its tokens: the lower half of classifiers and taggers.

    h = encode(tokens)      (..., t, e): one vector for every place, in the light of what stands around it

An encoder is a record of two functions and a width. Pooling, tags or attention that stand on one ask nothing else of
it, so that any can stand on any, and one of your own, written down in this form, beneath them all.

Tokens are `(..., t)`; or `(..., t, m)` where m of them describe one place, as a character and the pairs that it stands
in do: then their vectors stand side by side. Of each text `length` places count, and the others change nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from minilm.layers.dropout import dropout
from minilm.layers.embedding import embed, init_embedding
from minilm.layers.recurrent.unroll import Directions, bidirectional, unroll
from minilm.models.cells import CELLS, CellParams, check_cell, zero_state
from minilm.models.records import one_record


class Encoder(NamedTuple):
    """The contract.

    init:  key -> params, a NamedTuple.
    apply: (params, tokens, length, key=None) -> `(..., t, e)`; random, for dropout, only when a key is given.
    width: e.
    """

    init: Callable
    apply: Callable
    width: int


@jax.tree_util.register_static
@dataclass(frozen=True)
class Config:
    """Of the encoders below; `words` has no layers, and takes no notice of what is said of them."""

    vocab_size: int = 10000
    tokens_per_place: int = 1  # m
    d_model: int = 50  # numbers of a token's vector; those of the published GloVe
    cell: str = "gru"  # a name in minilm.models.cells.CELLS
    n_layers: int = 1
    d_hidden: int = 64  # of each direction
    bidirectional: bool = True
    dropout: float = 0.0  # of each layer's inputs

    def __post_init__(self):
        check_cell(self.cell)
        for name in ("vocab_size", "tokens_per_place", "d_model", "n_layers", "d_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"An encoder's {name} must be 1 or more, and is {getattr(self, name)}.")


class Params(NamedTuple):
    """Vectors of the tokens, and each layer's parameters: a cell's, or two cells', one for each direction."""

    embedding: Float[Array, "n d"]
    layers: tuple[CellParams | Directions, ...]


@one_record
def recurrent(config: Config) -> Encoder:
    r"""Layers of a recurrent network; each reads what the one below it says, in one direction or in both.

    $$ x^{(0)}_t = [E_{w_{t1}}, \dots, E_{w_{tm}}], \qquad
       x^{(l)} = [\overrightarrow{\text{cell}}_l(x^{(l-1)}), \overleftarrow{\text{cell}}_l(x^{(l-1)})] $$

    Read in both directions, every place knows the whole text. Papers: Schuster and Paliwal (1997); arXiv:1508.01991.

    >>> encoder = recurrent(Config(vocab_size=9, d_model=4, d_hidden=3))
    >>> params = encoder.init(jax.random.key(0))
    >>> encoder.apply(params, jnp.array([[5, 1, 8]]), jnp.array([2])).shape
    (1, 3, 6)
    """
    ways = 2 if config.bidirectional else 1
    width = ways * config.d_hidden

    def init(key) -> Params:
        embedding_key, *keys = jax.random.split(key, 1 + config.n_layers)
        inputs = [config.tokens_per_place * config.d_model] + (config.n_layers - 1) * [width]
        return Params(_init_embedding(embedding_key, config), tuple(map(one_layer, keys, inputs)))

    def one_layer(key, i):
        cells = [CELLS[config.cell].init(k, i, config.d_hidden) for k in jax.random.split(key, ways)]
        return Directions(*cells) if config.bidirectional else cells[0]

    def apply(params: Params, tokens: Int[Array, "..."], length: Int[Array, "..."], key=None):
        step, x = CELLS[config.cell].step, _embed(params.embedding, tokens, config)
        keys = config.n_layers * [None] if key is None else jax.random.split(key, config.n_layers)
        for layer, key in zip(params.layers, keys, strict=True):
            x = dropout(x, config.dropout, key)
            if isinstance(layer, Directions):
                state = Directions(*(zero_state(cell, *length.shape) for cell in layer))
                _, x = bidirectional(step, layer, state, x, length)
            else:
                _, x = unroll(step, layer, zero_state(layer, *length.shape), x, length)
        return x

    return Encoder(init, apply, width)


@one_record
def words(config: Config) -> Encoder:
    r"""The tokens' own vectors, whatever stands beside them: below a mean, a bag of words (arXiv:1607.01759).

    $$ h_t = [E_{w_{t1}}, \dots, E_{w_{tm}}] $$
    """

    def init(key) -> Params:
        return Params(_init_embedding(key, config), ())

    def apply(params: Params, tokens: Int[Array, "..."], length: Int[Array, "..."], key=None):
        return dropout(_embed(params.embedding, tokens, config), config.dropout, key)

    return Encoder(init, apply, config.tokens_per_place * config.d_model)


def each_text(function: Callable, length: Int[Array, "..."]) -> Callable:
    """The function of one text, for every text of the leading axes, which are those of their lengths."""
    for _ in length.shape:
        function = jax.vmap(function)
    return function


def inside(h: Float[Array, "... t e"], length: Int[Array, "..."]) -> Bool[Array, "... t"]:
    """Whether a place counts.

    >>> inside(jnp.zeros((2, 3, 1)), jnp.array([2, 0])).tolist()
    [[True, True, False], [False, False, False]]
    """
    return jnp.arange(h.shape[-2]) < length[..., None]


def _init_embedding(key, config):
    """Vectors as large as published ones are; so small ones as a Transformer's would have to grow first."""
    return init_embedding(key, config.vocab_size, config.d_model, deviation=0.3)


def _embed(embedding, tokens, config):
    x = embed(embedding, tokens)
    return x if config.tokens_per_place == 1 else x.reshape(*x.shape[:-2], -1)
