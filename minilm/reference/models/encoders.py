"""Encoders by hand: vectors of the tokens, and recurrent layers in one direction or both, without autodiff.

Parameters are the NamedTuples of `minilm.models.encoders`, whose fields hold NumPy arrays here; gradients come in the
same structure. `cell` is a name in `CELLS`; where there are no layers it is not asked for, and the encoder is `words`.
"""

from typing import NamedTuple

import numpy as np

from minilm.reference.dropout import dropout, dropout_backward
from minilm.reference.embedding import embed, embed_backward
from minilm.reference.models.rnn_lm import CELLS
from minilm.reference.recurrent.unroll import bidirectional, bidirectional_backward, unroll, unroll_backward


class State(NamedTuple):
    """What an LSTM carries; the other cells carry h alone."""

    h: np.ndarray
    c: np.ndarray


def apply(params, tokens, length, cell="", rate=0.0, kept=None):
    """x = [E[w_1], ..., E[w_m]] at each place;  x = layer(dropout(x)) for each layer.  Returns (h, saved).

    NumPy cannot draw what a JAX key draws, so `kept` is the draw itself: for each layer an array of the shape of its
    inputs, true where an entry is kept (one such array where there are no layers). None keeps everything.
    """
    e, saved_e = embed(params.embedding, tokens)
    x = side_by_side(e, length)
    if not params.layers:
        x, saved_d = dropout(x, rate, None if kept is None else kept[0])
        return x, (params, cell, saved_e, e.shape, [(saved_d, None)])
    saved_layers = []
    for l, layer in enumerate(params.layers):
        x, saved_d = dropout(x, rate, None if kept is None else kept[l])
        loop, _ = loops(layer)
        (_, x), saved = loop(CELLS[cell][0], layer, nothing_read(layer, length.shape), x, length)
        saved_layers.append((saved_d, saved))
    return x, (params, cell, saved_e, e.shape, saved_layers)


def apply_backward(saved, d_h):
    """The gradient with respect to params (tokens and lengths are integers): the lines of `apply` upwards.

    (s, y) = layer(s, x)   gives  d_layer, and d_x from d_y; what becomes of the last state, nothing asks;
    x = dropout(x')        gives  d_x' = m d_x / (1 - rate);
    x = [e_1, ..., e_m]    gives  d_e_j, the j-th piece of d_x;
    e = E[tokens]          gives  d_E: each row hears from every place that read it.
    """
    params, cell, saved_e, shape, saved_layers = saved
    d_layers, d_x = [], d_h
    for layer, (saved_d, saved) in reversed([*zip(params.layers or [None], saved_layers, strict=True)]):
        if layer is not None:
            _, backward = loops(layer)
            d_layer, _, d_x, _ = backward(saved, (nothing_read(layer, d_x.shape[:-2]), d_x), CELLS[cell][1])
            d_layers = [d_layer, *d_layers]
        d_x = dropout_backward(saved_d, d_x)
    d_embedding, _ = embed_backward(saved_e, d_x.reshape(shape))
    return type(params)(embedding=d_embedding, layers=tuple(d_layers))


def side_by_side(e, length):
    """The vectors of the m tokens that describe a place, one behind the other; where a place is one token, its own."""
    if e.ndim == length.ndim + 2:
        return e
    x = np.zeros((*e.shape[:-2], e.shape[-2] * e.shape[-1]))
    for place in np.ndindex(e.shape[:-2]):
        x[place] = np.concatenate([*e[place]])
    return x


def loops(layer):
    """How a layer reads, and how its gradient is taken: in both directions where it holds a cell for each."""
    return (bidirectional, bidirectional_backward) if hasattr(layer, "backward") else (unroll, unroll_backward)


def nothing_read(layer, leading):
    """Zeros in the structure of a layer's state, for each sequence of the leading axes."""
    if hasattr(layer, "backward"):
        return type(layer)(nothing_read(layer.forward, leading), nothing_read(layer.backward, leading))
    width, columns = layer.w_h.shape
    zeros = np.zeros((*leading, width))
    return State(h=zeros, c=zeros) if columns == 4 * width else zeros
