"""Luong's scores, pair by pair; masked keys are skipped."""

import math

import numpy as np

from minilm.reference.activation import _logistic


def dot_scores(q, k):
    """a[t, s] = sum_i q[t, i] k[s, i]."""
    a = np.zeros((len(q), len(k)))
    for t, s in np.ndindex(a.shape):
        a[t, s] = sum(q[t, i] * k[s, i] for i in range(q.shape[1]))
    return a, (q, k)


def dot_scores_backward(saved, d_a):
    """Gradients with respect to (q, k).

    a[t, s] = q[t] . k[s]   gives  d_q[t] = sum_s d_a[t, s] k[s],  d_k[s] = sum_t d_a[t, s] q[t].
    """
    q, k = saved
    d_q, d_k = np.zeros(q.shape), np.zeros(k.shape)
    for t, s in np.ndindex(d_a.shape):
        d_q[t] += d_a[t, s] * k[s]
        d_k[s] += d_a[t, s] * q[t]
    return d_q, d_k


def general_scores(w, q, k):
    """a[t, s] = sum_i sum_j q[t, i] w[i, j] k[s, j]."""
    a = np.zeros((len(q), len(k)))
    for t, s in np.ndindex(a.shape):
        a[t, s] = sum(q[t, i] * w[i, j] * k[s, j] for i, j in np.ndindex(w.shape))
    return a, (w, q, k)


def general_scores_backward(saved, d_a):
    """Gradients with respect to (w, q, k).

    a = sum_ij q[i] w[i, j] k[j]   gives  d_w[i, j] = d_a q[i] k[j],  d_q[i] = d_a sum_j w[i, j] k[j],
                                          d_k[j] = d_a sum_i q[i] w[i, j], each added over its pairs (t, s).
    """
    w, q, k = saved
    d_w, d_q, d_k = np.zeros(w.shape), np.zeros(q.shape), np.zeros(k.shape)
    for t, s in np.ndindex(d_a.shape):
        d_w += d_a[t, s] * np.outer(q[t], k[s])
        d_q[t] += d_a[t, s] * (w @ k[s])
        d_k[s] += d_a[t, s] * (q[t] @ w)
    return d_w, d_q, d_k


def concat_scores(params, q, k):
    """a[t, s] = sum_j v[j] tanh(sum_i c[i] w[i, j]),  c = [q[t], k[s]]."""
    hidden, a = np.zeros((len(q), len(k), len(params.v))), np.zeros((len(q), len(k)))
    for t, s in np.ndindex(a.shape):
        c = [*q[t], *k[s]]
        for j in range(len(params.v)):
            hidden[t, s, j] = math.tanh(sum(c[i] * params.w[i, j] for i in range(len(c))))
        a[t, s] = np.dot(params.v, hidden[t, s])
    return a, (params, q, k, hidden)


def concat_scores_backward(saved, d_a):
    """Gradients with respect to (params, q, k).

    a = sum_j v[j] u[j]       gives  d_v[j] = d_a u[j],  d_u[j] = d_a v[j]
    u = tanh(b),  b = c w     gives  d_b = d_u (1 - u^2),  d_w[i, j] = c[i] d_b[j],  d_c[i] = sum_j w[i, j] d_b[j]
    c = [q[t], k[s]]          gives  d_q[t] the first entries of d_c, d_k[s] the others.
    """
    params, q, k, hidden = saved
    d_w, d_v, d_q, d_k = np.zeros(params.w.shape), np.zeros(params.v.shape), np.zeros(q.shape), np.zeros(k.shape)
    for t, s in np.ndindex(d_a.shape):
        d_v += d_a[t, s] * hidden[t, s]
        d_b = d_a[t, s] * params.v * (1 - hidden[t, s] ** 2)
        d_w += np.outer(np.concatenate([q[t], k[s]]), d_b)
        d_c = params.w @ d_b
        d_q[t] += d_c[: q.shape[1]]
        d_k[s] += d_c[q.shape[1] :]
    return type(params)(w=d_w, v=d_v), d_q, d_k


def location_scores(w, q):
    """a[t, s] = sum_i q[t, i] w[i, s]."""
    a = np.zeros((len(q), w.shape[1]))
    for t, s in np.ndindex(a.shape):
        a[t, s] = sum(q[t, i] * w[i, s] for i in range(len(w)))
    return a, (w, q)


def location_scores_backward(saved, d_a):
    """Gradients with respect to (w, q).

    a[t, s] = sum_i q[t, i] w[i, s]   gives  d_w[i, s] = sum_t q[t, i] d_a[t, s],  d_q[t, i] = sum_s d_a[t, s] w[i, s].
    """
    w, q = saved
    d_w, d_q = np.zeros(w.shape), np.zeros(q.shape)
    for t, s in np.ndindex(d_a.shape):
        d_w[:, s] += d_a[t, s] * q[t]
        d_q[t] += d_a[t, s] * w[:, s]
    return d_w, d_q


def local_p_weights(params, q, scores, mask=True, *, reach):
    """p = S sigma(v_p . tanh(q w_p));  w[s] = softmax(a)[s] exp(-2 ((s - p) / D)^2), both over the allowed s near p."""
    allowed, weights = np.broadcast_to(mask, scores.shape), np.zeros(scores.shape)
    rows = []
    for t in range(len(q)):
        u = [math.tanh(sum(q[t, i] * row[j] for i, row in enumerate(params.w_p))) for j in range(len(params.v_p))]
        share = _logistic(sum(v_j * u_j for v_j, u_j in zip(params.v_p, u, strict=True)))
        p = sum(bool(one) for one in allowed[t]) * share
        near = [s for s in range(scores.shape[1]) if allowed[t, s] and abs(s - p) <= reach]
        largest = max((scores[t, s] for s in near), default=0.0)
        total = sum(math.exp(scores[t, s] - largest) for s in near)
        softmax = {s: math.exp(scores[t, s] - largest) / total for s in near}
        for s in near:
            weights[t, s] = softmax[s] * math.exp(-2 * ((s - p) / reach) ** 2)
        rows.append((np.array(u), share, p, softmax))
    return weights, (params, q, scores, weights, rows, reach)


def local_p_weights_backward(saved, d_weights):
    """Gradients with respect to (params, q, scores, mask); where the window ends has none.

    w[s] = m[s] e[s],  e[s] = exp(-2 ((s - p) / D)^2)   gives  d_m[s] = d_w[s] e[s],
                                                               d_p = sum_s d_w[s] w[s] 4 (s - p) / D^2
    m = softmax(a)                                      gives  d_a[s] = m[s] (d_m[s] - sum_r m[r] d_m[r])
    p = S sigma(b),  b = sum_j v[j] u[j]                gives  d_b = d_p p (1 - sigma(b)),  d_v[j] = d_b u[j]
    u = tanh(q w)                                       gives  d_w[i, j] = q[i] d_b v[j] (1 - u[j]^2);  d_q likewise.
    """
    params, q, scores, weights, rows, reach = saved
    d_w_p, d_v_p = np.zeros(params.w_p.shape), np.zeros(params.v_p.shape)
    d_q, d_scores = np.zeros(q.shape), np.zeros(scores.shape)
    for t, (u, share, p, softmax) in enumerate(rows):
        d_p = sum(d_weights[t, s] * weights[t, s] * 4 * (s - p) / reach**2 for s in softmax)
        d_m = {s: d_weights[t, s] * math.exp(-2 * ((s - p) / reach) ** 2) for s in softmax}
        mean = sum(softmax[s] * d_m[s] for s in softmax)
        for s in softmax:
            d_scores[t, s] = softmax[s] * (d_m[s] - mean)
        d_b = d_p * p * (1 - share)
        d_v_p += d_b * u
        d_u = d_b * params.v_p * (1 - u**2)
        d_w_p += np.outer(q[t], d_u)
        d_q[t] += params.w_p @ d_u
    return type(params)(w_p=d_w_p, v_p=d_v_p), d_q, d_scores, None
