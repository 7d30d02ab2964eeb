"""The loop over time, with a plain loop: padding is not read, and the gradient walks the steps back in turn.

`cell` is a reference cell, `(params, state, x) -> ((state, y), saved)`; a backward function takes the cell's as its
last argument.
"""

import numpy as np


def unroll(cell, params, state, xs, length=None):
    """s_t, y_t = cell(s_{t-1}, x_t) for t = 0 ... n - 1; y_t = 0 beyond. Returns ((state, ys), saved)."""
    return _each_sequence(cell, params, state, xs, length, range, ())


def unroll_backward(saved, d_out, cell_backward):
    """Gradients with respect to (params, state, xs, length), from d_out = (d_state, d_ys).

    The state after step t is used by step t + 1 alone, the last one by the caller; so, from the last step to the first,
        d_params_t, d_s_{t-1}, d_x_t = cell_backward(d_s_t, d_y_t)
    d_params is the sum of d_params_t over all steps and sequences. Steps never taken have no gradient.
    """
    params, state, xs, sequences, borders = saved
    d_state, d_ys = d_out
    d_params, d_xs = _map(np.zeros_like, params), np.zeros(xs.shape)
    d_first = _map(np.zeros_like, state)
    for index, steps in sequences:
        d_s = _take(d_state, index)
        for t, saved_step in reversed(steps):
            d_params_t, d_s, d_xs[index][t] = cell_backward(saved_step, (d_s, d_ys[index][t]))
            d_params = _map(np.add, d_params, d_params_t)
            if t in borders:
                d_s = _map(np.zeros_like, d_s)
        _put(d_first, index, d_s)
    return d_params, d_first, d_xs, None


def unroll_reverse(cell, params, state, xs, length=None):
    """s_t, y_t = cell(s_{t+1}, x_t) for t = n - 1 ... 0; y_t = 0 beyond n - 1. Returns ((state, ys), saved)."""
    return _each_sequence(cell, params, state, xs, length, lambda n: range(n - 1, -1, -1), ())


def unroll_reverse_backward(saved, d_out, cell_backward):
    """Gradients with respect to (params, state, xs, length): the steps, in whatever order taken, walked back."""
    return unroll_backward(saved, d_out, cell_backward)


def bidirectional(cell, params, state, xs, length=None):
    """y_t = [forward y_t, backward y_t]. Returns ((state, ys), saved)."""
    (forward, ys_forward), saved_forward = unroll(cell, params.forward, state.forward, xs, length)
    (backward, ys_backward), saved_backward = unroll_reverse(cell, params.backward, state.backward, xs, length)
    out = type(state)(forward, backward), np.concatenate([ys_forward, ys_backward], axis=-1)
    return out, (saved_forward, saved_backward)


def bidirectional_backward(saved, d_out, cell_backward):
    """Gradients with respect to (params, state, xs, length): each direction has half of d_ys; d_xs adds up."""
    d_state, d_ys = d_out
    d_ys_forward, d_ys_backward = np.split(d_ys, 2, axis=-1)
    d_params_f, d_state_f, d_xs_f, _ = unroll_backward(saved[0], (d_state.forward, d_ys_forward), cell_backward)
    d_params_b, d_state_b, d_xs_b, _ = unroll_reverse_backward(
        saved[1], (d_state.backward, d_ys_backward), cell_backward
    )
    both = type(d_state)
    return both(d_params_f, d_params_b), both(d_state_f, d_state_b), d_xs_f + d_xs_b, None


def stacked(cell, params, state, xs, length=None, layer=unroll):
    """Layer l reads the outputs of layer l - 1. Returns ((state, ys), saved)."""
    after, all_saved, ys = [], [], xs
    for layer_params, layer_state in zip(params, state, strict=True):
        (layer_state, ys), saved = layer(cell, layer_params, layer_state, ys, length)
        after.append(layer_state)
        all_saved.append(saved)
    return (tuple(after), ys), all_saved


def stacked_backward(saved, d_out, cell_backward, layer_backward=unroll_backward):
    """Gradients with respect to (params, state, xs, length): from the top, d_xs of a layer is d_ys of the one below."""
    d_after, d_ys = d_out
    d_params, d_state = [], []
    for layer_saved, d_layer in zip(reversed(saved), reversed(d_after), strict=True):
        d_layer_params, d_layer_state, d_ys, _ = layer_backward(layer_saved, (d_layer, d_ys), cell_backward)
        d_params, d_state = [d_layer_params, *d_params], [d_layer_state, *d_state]
    return tuple(d_params), tuple(d_state), d_ys, None


def truncated_unroll(cell, params, state, xs, length=None, *, segment):
    """As `unroll`, and remembers the borders: the steps segment, 2 segment, ... Returns ((state, ys), saved)."""
    return _each_sequence(cell, params, state, xs, length, range, range(segment, xs.shape[-2], segment))


def truncated_unroll_backward(saved, d_out, cell_backward):
    """Gradients with respect to (params, state, xs, length).

    As `unroll`'s, but a step that begins a segment gives nothing to the state it found: d_s_{t-1} = 0.
    """
    return unroll_backward(saved, d_out, cell_backward)


def _each_sequence(cell, params, state, xs, length, order, borders):
    width = _leaves(state)[0].shape[-1]
    ys, after, sequences = np.zeros((*xs.shape[:-1], width)), _map(np.copy, state), []
    for index in np.ndindex(xs.shape[:-2]):
        s, steps = _take(state, index), []
        for t in order(xs.shape[-2] if length is None else int(np.asarray(length)[index])):
            (s, ys[index][t]), saved = cell(params, s, xs[index][t])
            steps.append((t, saved))
        _put(after, index, s)
        sequences.append((index, steps))
    return (after, ys), (params, state, xs, sequences, borders)


def _map(function, *trees):
    """The function of the corresponding arrays of nested named tuples."""
    if isinstance(trees[0], tuple):
        return type(trees[0])(*(_map(function, *branches) for branches in zip(*trees, strict=True)))
    return function(*trees)


def _take(tree, index):
    return _map(lambda leaf: leaf[index], tree)


def _put(tree, index, part):
    for leaf, value in zip(_leaves(tree), _leaves(part), strict=True):
        leaf[index] = value


def _leaves(tree):
    return [leaf for branch in tree for leaf in _leaves(branch)] if isinstance(tree, tuple) else [tree]
