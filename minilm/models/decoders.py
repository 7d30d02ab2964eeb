r"""What writes a text after another was read: four decoders, from one vector handed over to a look at every word.

memory = remember(values, length)                   what is kept of the source, once
state = start(memory)
state, (y, a) = step(memory, state, x)              one token: x is the vector of the one before, a where it looked
logits = readout(y) W + b                           (`seq2seq`)

Each is written for ONE step of ONE sequence. Teacher forcing, greedy decoding and a beam all take the same step.

| | what it knows of the source | who asks | papers |
|---|---|---|---|
| `sutskever` | its state before the first step | | arXiv:1409.3215 |
| `cho` | one vector, seen again at every step | | arXiv:1406.1078 |
| `bahdanau` | every place, weighed anew at every step | the state before the step | arXiv:1409.0473 |
| `luong` | the same | the state after the step | arXiv:1508.04025 |
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from minilm.layers.linear import LinearParams, init_linear, linear
from minilm.layers.recurrent.lstm import LSTMState
from minilm.models.cells import CELLS, CellParams, check_cell, zero_state
from minilm.models.encoders import inside
from minilm.models.records import one_record
from minilm.models.scorers import Scorer


class Decoder(NamedTuple):
    """The contract; what takes leading axes is marked by `...`, and a step is of one sequence.

    init:     (key, d, e) -> params, for target vectors of width d and source vectors of width e
    remember: (params, values `(..., s, e)`, length `(...)`) -> Memory; values beyond the length are zero
    start:    (params, memory) -> state, `...`
    step:     (params, memory, state, x `(d,)`) -> (state, (y `(m,)`, weights `(s,)`)); None for weights that are none
    readout:  (params, y `(..., m)`) -> `(..., o)`: what of a step need not wait for the one before
    width:    o
    """

    init: Callable
    remember: Callable
    start: Callable
    step: Callable
    readout: Callable
    width: int


class Memory(NamedTuple):
    """What a decoder keeps of a source; `None` is what it does without."""

    summary: Float[Array, "... m"]  # from which its state starts
    values: Float[Array, "... s e"] | None = None
    keys: Float[Array, "... s k"] | None = None  # the values as its scorer prepared them
    mask: Bool[Array, "... s"] | None = None


class State(NamedTuple):
    """The cells' states, and the last output where a next step reads it: Bahdanau's question, Luong's fed input."""

    cells: tuple
    y: Float[Array, "... h"] | None = None


@dataclass(frozen=True)
class Config:
    """Of the recurrent network in each of them: layers of a cell, each of which reads the one below."""

    d_hidden: int = 64
    cell: str = "gru"  # a name in minilm.models.cells.CELLS
    n_layers: int = 1

    def __post_init__(self):
        check_cell(self.cell)
        for name in ("d_hidden", "n_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"A decoder's {name} must be 1 or more, and is {getattr(self, name)}.")


class Params(NamedTuple):
    """Those of any of the four; `None` is what it does without."""

    cells: tuple[CellParams, ...]
    start: LinearParams  # from the summary to the cells' states
    summary: LinearParams | None = None  # Cho's, from the last place
    scorer: Any = None
    readout: LinearParams | None = None  # the maxout of Cho and Bahdanau, Luong's W_c


@one_record
def sutskever(config: Config) -> Decoder:
    r"""All that the source says is the state in which it is handed over.

    $$ s_0 = \tanh(h_n W_0 + b_0), \qquad s_t = \text{cell}(s_{t-1}, x_t), \qquad y_t = s_t $$

    The paper hands the encoder's state itself over; a learned map between them lets any encoder stand below. It reads
    the source from its end to its beginning (`seq2seq.backwards`), so that the first words meet soonest.
    """
    cell, h = _stack(CELLS[config.cell].step), config.d_hidden

    def init(key, d, e) -> Params:
        cells_key, start_key = jax.random.split(key)
        cells = _init_cells(cells_key, config, d)
        return Params(cells, _init_start(start_key, e, cells))

    def remember(params, values, length) -> Memory:
        return Memory(summary=_last(values, length))

    def start(params, memory) -> State:
        return State(_first_states(params, memory.summary))

    def step(params, memory, state, x):
        s, y = cell(params.cells, state.cells, x)
        return State(s), (y, None)

    return Decoder(init, remember, start, step, lambda params, y: y, h)


@one_record
def cho(config: Config) -> Decoder:
    r"""One vector c stands for the source, and every step reads it again.

    $$ c = \tanh(h_n V + b), \qquad s_0 = \tanh(c\, W_0 + b_0), \qquad s_t = \text{cell}(s_{t-1}, [x_t, c]) $$
    $$ y_t = \operatorname{maxout}([s_t, c, x_t]\, W_y + b_y) $$

    A state that is handed over once is overwritten by what is written; c is not.
    """
    cell, h = _stack(CELLS[config.cell].step), config.d_hidden

    def init(key, d, e) -> Params:
        cells_key, start_key, summary_key, readout_key = jax.random.split(key, 4)
        cells = _init_cells(cells_key, config, d + h)
        return Params(
            cells,
            _init_start(start_key, h, cells),
            summary=init_linear(summary_key, e, h),
            readout=init_linear(readout_key, h + h + d, 2 * h),
        )

    def remember(params, values, length) -> Memory:
        return Memory(summary=jnp.tanh(linear(params.summary, _last(values, length))))

    def start(params, memory) -> State:
        return State(_first_states(params, memory.summary))

    def step(params, memory, state, x):
        c = memory.summary
        s, y = cell(params.cells, state.cells, jnp.concatenate([x, c]))
        return State(s), (jnp.concatenate([y, c, x]), None)

    return Decoder(init, remember, start, step, _maxout_readout, h)


@one_record
def bahdanau(config: Config, scorer: Scorer) -> Decoder:
    r"""Before each step the state asks every place of the source, and the step reads the answer.

    $$ a_t = \operatorname{weights}(s_{t-1}, h_1 \dots h_n), \qquad c_t = \sum_s a_{ts} h_s $$
    $$ s_0 = \tanh(h_1 W_0 + b_0), \qquad s_t = \text{cell}(s_{t-1}, [x_t, c_t]), \qquad
       y_t = \operatorname{maxout}([s_t, c_t, x_t]\, W_y + b_y) $$

    At the first place a bidirectional encoder has read the whole source backwards, so the paper starts from there. Of
    several layers the top one asks; of an LSTM, its h. The readout is the paper's equation 4, with the new state.
    """
    cell, h = _stack(CELLS[config.cell].step), config.d_hidden

    def init(key, d, e) -> Params:
        cells_key, start_key, scorer_key, readout_key = jax.random.split(key, 4)
        cells = _init_cells(cells_key, config, d + e)
        return Params(
            cells,
            _init_start(start_key, e, cells),
            scorer=scorer.init(scorer_key, h, e),
            readout=init_linear(readout_key, h + e + d, 2 * h),
        )

    def remember(params, values, length) -> Memory:
        return Memory(values[..., 0, :], values, scorer.prepare(params.scorer, values), inside(values, length))

    def start(params, memory) -> State:
        s = _first_states(params, memory.summary)
        return State(s, y=s[-1].h if isinstance(s[-1], LSTMState) else s[-1])

    def step(params, memory, state, x):
        a = scorer.weights(params.scorer, state.y, memory.keys, memory.mask)
        c = a.astype(memory.values.dtype) @ memory.values
        s, y = cell(params.cells, state.cells, jnp.concatenate([x, c]))
        return State(s, y), (jnp.concatenate([y, c, x]), a)

    return Decoder(init, remember, start, step, _maxout_readout, h)


@one_record
def luong(config: Config, scorer: Scorer) -> Decoder:
    r"""After each step the state asks, and what it is told makes a new vector of it, which the next step reads.

    $$ s_t = \text{cell}(s_{t-1}, [x_t, \tilde h_{t-1}]), \qquad a_t = \operatorname{weights}(s_t, h_1 \dots h_n),
       \qquad c_t = \sum_s a_{ts} h_s $$
    $$ y_t = \tilde h_t = \tanh([c_t, s_t]\, W_c + b_c), \qquad s_0 = \tanh(h_n W_0 + b_0), \qquad \tilde h_0 = 0 $$

    Without feeding $\tilde h$ back (*input feeding*), a step would not know where the one before it looked.
    """
    cell, h = _stack(CELLS[config.cell].step), config.d_hidden

    def init(key, d, e) -> Params:
        cells_key, start_key, scorer_key, readout_key = jax.random.split(key, 4)
        cells = _init_cells(cells_key, config, d + h)
        return Params(
            cells,
            _init_start(start_key, e, cells),
            scorer=scorer.init(scorer_key, h, e),
            readout=init_linear(readout_key, e + h, h),
        )

    def remember(params, values, length) -> Memory:
        return Memory(_last(values, length), values, scorer.prepare(params.scorer, values), inside(values, length))

    def start(params, memory) -> State:
        s = _first_states(params, memory.summary)
        return State(s, y=jnp.zeros((*memory.summary.shape[:-1], h), memory.summary.dtype))

    def step(params, memory, state, x):
        s, y = cell(params.cells, state.cells, jnp.concatenate([x, state.y]))
        a = scorer.weights(params.scorer, y, memory.keys, memory.mask)
        c = a.astype(memory.values.dtype) @ memory.values
        y = jnp.tanh(linear(params.readout, jnp.concatenate([c, y])))
        return State(s, y), (y, a)

    return Decoder(init, remember, start, step, lambda params, y: y, h)


# ── the same in all of them ──────────────────────────────────────────────────────────────────────────────────────────


def _stack(cell):
    """Layers as one cell: (params, states, x) -> (states, y), tuples from the bottom."""

    def step(params, states, x):
        after = []
        for layer, state in zip(params, states, strict=True):
            state, x = cell(layer, state, x)
            after.append(state)
        return tuple(after), x

    return step


def _init_cells(key, config, i):
    widths = [i] + (config.n_layers - 1) * [config.d_hidden]
    return tuple(
        map(CELLS[config.cell].init, jax.random.split(key, len(widths)), widths, len(widths) * [config.d_hidden])
    )


def _init_start(key, m, cells):
    return init_linear(key, m, sum(leaf.size for leaf in jax.tree.leaves(tuple(map(zero_state, cells)))))


def _first_states(params, summary):
    """tanh(summary W_0 + b_0), cut into the state of every layer: of an LSTM's, h and c."""
    leaves, structure = jax.tree.flatten(tuple(map(zero_state, params.cells)))
    return structure.unflatten(jnp.split(jnp.tanh(linear(params.start, summary)), len(leaves), axis=-1))


def _maxout_readout(params, y):
    """Of every two numbers the larger one (arXiv:1302.4389)."""
    y = linear(params.readout, y)
    return y.reshape(*y.shape[:-1], -1, 2).max(-1)


def _last(values, length):
    """h_n; of a source of length 0 it is what stands at the first place, which is zero."""
    place = jnp.maximum(length, 1)[..., None, None] - 1
    return jnp.take_along_axis(values, place, axis=-2)[..., 0, :]
