"""A recurrent language model by hand: forward, and backward through time, without automatic differentiation.

Every function is a list of forward lines; its gradient is the same list read upwards. Parameters, states and masks are
the NamedTuples of `minilm.models.rnn_lm`, whose fields hold NumPy arrays here; gradients come in the same structure.
"""

from typing import Any, NamedTuple

import numpy as np

from minilm.reference.embedding import embed, embed_backward, unembed, unembed_backward
from minilm.reference.linear import linear, linear_backward
from minilm.reference.losses import Metrics, cross_entropy, cross_entropy_backward
from minilm.reference.recurrent.elman import elman_cell, elman_cell_backward
from minilm.reference.recurrent.gru import gru_cell, gru_cell_backward
from minilm.reference.recurrent.lstm import lstm_cell, lstm_cell_backward
from minilm.reference.recurrent.unroll import unroll, unroll_backward

CELLS = {
    "elman": (elman_cell, elman_cell_backward),
    "gru": (gru_cell, gru_cell_backward),
    "lstm": (lstm_cell, lstm_cell_backward),
}


class Carried(NamedTuple):
    """What a masked cell hands from step to step: its state, and the mask, which stays."""

    state: Any
    mask: Any


def read(params, state, tokens, cell, masks):
    """x = E[tokens] m_types[tokens];  (s, x) = unroll(masked cell, s, x m_inputs) for each layer;  x = x m_output;
    logits = (x W + b) U^T, with U = E where tied. Returns ((state, logits), saved).
    """
    e, saved_e = embed(params.embedding, tokens)
    kept = np.zeros(tokens.shape)
    for place in np.ndindex(tokens.shape):
        kept[place] = masks.types[place[:-1]][tokens[place]]
    x, after, saved_layers = e * kept[..., None], [], []
    for layer, s, m_input, m_state in zip(params.layers, state, masks.inputs, masks.states, strict=True):
        (carried, x), saved = unroll(masked(cell), layer, Carried(s, m_state), each_step(m_input) * x)
        after.append(carried.state)
        saved_layers.append(saved)
    x = x * each_step(masks.output)
    projected, saved_p = (x, None) if params.projection is None else linear(params.projection, x)
    tied = params.unembedding is None
    logits, saved_u = unembed(params.embedding if tied else params.unembedding, projected)
    return (tuple(after), logits), (params, cell, masks, kept, saved_e, saved_layers, saved_p, saved_u, tied)


def read_backward(saved, d_out):
    """Gradients with respect to (params, state), from d_out = (d_state, d_logits): the lines of `read` upwards.

    logits = p U^T          gives  d_U and d_p;
    p = x W + b             gives  d_W, d_b and d_x;
    x = y m                 gives  d_y = d_x m: what was dropped hears nothing;
    (s', y) = unroll(s, x)  gives  d_s and d_x from d_s' and d_y, the top layer first, in each the last step first;
    x = e kept              gives  d_e = d_x kept;
    U = E, where tied       gives  d_E a second part: the embedding is read at both ends of the model.
    """
    params, cell, masks, kept, saved_e, saved_layers, saved_p, saved_u, tied = saved
    d_after, d_logits = d_out
    d_unembedding, d_x = unembed_backward(saved_u, d_logits)
    d_projection = None
    if saved_p is not None:
        d_projection, d_x = linear_backward(saved_p, d_x)
    d_x = d_x * each_step(masks.output)
    d_layers, d_state = [], []
    for l in reversed(range(len(params.layers))):
        d_carried = Carried(d_after[l], np.zeros(masks.states[l].shape))
        d_layer, d_carried, d_x, _ = unroll_backward(saved_layers[l], (d_carried, d_x), masked_backward(cell))
        d_x = d_x * each_step(masks.inputs[l])
        d_layers, d_state = [d_layer, *d_layers], [d_carried.state, *d_state]
    d_embedding, _ = embed_backward(saved_e, d_x * kept[..., None])
    d_params = type(params)(
        embedding=d_embedding + d_unembedding if tied else d_embedding,
        layers=tuple(d_layers),
        projection=d_projection,
        unembedding=None if tied else d_unembedding,
    )
    return d_params, tuple(d_state)


def masked(cell):
    """(s', y) = cell(s, x), with row k of W_h times m[k]: entry k of the state enters the products m[k] times."""

    def step(params, carried, x):
        rows = params.w_h * carried.mask[:, None]
        (state, y), saved = CELLS[cell][0](params._replace(w_h=rows), carried.state, x)
        return (Carried(state, carried.mask), y), (saved, carried.mask)

    return step


def masked_backward(cell):
    """Gradients with respect to (params, carried, x); a mask is drawn, and has none.

    rows[k] = m[k] W_h[k]   gives  d_W_h[k] = m[k] d_rows[k].
    """

    def backward(saved, d_out):
        (saved, mask), (d_carried, d_y) = saved, d_out
        d_params, d_state, d_x = CELLS[cell][1](saved, (d_carried.state, d_y))
        d_params = d_params._replace(w_h=d_params.w_h * mask[:, None])
        return d_params, Carried(d_state, np.zeros(mask.shape)), d_x

    return backward


def each_step(mask):
    """The mask of a sequence, for all of its steps."""
    return mask[..., None, :]


def loss(params, state, batch, cell, masks):
    """The mean cross-entropy of a window: ((loss, (state, metrics)), saved)."""
    (state, logits), saved_logits = read(params, state, batch.tokens, cell, masks)
    (value, metrics), saved_loss = cross_entropy(logits, batch.targets, batch.weights)
    return (value, (state, metrics)), (state, saved_logits, saved_loss)


def loss_backward(saved, d_loss=1.0):
    """The gradients with respect to (params, state): the window's own, for what comes after it asks nothing of it."""
    state, saved_logits, saved_loss = saved
    d_logits, _, _ = cross_entropy_backward(saved_loss, (d_loss, Metrics(0.0, 0.0, 0.0)))
    return read_backward(saved_logits, (nothing(state), d_logits))


def nothing(tree):
    """Zeros in the structure of nested tuples of arrays."""
    if isinstance(tree, tuple):
        branches = [nothing(branch) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
    return np.zeros(tree.shape)
