"""Linear attention, pair by pair, each query's weights divided by their sum."""

import numpy as np


def linear_attention(state, q, k, v, *, chunk=64):
    """o[t, j] = n[t, j] / z[t], both sums over the past and over what the state has of it.

    n[t, j] = sum_i q[t, i] state[i, j] + sum_s (q[t] . k[s]) v[s, j],
    z[t]    = sum_i q[t, i] state[i, last] + sum_s q[t] . k[s].
    """
    n, z, o, after = np.zeros(v.shape), np.zeros(q.shape[:2]), np.zeros(v.shape), np.array(state, float)
    for g, t in np.ndindex(z.shape):
        n[g, t], z[g, t] = q[g, t] @ state[g, :, :-1], q[g, t] @ state[g, :, -1]
        for s in range(t + 1):
            w = sum(a * b for a, b in zip(q[g, t], k[g, s], strict=True))
            n[g, t] += w * v[g, s]
            z[g, t] += w
        o[g, t] = n[g, t] / z[g, t] if z[g, t] != 0 else 0.0
        after[g] += np.outer(k[g, t], [*v[g, t], 1.0])
    return (after, o), (state, q, k, v, z, o)


def linear_attention_backward(saved, d_out):
    """Gradients with respect to (state, q, k, v), from d_out = (d_state, d_o).

    o = n / z                          gives  d_n = d_o / z,  d_z = -d_o . o / z
    n = sum_s w[s] v[s] + q state      gives  d_w[s] = d_n . v[s] + d_z,  d_v[s] = w[s] d_n, and of the state
                                              d_state[i] = q[i] (d_n, d_z),  d_q[i] = state[i] . (d_n, d_z)
    w[s] = q . k[s]                    gives  d_q += d_w[s] k[s],  d_k[s] += d_w[s] q
    state' = state + sum_t k[t] (v[t], 1)   gives  d_state += d_state',  d_k[t] += d_state' (v[t], 1),
                                                   d_v[t] += k[t] d_state' without its last column.
    """
    state, q, k, v, z, o = saved
    d_after, d_o = d_out
    d_state, d_q, d_k, d_v = np.array(d_after, float), np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    for g, t in np.ndindex(z.shape):
        d_k[g, t] += d_after[g] @ [*v[g, t], 1.0]
        d_v[g, t] += k[g, t] @ d_after[g, :, :-1]
        if z[g, t] == 0:
            continue
        d_n = np.array([*d_o[g, t], -np.dot(d_o[g, t], o[g, t])]) / z[g, t]
        d_state[g] += np.outer(q[g, t], d_n)
        d_q[g, t] += state[g] @ d_n
        for s in range(t + 1):
            d_w = np.dot(d_n, [*v[g, s], 1.0])
            d_q[g, t] += d_w * k[g, s]
            d_k[g, s] += d_w * q[g, t]
            d_v[g, s] += np.dot(q[g, t], k[g, s]) * d_n[:-1]
    return d_state, d_q, d_k, d_v
