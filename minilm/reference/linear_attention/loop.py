"""The loop over tokens with a plain loop; `step` is a reference step, `(state, ...) -> ((state, o), saved)`."""

import numpy as np


def loop(step, state, *inputs):
    """S_t, o_t = step(S_{t-1}, ...) for each token. Returns ((state, o), saved)."""
    outputs, steps = [], []
    for t in range(inputs[0].shape[1]):
        (state, o), saved = step(state, *(x[:, t] for x in inputs))
        outputs.append(o)
        steps.append(saved)
    return (state, np.stack(outputs, axis=1)), (steps, inputs)


def loop_backward(saved, d_out, step_backward):
    """Gradients with respect to (state, *inputs), from d_out = (d_state, d_o).

    S_t is used by step t + 1 alone, the last one by the caller; so, from the last token to the first,
        d_S_{t-1}, d_x_t = step_backward(d_S_t, d_o_t)
    """
    steps, inputs = saved
    d_state, d_o = d_out
    d_inputs = [np.zeros(np.shape(x)) for x in inputs]
    for t in reversed(range(len(steps))):
        d_state, *d_x = step_backward(steps[t], (d_state, d_o[:, t]))
        for d_input, d in zip(d_inputs, d_x, strict=True):
            d_input[:, t] = d
    return d_state, *d_inputs
