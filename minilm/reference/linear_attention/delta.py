"""The delta rule, token by token. The loop is the specification: the parallel and the chunked form are it again."""

import math

import numpy as np

from minilm.reference.linear_attention.loop import loop, loop_backward


def delta_step(state, q, k, v, beta, log_decay):
    """F = a S;  u[j] = v[j] - sum_i F[i, j] k[i];  S'[i, j] = F[i, j] + k[i] beta u[j];  o[j] = sum_i S'[i, j] q[i]."""
    faded, u, after, o = np.zeros(state.shape), np.zeros(v.shape), np.zeros(state.shape), np.zeros(v.shape)
    for g, j in np.ndindex(v.shape):
        for i in range(k.shape[1]):
            faded[g, i, j] = math.exp(log_decay[g]) * state[g, i, j]
        u[g, j] = v[g, j] - sum(faded[g, i, j] * k[g, i] for i in range(k.shape[1]))
        for i in range(k.shape[1]):
            after[g, i, j] = faded[g, i, j] + k[g, i] * beta[g] * u[g, j]
            o[g, j] += after[g, i, j] * q[g, i]
    return (after, o), (q, k, beta, log_decay, faded, u, after)


def delta_step_backward(saved, d_out):
    """Gradients with respect to (state, q, k, v, beta, log_decay), from d_out = (d_state, d_o).

    o[j] = sum_i S'[i, j] q[i]           gives  d_q[i] = sum_j S'[i, j] d_o[j],  d_S'[i, j] += q[i] d_o[j]
    S'[i, j] = F[i, j] + k[i] beta u[j]  gives  d_F = d_S',  d_k[i] = beta sum_j d_S'[i, j] u[j],
                                                d_beta = sum_ij k[i] d_S'[i, j] u[j],
                                                d_u[j] = beta sum_i k[i] d_S'[i, j]
    u[j] = v[j] - sum_i F[i, j] k[i]     gives  d_v = d_u,  d_F[i, j] -= k[i] d_u[j],
                                                d_k[i] -= sum_j F[i, j] d_u[j]
    F = a S,  a = exp(log_decay)         gives  d_S = a d_F,  d_log_decay = sum_ij d_F[i, j] F[i, j].
    """
    q, k, beta, log_decay, faded, u, after = saved
    d_state, d_o = d_out
    d_before, d_q, d_k, d_u = np.zeros(after.shape), np.zeros(q.shape), np.zeros(k.shape), np.zeros(u.shape)
    d_beta, d_log_decay = np.zeros(beta.shape), np.zeros(log_decay.shape)
    for g in range(len(q)):
        d_q[g], d_after = after[g] @ d_o[g], d_state[g] + np.outer(q[g], d_o[g])
        d_beta[g], d_u[g] = k[g] @ d_after @ u[g], beta[g] * k[g] @ d_after
        d_k[g] = beta[g] * d_after @ u[g] - faded[g] @ d_u[g]
        d_faded = d_after - np.outer(k[g], d_u[g])
        d_before[g], d_log_decay[g] = math.exp(log_decay[g]) * d_faded, np.vdot(d_faded, faded[g])
    return d_before, d_q, d_k, d_u, d_beta, d_log_decay


def delta_parallel(q, k, v, beta, log_decay):
    """The loop, from an empty state."""
    state = np.zeros((len(q), q.shape[2], v.shape[2]))
    (last, o), saved = loop(delta_step, state, q, k, v, beta, log_decay)
    return o, (saved, last.shape)


def delta_parallel_backward(saved, d_o):
    """Gradients with respect to (q, k, v, beta, log_decay): the steps walked back; nobody asks the last state."""
    steps, state = saved
    return loop_backward(steps, (np.zeros(state), d_o), delta_step_backward)[1:]


def delta_chunked(state, q, k, v, beta, log_decay, *, chunk=32):
    """The loop: where a sequence is cut changes nothing."""
    return loop(delta_step, state, q, k, v, beta, log_decay)


def delta_chunked_backward(saved, d_out):
    """Gradients with respect to (state, q, k, v, beta, log_decay): the steps walked back."""
    return loop_backward(saved, d_out, delta_step_backward)
