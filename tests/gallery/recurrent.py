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


def states(x):
    """The initial state, and that after each token."""
    h = [np.zeros(H)]
    for row in x:
        h.append(np.tanh(row @ W_X[0] + h[-1] @ W_H[0] + B[0]))
    return np.array(h)


@plant(laws.final_state_ignores_padding, d=D)
def the_state_before_the_last_token():
    """Gathered at the length less one, from states of which the first is the initial one. (No thread known to
    us; Practical_RL pull request 558 mends a gather that is off by one to the other side.)"""
    return lambda x, n: states(x)[n - 1], lambda x, n: states(x)[n]


@plant(laws.final_state_ignores_padding, d=D)
def the_first_token_for_the_last():
    """The last token's place found by `argmin` of a mask that is all ones: sentence-transformers pull request 2111."""
    return lambda x, n: x[0], lambda x, n: x[n - 1]


@plant(laws.final_state_ignores_padding, d=D)
def a_state_that_nobody_wrote():
    """A buffer that is made and returned. The twin keeps the largest entry of each column. (No thread known to us.)"""
    return lambda x, n: (np.zeros(H), np.zeros(H)), lambda x, n: (x[:n].max(0), np.zeros(H))


@plant(laws.recurrence_equals_loop, d=D)
def a_state_of_another_structure():
    """A loop written for an LSTM returns (h, h) of a cell whose state is h. (No thread known to us.)"""

    def unroll(state, x):
        y = np.stack([state := decay(state, row)[0] for row in x])
        return state, y

    def twice(state, x):
        state, y = unroll(state, x)
        return (state, state), y

    return (twice, decay, lambda: np.zeros(D)), (unroll, decay, lambda: np.zeros(D))
