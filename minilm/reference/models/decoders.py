"""Decoders by hand: one step of each of the four, and its gradient, read upwards.

Parameters are the NamedTuples of `minilm.models.decoders` with NumPy arrays in them; gradients come in the same
structure. A memory holds the places of its source that count and no others, and keys are not prepared: every step
multiplies them anew. `cell` is a name in `CELLS`, and `weights` one in `SCORES` or local_p: the first two do without.
"""

from typing import Any, NamedTuple

import numpy as np

from minilm.reference.activation import softmax, softmax_backward
from minilm.reference.attention.additive import additive_scores, additive_scores_backward
from minilm.reference.attention.multiplicative import (
    concat_scores,
    concat_scores_backward,
    dot_scores,
    dot_scores_backward,
    general_scores,
    general_scores_backward,
    local_p_weights,
    local_p_weights_backward,
    location_scores,
    location_scores_backward,
)
from minilm.reference.linear import linear, linear_backward
from minilm.reference.models.rnn_lm import CELLS


class Memory(NamedTuple):
    """What the state starts from, and the n places of the source `(n, e)`; gradients have the same two."""

    summary: Any
    values: Any


class State(NamedTuple):
    """The cells' states, and the last output, zeros where no step reads it."""

    cells: tuple
    y: Any


# ── a step ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def sutskever(cell, weights, params, memory, state, x):
    """(s', y) = cells(s, x). Every step returns ((state, (out, where it looked)), saved)."""
    (s, y), saved = stack(cell, params.cells, state.cells, x)
    return (State(s, np.zeros(y.shape)), (y, None)), (params, memory, saved)


def sutskever_backward(cell, weights, saved, d_state, d_out):
    """Gradients with respect to (params, memory, state, x), as of every step; out = y."""
    params, memory, saved = saved
    d_cells, d_s, d_x = stack_backward(cell, saved, (d_state.cells, d_out))
    return nothing(params)._replace(cells=d_cells), nothing(memory), State(d_s, np.zeros(d_state.y.shape)), d_x


def cho(cell, weights, params, memory, state, x):
    """(s', y) = cells(s, [x, c]);  out = [y, c, x]."""
    c = memory.summary
    (s, y), saved = stack(cell, params.cells, state.cells, np.concatenate([x, c]))
    return (State(s, np.zeros(y.shape)), (np.concatenate([y, c, x]), None)), (params, memory, y, x, saved)


def cho_backward(cell, weights, saved, d_state, d_out):
    """out = [y, c, x]                gives  d_y, and a first part of d_c and d_x;
    (s', y) = cells(s, [x, c])     gives  d_cells, d_s, and the other parts.
    """
    params, memory, y, x, saved = saved
    d_y, d_c, d_x = np.split(d_out, np.cumsum([len(y), len(memory.summary)]))
    d_cells, d_s, d_xc = stack_backward(cell, saved, (d_state.cells, d_y))
    d_memory = nothing(memory)._replace(summary=d_c + d_xc[len(x) :])
    d_params = nothing(params)._replace(cells=d_cells)
    return d_params, d_memory, State(d_s, np.zeros(y.shape)), d_x + d_xc[: len(x)]


def bahdanau(cell, weights, params, memory, state, x):
    """a = weights(y);  c = sum_s a[s] h[s];  (s', y') = cells(s, [x, c]);  out = [y', c, x]."""
    a, saved_a = weigh(weights, params.scorer, state.y, memory.values)
    c = sum(a[s] * memory.values[s] for s in range(len(a)))
    (s, y), saved = stack(cell, params.cells, state.cells, np.concatenate([x, c]))
    return (State(s, y), (np.concatenate([y, c, x]), a)), (params, memory, a, y, c, x, saved_a, saved)


def bahdanau_backward(cell, weights, saved, d_state, d_out):
    """out = [y', c, x]               gives  d_y', which the next step's question adds to, d_c and d_x;
    (s', y') = cells(s, [x, c])    gives  d_cells, d_s, and the other parts of d_x and d_c;
    c = sum_s a[s] h[s]            gives  d_a[s] = d_c . h[s],  d_h[s] = a[s] d_c;
    a = weights(y, h)              gives  d_scorer, d_y, and the other part of d_h.
    """
    params, memory, a, y, c, x, saved_a, saved = saved
    d_y, d_c, d_x = np.split(d_out, np.cumsum([len(y), len(c)]))
    d_cells, d_s, d_xc = stack_backward(cell, saved, (d_state.cells, d_state.y + d_y))
    d_c = d_c + d_xc[len(x) :]
    d_a, d_values = np.array([np.dot(d_c, h) for h in memory.values]), np.outer(a, d_c)
    d_scorer, d_question, d_keys = weigh_backward(weights, saved_a, d_a)
    d_params = nothing(params)._replace(cells=d_cells, scorer=d_scorer)
    d_memory = nothing(memory)._replace(values=d_values + d_keys)
    return d_params, d_memory, State(d_s, d_question), d_x + d_xc[: len(x)]


def luong(cell, weights, params, memory, state, x):
    """(s', q) = cells(s, [x, y]);  a = weights(q);  c = sum_s a[s] h[s];  out = y' = tanh([c, q] W + b)."""
    (s, q), saved = stack(cell, params.cells, state.cells, np.concatenate([x, state.y]))
    a, saved_a = weigh(weights, params.scorer, q, memory.values)
    c = sum(a[s] * memory.values[s] for s in range(len(a)))
    b, saved_b = linear(params.readout, np.concatenate([c, q]))
    y = np.tanh(b)
    return (State(s, y), (y, a)), (params, memory, a, c, x, y, saved, saved_a, saved_b)


def luong_backward(cell, weights, saved, d_state, d_out):
    """out = y'                       gives  d_y', which the next step's fed input adds to;
    y' = tanh(b)                   gives  d_b = d_y' (1 - y'^2);
    b = [c, q] W + b_0             gives  d_W, d_b_0, d_c and d_q;
    c = sum_s a[s] h[s]            gives  d_a[s] = d_c . h[s],  d_h[s] = a[s] d_c;
    a = weights(q, h)              gives  d_scorer, and the other parts of d_q and d_h;
    (s', q) = cells(s, [x, y])     gives  d_cells, d_s, d_x and d_y.
    """
    params, memory, a, c, x, y, saved, saved_a, saved_b = saved
    d_b = (d_state.y + d_out) * (1 - y**2)
    d_readout, d_cq = linear_backward(saved_b, d_b)
    d_c, d_q = np.split(d_cq, [len(c)])
    d_a, d_values = np.array([np.dot(d_c, h) for h in memory.values]), np.outer(a, d_c)
    d_scorer, d_question, d_keys = weigh_backward(weights, saved_a, d_a)
    d_cells, d_s, d_xy = stack_backward(cell, saved, (d_state.cells, d_q + d_question))
    d_params = nothing(params)._replace(cells=d_cells, scorer=d_scorer, readout=d_readout)
    d_memory = nothing(memory)._replace(values=d_values + d_keys)
    return d_params, d_memory, State(d_s, d_xy[len(x) :]), d_xy[: len(x)]


STEPS = {
    "sutskever": (sutskever, sutskever_backward),
    "cho": (cho, cho_backward),
    "bahdanau": (bahdanau, bahdanau_backward),
    "luong": (luong, luong_backward),
}


# ── layers of cells ──────────────────────────────────────────────────────────────────────────────────────────────────


def stack(cell, layers, states, x):
    """(s_l', x) = cell(s_l, x) for each layer. Returns ((states, x), saved)."""
    after, all_saved = [], []
    for layer, s in zip(layers, states, strict=True):
        (s, x), saved = CELLS[cell][0](layer, s, x)
        after.append(s)
        all_saved.append(saved)
    return (tuple(after), x), all_saved


def stack_backward(cell, all_saved, d_out):
    """Gradients with respect to (layers, states, x): from the top, d_x of a layer is d_x of the one below."""
    d_after, d_x = d_out
    d_layers, d_states = [], []
    for saved, d_s in zip(reversed(all_saved), reversed(d_after), strict=True):
        d_layer, d_s, d_x = CELLS[cell][1](saved, (d_s, d_x))
        d_layers, d_states = [d_layer, *d_layers], [d_s, *d_states]
    return tuple(d_layers), tuple(d_states), d_x


# ── what each place weighs ───────────────────────────────────────────────────────────────────────────────────────────


def weigh(scorer, params, q, h):
    """a = softmax(scores(params, q, h)), or what `local_p` makes of its own scores."""
    if scorer == "local_p":
        return local_p(params, q, h)
    z, saved = SCORES[scorer][0](params, q[None], h)
    a, saved_softmax = softmax(z)
    return a[0], (saved, saved_softmax)


def weigh_backward(scorer, saved, d_a):
    """Gradients with respect to (params, q, h): through the softmax, then through the scores."""
    if scorer == "local_p":
        return local_p_backward(saved, d_a)
    d_z, _ = softmax_backward(saved[1], d_a[None])
    d_params, d_q, d_h = SCORES[scorer][1](saved[0], d_z)
    return d_params, d_q[0], d_h


def dot(params, q, h):
    """Scores that have no parameters."""
    return dot_scores(q, h)


def dot_backward(saved, d_z):
    """As of `dot_scores`."""
    return None, *dot_scores_backward(saved, d_z)


def general(params, q, h):
    """Scores with one matrix."""
    z, saved = general_scores(params.w, q, h)
    return z, (params, saved)


def general_backward(saved, d_z):
    """As of `general_scores`."""
    params, saved = saved
    d_w, d_q, d_h = general_scores_backward(saved, d_z)
    return params._replace(w=d_w), d_q, d_h


def location(params, q, h):
    """Of all the columns, those of the places that there are."""
    z, saved = location_scores(params.w, q)
    return z[:, : len(h)], (params, saved, z.shape, h)


def location_backward(saved, d_z):
    """Columns without a place hear nothing, and what stands at a place does not matter."""
    params, saved, shape, h = saved
    d_all = np.zeros(shape)
    d_all[:, : d_z.shape[1]] = d_z
    d_w, d_q = location_scores_backward(saved, d_all)
    return params._replace(w=d_w), d_q, np.zeros(h.shape)


def local_p(params, q, h):
    """z = general(q, h);  a = local_p(q, z), within REACH of the place that q predicts."""
    z, saved = general_scores(params.w, q[None], h)
    a, saved_a = local_p_weights(params.place, q[None], z, reach=REACH)
    return a[0], (params, saved, saved_a)


def local_p_backward(saved, d_a):
    """q is read twice, and its gradients add up."""
    params, saved, saved_a = saved
    d_place, d_q, d_z, _ = local_p_weights_backward(saved_a, d_a[None])
    d_w, d_question, d_h = general_scores_backward(saved, d_z)
    return params._replace(w=d_w, place=d_place), (d_q + d_question)[0], d_h


REACH = 3.0
SCORES = {
    "additive": (additive_scores, additive_scores_backward),
    "dot": (dot, dot_backward),
    "general": (general, general_backward),
    "concat": (concat_scores, concat_scores_backward),
    "location": (location, location_backward),
}


def nothing(tree) -> Any:
    """Zeros in the structure of nested tuples of arrays; None stays None."""
    if isinstance(tree, tuple):
        branches = [nothing(branch) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
    return None if tree is None else np.zeros(tree.shape)
