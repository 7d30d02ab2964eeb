"""Sequence to sequence by hand: one sequence after the other, one token after the other, and all of it backwards.

Parameters are the NamedTuples of `minilm.models.seq2seq`, whose fields hold NumPy arrays here; gradients come in the
same structure. A model's parts go by name: `Names(reader, decoder, cell, weights)`.
"""

from typing import Any, NamedTuple

import numpy as np

from minilm.reference.embedding import embed, embed_backward
from minilm.reference.linear import linear, linear_backward
from minilm.reference.losses import Metrics, cross_entropy, cross_entropy_backward
from minilm.reference.models import encoders
from minilm.reference.models.decoders import STEPS, Memory, State, nothing


class Names(NamedTuple):
    """The encoder's cell, which decoder, its cell, and how it weighs places."""

    reader: str
    decoder: str
    cell: str
    weights: str | None = None


def apply(params, source, source_length, inputs, names):
    """h = encode(source);  each target by itself. Returns ((logits, where each step looked), saved)."""
    h, saved_h = encoders.apply(params.encoder, source, source_length, names.reader)
    logits, looked, rows = np.zeros((*inputs.shape, len(params.output.b))), [], []
    for row, n in enumerate(source_length):
        x, saved_x = embed(params.embedding, inputs[row])
        memory, saved_memory = remember(params.decoder, h[row, :n], names)
        state, saved_start = start(params.decoder, memory, names)
        steps, ys, a = [], [], []
        for x_t in x:
            (state, (y, a_t)), saved = STEPS[names.decoder][0](
                names.cell, names.weights, params.decoder, memory, state, x_t
            )
            steps.append(saved)
            ys.append(y)
            a.append(a_t)
        y, saved_y = readout(params.decoder, np.array(ys), names)
        logits[row], saved_logits = linear(params.output, y)
        looked.append(a)
        rows.append((saved_x, saved_memory, saved_start, steps, state, memory, saved_y, saved_logits))
    return (logits, looked), (params, h.shape, source_length, saved_h, rows, names)


def apply_backward(saved, d_logits):
    """The gradient with respect to params: sequence by sequence, in each from the last step to the first.

    logits = readout(y) W + b             gives  d_W, d_b, and d_y of every step;
    (s_t, y_t) = step(memory, s_t-1, x)   gives  d_decoder and d_memory, added over the steps, d_s_t-1 and d_x_t;
    s_0 = tanh(summary W_0 + b_0)         gives  another part of d_decoder and of d_summary;
    (summary, values) = remember(h)       gives  d_h, which the encoder passes on.
    """
    params, shape, source_length, saved_h, rows, names = saved
    d_params, d_h = nothing(params), np.zeros(shape)
    for row, (saved_x, saved_memory, saved_start, steps, state, memory, saved_y, saved_logits) in enumerate(rows):
        d_output, d_y = linear_backward(saved_logits, d_logits[row])
        d_decoder, d_ys = readout_backward(params.decoder, saved_y, d_y, names)
        d_memory, d_state, d_xs = nothing(memory), nothing(state), []
        for saved_step, d_y_t in zip(reversed(steps), reversed(d_ys), strict=True):
            d_step, d_m, d_state, d_x = STEPS[names.decoder][1](names.cell, names.weights, saved_step, d_state, d_y_t)
            d_decoder, d_memory, d_xs = add(d_decoder, d_step), add(d_memory, d_m), [d_x, *d_xs]
        d_first, d_summary = start_backward(params.decoder, saved_start, d_state, names)
        d_memory = d_memory._replace(summary=d_memory.summary + d_summary)
        d_kept, d_h[row, : source_length[row]] = remember_backward(params.decoder, saved_memory, d_memory, names)
        d_embedding, _ = embed_backward(saved_x, np.array(d_xs))
        d_row = nothing(params)._replace(
            embedding=d_embedding, decoder=add(d_decoder, add(d_first, d_kept)), output=d_output
        )
        d_params = add(d_params, d_row)
    return d_params._replace(encoder=encoders.apply_backward(saved_h, d_h))


def loss(params, batch, names):
    """The mean cross-entropy of the targets: ((loss, metrics), saved)."""
    (logits, _), saved_logits = apply(params, batch.source, batch.source_length, batch.inputs, names)
    out, saved_loss = cross_entropy(logits, batch.targets, batch.weights)
    return out, (saved_logits, saved_loss)


def loss_backward(saved, d_loss=1.0):
    """The gradient with respect to params."""
    saved_logits, saved_loss = saved
    d_logits, _, _ = cross_entropy_backward(saved_loss, (d_loss, Metrics(0.0, 0.0, 0.0)))
    return apply_backward(saved_logits, d_logits)


# ── before the first step ────────────────────────────────────────────────────────────────────────────────────────────


def remember(params, h, names):
    """The values are h; the summary is h_1 for Bahdanau and h_n for the others, of which Cho makes tanh(h_n V + b)."""
    end = 0 if names.decoder == "bahdanau" else len(h) - 1
    if names.decoder != "cho":
        return Memory(h[end], h), (end,)
    b, saved = linear(params.summary, h[end])
    return Memory(np.tanh(b), h), (end, np.tanh(b), saved)


def remember_backward(params, saved, d_memory, names):
    """Gradients with respect to (params, h).  c = tanh(b)  gives  d_b = d_c (1 - c^2);  h_n is one of the values."""
    end, *rest = saved
    d_params, d_h, d_end = nothing(params), d_memory.values.copy(), d_memory.summary
    if rest:
        c, saved_c = rest
        d_summary, d_end = linear_backward(saved_c, d_end * (1 - c**2))
        d_params = d_params._replace(summary=d_summary)
    d_h[end] += d_end
    return d_params, d_h


def start(params, memory, names):
    """s_0 = tanh(summary W_0 + b_0), cut into the layers' states; y_0 = h of the top one for Bahdanau, else 0."""
    b, saved = linear(params.start, memory.summary)
    width = len(params.cells[0].w_h)
    pieces = iter(np.split(np.tanh(b), len(b) // width))
    lstm = names.cell == "lstm"
    cells = tuple(encoders.State(next(pieces), next(pieces)) if lstm else next(pieces) for _ in params.cells)
    y = (cells[-1].h if lstm else cells[-1]) if names.decoder == "bahdanau" else np.zeros(width)
    return State(cells, y), (np.tanh(b), saved)


def start_backward(params, saved, d_state, names):
    """Gradients with respect to (params, summary).  s_0 = tanh(b)  gives  d_b = d_s_0 (1 - s_0^2), piece by piece."""
    s, saved = saved
    pieces = [piece for cell in d_state.cells for piece in (cell if isinstance(cell, tuple) else [cell])]
    if names.decoder == "bahdanau":
        top = -2 if names.cell == "lstm" else -1
        pieces[top] = pieces[top] + d_state.y
    d_start, d_summary = linear_backward(saved, np.concatenate(pieces) * (1 - s**2))
    return nothing(params)._replace(start=d_start), d_summary


# ── after the last ───────────────────────────────────────────────────────────────────────────────────────────────────


def readout(params, ys, names):
    """Cho and Bahdanau: b = y W + b_0, and of every two numbers the larger one; the other two: y."""
    if names.decoder not in ("cho", "bahdanau"):
        return ys, None
    b, saved = linear(params.readout, ys)
    rows = b.reshape(len(ys), -1, 2)
    out = np.array([[max(first, second) for first, second in row] for row in rows])
    return out, (b, saved)


def readout_backward(params, saved, d_out, names):
    """Gradients with respect to (params, ys).  out[j] = max(b[2j], b[2j + 1])  gives  d_out[j] to the larger one."""
    if saved is None:
        return nothing(params), d_out
    b, saved = saved
    d_b = np.zeros(b.shape)
    for t, j in np.ndindex(d_out.shape):
        larger = 2 * j if b[t, 2 * j] > b[t, 2 * j + 1] else 2 * j + 1
        d_b[t, larger] = d_out[t, j]
    d_readout, d_ys = linear_backward(saved, d_b)
    return nothing(params)._replace(readout=d_readout), d_ys


def add(one, other) -> Any:
    """The sum of two nested tuples of arrays; of two that are None, None."""
    if isinstance(one, tuple):
        branches = [add(*pair) for pair in zip(one, other, strict=True)]
        return type(one)(*branches) if hasattr(one, "_fields") else tuple(branches)
    return None if one is None else one + other
