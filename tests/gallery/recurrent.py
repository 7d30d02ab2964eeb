"""Planted bugs of recurrent cells and their loops."""

import numpy as np

from minilm import laws
from tests.gallery import plant
from tests.gallery.textbook import D, sigmoid

H = 3
W_X, W_H = np.random.default_rng(2).normal(size=(4, D, H)), np.random.default_rng(3).normal(size=(4, H, H))
B = np.random.default_rng(4).normal(size=(4, H))


def two_states(rng):
    return rng.normal(size=H), rng.normal(size=H)


def lstm(order=(0, 1, 2, 3), biases=(0, 1, 2, 3)):
    """A cell of gates i, f, g, o; `order` says which column is which gate, `biases` which bias each column adds."""

    def cell(state, x):
        h, c = state
        a = [x @ W_X[j] + h @ W_H[j] + B[b] for j, b in enumerate(biases)]
        i, f, g, o = (a[j] for j in order)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return (h, c), h

    return cell


@plant(laws.same_cell, d=D, states=two_states)
def the_bias_of_another_gate():
    """`Zt @ Wf + bo`: the forget and update gates added the output gate's bias: numpy-ml issue 42. Zero biases hide
    it."""
    return (lstm(biases=(0, 3, 2, 3)), lstm()), (lstm(), lstm())


@plant(laws.same_cell, d=D, states=two_states)
def input_and_forget_gate_swapped():
    """`i, f = self.fgate(x), self.igate(x)`, trained and published so: xlstm issue 98."""
    return (lstm(order=(1, 0, 2, 3)), lstm()), (lstm(), lstm())


@plant(laws.same_cell, d=D, states=lambda rng: rng.normal(size=H))
def the_reset_gate_before_the_product():
    """Cho et al. reset the state before the matrix product, cuDNN after; converters mixed them: keras-onnx pull
    request 33."""

    def gru(reset):
        def cell(h, x):
            r, z = (sigmoid(x @ W_X[j] + h @ W_H[j] + B[j]) for j in (0, 1))
            n = np.tanh(x @ W_X[2] + reset(r, h))
            h = (1 - z) * n + z * h
            return h, h

        return cell

    after = gru(lambda r, h: r * (h @ W_H[2] + B[2]))
    return (gru(lambda r, h: (r * h) @ W_H[2] + B[2]), after), (after, after)


def decay(state, x):
    state = 0.5 * state + x
    return state, state


@plant(laws.recurrence_equals_loop, d=D)
def chunks_that_start_from_nothing():
    """The initial state was ignored when the batch had size 1, so every chunk but the first was wrong: vLLM pull
    request 22034."""

    def chunked(carry):
        def unroll(state, x):
            outputs = []
            for chunk in (x[i : i + 2] for i in range(0, len(x), 2)):
                state = state if carry else np.zeros(D)
                for row in chunk:
                    state, y = decay(state, row)
                    outputs.append(y)
            return state, np.stack(outputs)

        return unroll, decay, lambda: np.zeros(D)

    return chunked(False), chunked(True)


@plant(laws.recurrence_equals_loop, d=D)
def a_parallel_form_that_loses_the_initial_state():
    """Reading in chunks differed from reading at once, all chunks but the first: fla issue 90, mamba issue 641. Zero
    initial states hide it."""

    def parallel(given):
        def unroll(state, x):
            i = np.arange(len(x))
            weights = np.where(i[:, None] >= i, 0.5 ** np.maximum(i[:, None] - i, 0), 0)
            y = weights @ x + given * 0.5 ** (i[:, None] + 1) * state
            return y[-1], y

        return unroll, decay, lambda: np.ones(D)

    return parallel(0), parallel(1)


@plant(laws.final_state_ignores_padding, d=D)
def a_backward_half_that_begins_in_the_padding():
    """Reversed with its padding, a short sequence reaches the backward cell after steps of biases: PyTorch issue 517,
    pvse issue 13."""

    def encode_from(start):
        def encode(x, n):
            h = np.zeros(H)
            for row in x[start(x, n) :: -1]:
                h = np.tanh(row @ W_X[0] + h @ W_H[0] + B[0])
            return h

        return encode

    return encode_from(lambda x, n: len(x) - 1), encode_from(lambda x, n: n - 1)
