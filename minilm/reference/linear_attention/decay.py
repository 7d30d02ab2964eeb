"""The fading state, token by token. The loop is the specification: the parallel and the chunked form are it again."""

import math

import numpy as np

from minilm.reference.linear_attention.loop import loop, loop_backward


def decay_step(state, q, k, v, log_decay):
    """S'[i, j] = a S[i, j] + k[i] v[j];  o[j] = sum_i S'[i, j] q[i]."""
    after, o = np.zeros(state.shape), np.zeros(v.shape)
    for g, i, j in np.ndindex(state.shape):
        after[g, i, j] = math.exp(log_decay[g]) * state[g, i, j] + k[g, i] * v[g, j]
        o[g, j] += after[g, i, j] * q[g, i]
    return (after, o), (state, q, k, v, log_decay, after)


def decay_step_backward(saved, d_out):
    """Gradients with respect to (state, q, k, v, log_decay), from d_out = (d_state, d_o).

    o[j] = sum_i S'[i, j] q[i]  gives  d_q[i] = sum_j S'[i, j] d_o[j],  d_S'[i, j] += q[i] d_o[j]
    S' = a S + k v              gives  d_k[i] = sum_j d_S'[i, j] v[j],  d_v[j] = sum_i d_S'[i, j] k[i],  d_S = a d_S'
    a = exp(log_decay)          gives  d_log_decay = a sum_ij d_S'[i, j] S[i, j].
    """
    state, q, k, v, log_decay, after = saved
    d_state, d_o = d_out
    d_q, d_k, d_v, d_log_decay = (np.zeros(x.shape) for x in (q, k, v, log_decay))
    d_before = np.zeros(state.shape)
    for g in range(len(q)):
        a, d_after = math.exp(log_decay[g]), d_state[g] + np.outer(q[g], d_o[g])
        d_q[g], d_k[g], d_v[g] = after[g] @ d_o[g], d_after @ v[g], k[g] @ d_after
        d_log_decay[g] = a * np.vdot(d_after, state[g])
        d_before[g] = a * d_after
    return d_before, d_q, d_k, d_v, d_log_decay


def decay_matrix(log_decay):
    """gamma[t, s] = a[s + 1] a[s + 2] ... a[t] for s <= t."""
    length = log_decay.shape[-1]
    gamma = np.zeros((*log_decay.shape, length))
    for row in np.ndindex(*log_decay.shape[:-1]):
        for t in range(length):
            for s in range(t + 1):
                gamma[(*row, t, s)] = math.prod(math.exp(x) for x in log_decay[row][s + 1 : t + 1])
    return gamma, (log_decay, gamma)


def decay_matrix_backward(saved, d_gamma):
    """The gradient with respect to log_decay.

    gamma[t, s] = exp(sum of log a[m], s < m <= t)   gives  d_log_a[m] = the sum of d_gamma[t, s] gamma[t, s] over all
    pairs between which m lies, s < m <= t.
    """
    log_decay, gamma = saved
    d_log_decay = np.zeros(log_decay.shape)
    for index in np.ndindex(gamma.shape):
        *row, t, s = index
        for m in range(s + 1, t + 1):
            d_log_decay[(*row, m)] += d_gamma[index] * gamma[index]
    return d_log_decay


def decay_parallel(q, k, v, log_decay):
    """The loop, from an empty state."""
    (_, o), saved = loop(decay_step, np.zeros((len(q), q.shape[2], v.shape[2])), q, k, v, log_decay)
    return o, (saved, (len(q), q.shape[2], v.shape[2]))


def decay_parallel_backward(saved, d_o):
    """Gradients with respect to (q, k, v, log_decay): the steps walked back; nobody asks the last state."""
    steps, state = saved
    return loop_backward(steps, (np.zeros(state), d_o), decay_step_backward)[1:]


def decay_chunked(state, q, k, v, log_decay, *, chunk=64):
    """The loop: where a sequence is cut changes nothing."""
    return loop(decay_step, state, q, k, v, log_decay)


def decay_chunked_backward(saved, d_out):
    """Gradients with respect to (state, q, k, v, log_decay): the steps walked back."""
    return loop_backward(saved, d_out, decay_step_backward)
