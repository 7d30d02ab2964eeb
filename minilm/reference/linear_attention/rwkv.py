"""RWKV-6's time mixing, number by number."""

import math

import numpy as np


def rwkv6_step(state, r, k, v, log_decay, u):
    """o[v] = sum_k r[k] (S[k, v] + u[k] k[k] v[v]);  S'[k, v] = w[k] S[k, v] + k[k] v[v], for each head."""
    after, o = np.zeros(state.shape), np.zeros(v.shape)
    for g, i, j in np.ndindex(state.shape):
        o[g, j] += r[g, i] * (state[g, i, j] + u[g, i] * k[g, i] * v[g, j])
        after[g, i, j] = math.exp(log_decay[g, i]) * state[g, i, j] + k[g, i] * v[g, j]
    return (after, o), (state, r, k, v, log_decay, u)


def rwkv6_step_backward(saved, d_out):
    """Gradients with respect to (state, r, k, v, log_decay, u).

    p[k, v] = k[k] v[v]                    gives  d_k[k] = sum_v d_p[k, v] v[v],  d_v[v] = sum_k d_p[k, v] k[k]
    o[v] = sum_k r[k] (S[k, v] + u[k] p)   gives  d_r[k] = sum_v d_o[v] (S[k, v] + u[k] p),  d_S[k, v] = r[k] d_o[v],
                                                  d_u[k] = sum_v d_o[v] r[k] p,  d_p[k, v] = r[k] u[k] d_o[v]
    S'[k, v] = w[k] S[k, v] + p            gives  d_S[k, v] += d_S'[k, v] w[k],  d_p[k, v] += d_S'[k, v],
                                                  d_w[k] = sum_v d_S'[k, v] S[k, v]
    w = e^l                                gives  d_l = d_w w.
    """
    state, r, k, v, log_decay, u = saved
    d_after, d_o = d_out
    d_state, d_r, d_k, d_v, d_l, d_u = (np.zeros(x.shape) for x in saved)
    for g, i, j in np.ndindex(state.shape):
        w = math.exp(log_decay[g, i])
        d_p = d_after[g, i, j] + r[g, i] * u[g, i] * d_o[g, j]
        d_state[g, i, j] = d_after[g, i, j] * w + r[g, i] * d_o[g, j]
        d_r[g, i] += d_o[g, j] * (state[g, i, j] + u[g, i] * k[g, i] * v[g, j])
        d_k[g, i] += d_p * v[g, j]
        d_v[g, j] += d_p * k[g, i]
        d_l[g, i] += d_after[g, i, j] * state[g, i, j] * w
        d_u[g, i] += d_o[g, j] * r[g, i] * k[g, i] * v[g, j]
    return d_state, d_r, d_k, d_v, d_l, d_u


def rwkv6_parallel(r, k, v, log_decay, u):
    """o[t] = sum over s <= t and k of r[t, k] k[s, k] c[t, s, k] v[s];  c[t, t] = u, c[t, s] = w[s+1] ... w[t-1]."""
    o = np.zeros(v.shape)
    for g, t in np.ndindex(v.shape[:2]):
        for s in range(t + 1):
            weight = sum(r[g, t, i] * k[g, s, i] * _share(log_decay, u, g, t, s, i) for i in range(r.shape[2]))
            o[g, t] += weight * v[g, s]
    return o, (r, k, v, log_decay, u)


def rwkv6_parallel_backward(saved, d_o):
    """Gradients with respect to (r, k, v, log_decay, u).

    o[t] = sum a[t, s] v[s]                  gives  d_a = d_o[t] . v[s],  d_v[s] = a[t, s] d_o[t]
    a = sum_k r[t, k] k[s, k] c[t, s, k]     gives  d_r[t, k] = d_a k c,  d_k[s, k] = d_a r c,  d_c = d_a r k
    c = u at s = t                           gives  d_u = d_c
    c = e^(l[s+1] + ... + l[t-1]) else       gives  d_l[m] = d_c c for each m from s + 1 to t - 1.
    """
    r, k, v, log_decay, u = saved
    d_r, d_k, d_v, d_l, d_u = (np.zeros(x.shape) for x in saved)
    for g, t in np.ndindex(v.shape[:2]):
        for s in range(t + 1):
            d_a = np.dot(d_o[g, t], v[g, s])
            for i in range(r.shape[2]):
                c = _share(log_decay, u, g, t, s, i)
                d_v[g, s] += r[g, t, i] * k[g, s, i] * c * d_o[g, t]
                d_r[g, t, i] += d_a * k[g, s, i] * c
                d_k[g, s, i] += d_a * r[g, t, i] * c
                d_c = d_a * r[g, t, i] * k[g, s, i]
                if s == t:
                    d_u[g, i] += d_c
                else:
                    d_l[g, s + 1 : t, i] += d_c * c
    return d_r, d_k, d_v, d_l, d_u


def rwkv6_chunked(state, r, k, v, log_decay, u, *, chunk=16):
    """Token by token: where chunks begin and end changes nothing."""
    o, steps = np.zeros(v.shape), []
    for t in range(v.shape[1]):
        (state, o[:, t]), saved = rwkv6_step(state, r[:, t], k[:, t], v[:, t], log_decay[:, t], u)
        steps.append(saved)
    return (state, o), (steps, r, v, u)


def rwkv6_chunked_backward(saved, d_out):
    """Gradients with respect to (state, r, k, v, log_decay, u): from the last token to the first.

    (S_t, o_t) = step(S_{t-1}, r_t, k_t, v_t, l_t, u)   gives  d_S_{t-1} from (d_S_t, d_o_t), and so on down;
                                                               d_u is added over the tokens.
    """
    steps, r, v, u = saved
    d_state, d_o = d_out
    d_r, d_k, d_v, d_l, d_u = (np.zeros(x.shape) for x in (r, r, v, r, u))
    for t in reversed(range(len(steps))):
        d_state, *d_inputs, d_u_t = rwkv6_step_backward(steps[t], (d_state, d_o[:, t]))
        d_r[:, t], d_k[:, t], d_v[:, t], d_l[:, t] = d_inputs
        d_u += d_u_t
    return d_state, d_r, d_k, d_v, d_l, d_u


def _share(log_decay, u, g, t, s, i):
    """How much of what token s wrote is in what token t reads."""
    return u[g, i] if s == t else math.prod(math.exp(log_decay[g, m, i]) for m in range(s + 1, t))
