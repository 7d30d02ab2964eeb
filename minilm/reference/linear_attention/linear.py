"""Linear attention, pair by pair, each query's weights divided by their sum."""

import math

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


def exponential_attention(state, a, b, v, *, chunk=64):
    """o[t] = sum_i p[i] y[i] / sum_i p[i] c[i], where i goes over the features of the past and over those of the state.

    Feature j of token s has p = e^(a[t, j] + b[s, j]), y = v[s] and c = 1; that of the state has p = e^(a[t, j] + m),
    and y and c are its row j. All exponents of a query lose their largest, of which the quotient knows nothing.
    The state after them: m' = max(m, round(max b)), its rows e^(m - m') state[j] + sum_s e^(b[s, j] - m') (v[s], 1).
    """
    o, rows, matrix, m = np.zeros(v.shape), {}, np.zeros(state.matrix.shape), np.zeros(state.m.shape)
    for g in range(len(v)):
        pairs = {(None, j): (state.m[g], state.matrix[g, j]) for j in range(a.shape[2])}
        for t in range(v.shape[1]):
            pairs |= {(t, j): (b[g, t, j], np.array([*v[g, t], 1.0])) for j in range(a.shape[2])}
            largest = max(a[g, t, j] + exponent for (_, j), (exponent, _) in pairs.items())
            p = {(s, j): math.exp(a[g, t, j] + exponent - largest) for (s, j), (exponent, _) in pairs.items()}
            sums = np.sum([p[i] * pairs[i][1] for i in pairs], axis=0)
            if sums[-1] != 0:
                o[g, t] = sums[:-1] / sums[-1]
                rows[g, t] = {i: p[i] / sums[-1] for i in pairs}
        m[g] = max([state.m[g], *(round(exponent) for exponent in b[g].flat if exponent > -math.inf)])
        for (_, j), (exponent, y_and_c) in pairs.items():
            matrix[g, j] += math.exp(exponent - m[g]) * y_and_c
    return (type(state)(matrix, m), o), (state, a, b, v, o, rows, matrix, m)


def exponential_attention_backward(saved, d_out):
    """Gradients with respect to (state, a, b, v), from d_out = (d_state, d_o).

    o = sum_i p[i] y[i] / sum_i p[i] c[i], and w[i] = p[i] / sum_i p[i] c[i]
                     gives  d_y[i] = w[i] d_o,  d_c[i] = -w[i] d_o . o,  and d_e[i] = w[i] d_o . (y[i] - c[i] o)
    p[i] = e^e[i],   e[i] = a[t, j] + b[s, j] or a[t, j] + m
                     gives  d_a[t, j] and d_b[s, j] or d_m the sums of d_e
    matrix' = sum_i e^(e[i] - m') (y[i], c[i])
                     gives  d_(y, c)[i] += e^(e[i] - m') d_matrix',  d_e[i] += that . (y[i], c[i]),  d_m' -= all of it
    m' = max(m, round(max b))
                     gives  d_m += d_m' where m is the larger; what is rounded has no slope.
    """
    state, a, b, v, o, rows, matrix, m = saved
    d_after, d_o = d_out
    d_matrix, d_m, d_a, d_b, d_v = (np.zeros(x.shape) for x in (state.matrix, state.m, a, b, v))

    def credit(g, s, j, d_e, d_row):
        if s is None:
            d_m[g] += d_e
            d_matrix[g, j] += d_row
        else:
            d_b[g, s, j] += d_e
            d_v[g, s] += d_row[:-1]

    for (g, t), w in rows.items():
        for (s, j), share in w.items():
            row = state.matrix[g, j] if s is None else np.array([*v[g, s], 1.0])
            d_row = share * np.array([*d_o[g, t], -np.dot(d_o[g, t], o[g, t])])
            d_a[g, t, j] += np.dot(d_row, row)
            credit(g, s, j, np.dot(d_row, row), d_row)
    for g, j in np.ndindex(matrix.shape[:2]):
        for s in (None, *range(v.shape[1])):
            row = state.matrix[g, j] if s is None else np.array([*v[g, s], 1.0])
            d_row = math.exp((state.m[g] if s is None else b[g, s, j]) - m[g]) * d_after.matrix[g, j]
            credit(g, s, j, np.dot(d_row, row), d_row)
    for g in range(len(m)):
        if m[g] == state.m[g]:
            d_m[g] += d_after.m[g] - np.sum(matrix[g] * d_after.matrix[g])
    return type(state)(d_matrix, d_m), d_a, d_b, d_v
