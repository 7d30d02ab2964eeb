r"""A recurrent language model (Mikolov et al., 2010; Zaremba et al., 2014): one state, rewritten at every token.

x = E[token]                           the token's vector
s_l, x = cell_l(s_l, x)                for each layer: the state moves one step, what it says goes up
logits = (x W + b) Eᵀ                  the embedding, transposed, reads the answer out; W only where widths differ

The state is all that is left of the text, however long: the millionth token costs what the first did. A text is read
in windows, each from the state in which the last one ended (`read`), and gradients stay within their window: truncated
backpropagation through time. `loss` and `apply` read one window, from a state of zeros.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minilm.data.batching import Batch
from minilm.layers.dropout import dropout
from minilm.layers.embedding import embed, init_embedding, unembed
from minilm.layers.linear import LinearParams, init_linear, linear
from minilm.layers.recurrent.unroll import stacked, unroll
from minilm.losses import cross_entropy
from minilm.models.cells import CELLS, CellParams, check_cell, zero_state
from minilm.pytrees import register


@jax.tree_util.register_static
@dataclass(frozen=True)
class Config:
    """Its hyper-parameters; by default the medium LSTM's of arXiv:1409.2329, but tied and without its dropout."""

    vocab_size: int = 10000
    context_length: int = 35  # tokens of a window in training and of a text it writes; the model has no such bound
    cell: str = "lstm"  # a name in CELLS
    n_layers: int = 2
    d_model: int = 650
    d_hidden: int = 650
    dropout: float = 0.0

    def __post_init__(self):
        check_cell(self.cell)


class Params(NamedTuple):
    """All of the model; `projection=None` where widths agree, `unembedding=None` where the embedding reads out too."""

    embedding: Float[Array, "n d"]
    layers: tuple[CellParams, ...]
    projection: LinearParams | None
    unembedding: Float[Array, "n d"] | None = None


def init(key, config: Config) -> Params:
    """Random parameters: N(0, 1/fan_in) weights, an LSTM's forget gates nearly open, and vectors of N(0, 0.3²).

    Larger vectors than a Transformer's, for here no norm stands between them and what reads them.
    """
    d, h = config.d_model, config.d_hidden
    embedding_key, projection_key, *layer_keys = jax.random.split(key, 2 + config.n_layers)
    return Params(
        embedding=init_embedding(embedding_key, config.vocab_size, d, deviation=0.3),
        layers=tuple(CELLS[config.cell].init(key, h if l else d, h) for l, key in enumerate(layer_keys)),
        projection=None if d == h else init_linear(projection_key, h, d),
    )


def apply(params: Params, tokens: Int[Array, "... t"], *, config: Config, key=None) -> Float[Array, "... t n"]:
    """Logits of the next token at every position, `(..., t, n)`; dropout acts only when a key is given."""
    return read(params, initial_state(params, *tokens.shape[:-1]), tokens, config=config, key=key)[1]


def loss(params: Params, batch: Batch, *, config: Config, key=None):
    """Mean cross-entropy in nats over the batch's weighted positions, and the metrics that training logs."""
    return cross_entropy(apply(params, batch.tokens, config=config, key=key), batch.targets, batch.weights)


# ── one window after the other ───────────────────────────────────────────────────────────────────────────────────────


def initial_state(params: Params, *leading: int) -> tuple:
    """Zeros for each layer, and for each sequence of the leading axes: nothing has been read."""
    return tuple(zero_state(layer, *leading) for layer in params.layers)


def read(params: Params, state, tokens: Int[Array, "... t"], *, config: Config, key=None):
    """Read a window of each text, from the state in which the one before it ended.

    Windows of any length give what `apply` gives on the whole text. A state that is handed in from outside is a
    constant to the gradient of this window: that is where backpropagation through time is truncated.

    Args:
      params, config: the model.
      state: as `initial_state` or the last `read` returned it, with the leading axes of tokens.
      tokens: `(..., t)`.
      key: a random key, for variational dropout at the rate `config.dropout`; None drops nothing.
    Returns:
      `(state, logits)`: the state after the window, and the logits after each of its tokens, `(..., t, n)`.
    """
    cell = CELLS[config.cell].step
    if key is None or config.dropout == 0:
        state, x = stacked(cell, params.layers, state, embed(params.embedding, tokens))
    else:
        masks = draw_masks(key, params, config.dropout, tokens.shape[:-1])
        state, x = _read_masked(cell, params, state, tokens, masks)
    return state, read_out(params, x)


def carried_loss(params: Params, state, batch: Batch, *, config: Config, key=None):
    """`loss` of a window read from the state that the last one left: `(loss, (state, metrics))`."""
    state, logits = read(params, state, batch.tokens, config=config, key=key)
    value, metrics = cross_entropy(logits, batch.targets, batch.weights)
    return value, (state, metrics)


# ── one chunk of one sequence ────────────────────────────────────────────────────────────────────────────────────────


def init_state(params: Params, size: int, *, config: Config) -> tuple:
    """The state before one sequence; it takes the same room however many positions, so `size` changes nothing."""
    return initial_state(params)


def step(params: Params, state, tokens: Int[Array, " t"], position: Int[Array, " t"], *, config: Config):
    """Read a chunk of one sequence; return the new state and the logits after each of its tokens.

    Chunks of any length give what `apply` gives on the whole. A position of −1 marks padding; of the others only the
    order in which they come is read, for a state knows by itself where it stands.
    """
    inside = position >= 0
    order = jnp.argsort(~inside)  # the sort is stable: tokens keep their order, padding goes to the end
    xs = embed(params.embedding, tokens)[order]
    state, xs = stacked(CELLS[config.cell].step, params.layers, state, xs, inside.sum())
    return state, read_out(params, jnp.zeros_like(xs).at[order].set(xs))


def read_out(params: Params, y: Float[Array, "... h"]) -> Float[Array, "... n"]:
    """The logits that the outputs of the top layer stand for."""
    y = y if params.projection is None else linear(params.projection, y)
    return unembed(params.embedding if params.unembedding is None else params.unembedding, y)


# ── variational dropout ──────────────────────────────────────────────────────────────────────────────────────────────


class Masks(NamedTuple):
    """What is kept of each sequence: 0 or 1 / (1 − rate), the same at each of its steps (Gal and Ghahramani, 2015)."""

    types: Float[Array, "... n"]  # whole words: one that is dropped is dropped wherever it stands
    inputs: tuple[Float[Array, "... i"], ...]  # of each layer
    states: tuple[Float[Array, "... h"], ...]  # of each layer
    output: Float[Array, "... h"]


def draw_masks(key, params: Params, rate: float, leading: tuple[int, ...] = ()) -> Masks:
    """Masks for sequences of the given leading axes.

    Dropout that draws anew at every step would wash a state out within a few of them. Held fixed, a mask picks one
    smaller network for all of the sequence, and training averages over these.
    """
    types_key, output_key, *keys = jax.random.split(key, 2 + 2 * len(params.layers))
    widths = [width for layer in params.layers for width in layer.w_h.shape[:1] + layer.w_x.shape[:1]]

    def draw(key, width):
        return dropout(jnp.ones((*leading, width), params.embedding.dtype), rate, key)

    states_and_inputs = [draw(*pair) for pair in zip(keys, widths, strict=True)]
    return Masks(
        types=draw(types_key, len(params.embedding)),
        inputs=tuple(states_and_inputs[1::2]),
        states=tuple(states_and_inputs[::2]),
        output=draw(output_key, widths[-2]),
    )


@register
@dataclass(frozen=True)
class MaskedWeight:
    """W as a state meets it whose entries are masked: h @ MaskedWeight(W, m) = (h ⊙ m) W."""

    w: Float[Array, "h o"]
    mask: Float[Array, " h"]

    def __rmatmul__(self, h):
        """(h ⊙ m) W."""
        return (h * self.mask) @ self.w


@functools.cache
def variational(cell: Callable) -> Callable:
    r"""The cell with a mask on the state that enters its products: a step of (params, (state, mask), x).

    $$ h W_h \;\to\; (h \odot m) W_h $$

    The mask travels with the state, so each sequence has its own and all of its steps the same. What a gate carries
    over (z ⊙ h in a GRU, f ⊙ c in an LSTM) is not masked. The cell itself knows nothing of it: its weight is another.
    """

    def step(params, state_and_mask, x) -> tuple[Any, Any]:
        state, mask = state_and_mask
        state, y = cell(params._replace(w_h=MaskedWeight(params.w_h, mask)), state, x)
        return (state, mask), y

    return step


def _read_masked(cell, params, state, tokens, masks):
    x = embed(params.embedding, tokens) * jnp.take_along_axis(masks.types, tokens, -1)[..., None]
    after = []
    for layer, s, input_mask, state_mask in zip(params.layers, state, masks.inputs, masks.states, strict=True):
        (s, _), x = unroll(variational(cell), layer, (s, state_mask), x * input_mask[..., None, :])
        after.append(s)
    return tuple(after), x * masks.output[..., None, :]
