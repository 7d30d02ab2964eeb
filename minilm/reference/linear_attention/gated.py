"""Gated linear attention, number by number."""

import math

import numpy as np


def gated_step(state, q, k, v, log_decay):
    """S'[k, v] = alpha[k] S[k, v] + k[k] v[v];  o[v] = sum_k S'[k, v] q[k], for each head."""
    after, o = np.zeros(state.shape), np.zeros(v.shape)
    for g, i, j in np.ndindex(state.shape):
        after[g, i, j] = math.exp(log_decay[g, i]) * state[g, i, j] + k[g, i] * v[g, j]
        o[g, j] += after[g, i, j] * q[g, i]
    return (after, o), (state, q, k, v, log_decay, after)


def gated_step_backward(saved, d_out):
    """Gradients with respect to (state, q, k, v, log_decay).

    o[v] = sum_k S'[k, v] q[k]                  gives  d_q[k] = sum_v d_o[v] S'[k, v],  d_S'[k, v] += q[k] d_o[v]
    S'[k, v] = alpha[k] S[k, v] + k[k] v[v]     gives  d_S[k, v] = d_S'[k, v] alpha[k],
                                                       d_k[k] = sum_v d_S'[k, v] v[v],  d_v[v] = sum_k d_S'[k, v] k[k],
                                                       d_alpha[k] = sum_v d_S'[k, v] S[k, v]
    alpha = e^l                                 gives  d_l = d_alpha alpha, which is 0 where everything is forgotten.
    """
    state, q, k, v, log_decay, after = saved
    d_after, d_o = d_out
    d_state, d_q, d_k, d_v, d_l = (np.zeros(x.shape) for x in (state, q, k, v, log_decay))
    for g, i, j in np.ndindex(state.shape):
        d_entry = d_after[g, i, j] + q[g, i] * d_o[g, j]
        d_q[g, i] += d_o[g, j] * after[g, i, j]
        d_k[g, i] += d_entry * v[g, j]
        d_v[g, j] += d_entry * k[g, i]
        d_l[g, i] += d_entry * state[g, i, j] * math.exp(log_decay[g, i])
        d_state[g, i, j] = d_entry * math.exp(log_decay[g, i])
    return d_state, d_q, d_k, d_v, d_l


def gated_parallel(q, k, v, log_decay):
    """o[t] = sum over s <= t and k of q[t, k] k[s, k] (alpha[s+1, k] ... alpha[t, k]) v[s]."""
    o = np.zeros(v.shape)
    for g, t in np.ndindex(v.shape[:2]):
        for s in range(t + 1):
            weight = sum(q[g, t, i] * k[g, s, i] * _left(log_decay[g, :, i], s, t) for i in range(q.shape[2]))
            o[g, t] += weight * v[g, s]
    return o, (q, k, v, log_decay)


def gated_parallel_backward(saved, d_o):
    """Gradients with respect to (q, k, v, log_decay).

    o[t] = sum w[t, s] v[s]                  gives  d_w = d_o[t] . v[s],  d_v[s] = w[t, s] d_o[t]
    w = sum_k q[t, k] k[s, k] D[t, s, k]     gives  d_q[t, k] = d_w k D,  d_k[s, k] = d_w q D,  d_D = d_w q k
    D = e^(l[s+1] + ... + l[t])              gives  d_l[r] = d_D D for each r from s + 1 to t.
    """
    q, k, v, log_decay = saved
    d_q, d_k, d_v, d_l = (np.zeros(x.shape) for x in saved)
    for g, t in np.ndindex(v.shape[:2]):
        for s in range(t + 1):
            d_w = np.dot(d_o[g, t], v[g, s])
            for i in range(q.shape[2]):
                left = _left(log_decay[g, :, i], s, t)
                d_v[g, s] += q[g, t, i] * k[g, s, i] * left * d_o[g, t]
                d_q[g, t, i] += d_w * k[g, s, i] * left
                d_k[g, s, i] += d_w * q[g, t, i] * left
                d_l[g, s + 1 : t + 1, i] += d_w * q[g, t, i] * k[g, s, i] * left
    return d_q, d_k, d_v, d_l


def gated_chunked(state, q, k, v, log_decay, *, chunk=16):
    """Token by token: where chunks begin and end changes nothing."""
    o, steps = np.zeros(v.shape), []
    for t in range(v.shape[1]):
        (state, o[:, t]), saved = gated_step(state, q[:, t], k[:, t], v[:, t], log_decay[:, t])
        steps.append(saved)
    return (state, o), (steps, q, v)


def gated_chunked_backward(saved, d_out):
    """Gradients with respect to (state, q, k, v, log_decay): from the last token to the first.

    (S_t, o_t) = step(S_{t-1}, q_t, k_t, v_t, l_t)   gives  d_S_{t-1} from (d_S_t, d_o_t), and so on down.
    """
    steps, q, v = saved
    d_state, d_o = d_out
    d_q, d_k, d_v, d_l = np.zeros(q.shape), np.zeros(q.shape), np.zeros(v.shape), np.zeros(q.shape)
    for t in reversed(range(len(steps))):
        d_state, *d_inputs = gated_step_backward(steps[t], (d_state, d_o[:, t]))
        d_q[:, t], d_k[:, t], d_v[:, t], d_l[:, t] = d_inputs
    return d_state, d_q, d_k, d_v, d_l


def _left(log_decay, s, t):
    """What is left at t of what was written at s."""
    return math.prod(math.exp(log_decay[r]) for r in range(s + 1, t + 1))
