"""The online softmax in its smallest block: one query, and one key after another."""

import math

import numpy as np


def blockwise_attention(q, k, v, query, key, rule, bias=None, *, t_block=128, s_block=128):
    """One pass over the keys that a query sees, its output and its sum rescaled whenever a larger score comes by."""
    b, bias_saved = (None, None) if bias is None else bias(query, key)
    allowed = rule(query, key)
    o, lse = np.zeros((*q.shape[:3], v.shape[2])), np.full(q.shape[:3], -np.inf)
    for row in np.ndindex(q.shape[:3]):
        g, _, t = row
        m, total, mixed = -math.inf, 0.0, np.zeros(v.shape[2])
        for s in range(k.shape[1]):
            if allowed[t, s] and key.position[s] >= 0:
                a = _score(q, k, b, row, s)
                m_new = max(m, a)
                p, c = math.exp(a - m_new), math.exp(m - m_new)
                m, total, mixed = m_new, c * total + p, c * mixed + p * v[g, s]
        if total > 0:
            o[row], lse[row] = mixed / total, m + math.log(total)
    return (o, lse), (q, k, v, key, allowed, bias, b, bias_saved, o, lse)


def blockwise_attention_backward(saved, d_out):
    """Gradients with respect to (q, k, v, query, key, rule, bias).

    o_t = sum_s p_ts v_s            gives  d_v_s = sum_t p_ts d_o_t,  d_p_ts = d_o_t . v_s
    p_ts = exp(a_ts - lse_t)        gives  d_a_ts = p_ts (d_p_ts - sum_u p_tu d_p_tu), and the sum is d_o_t . o_t
    lse_t = log sum_s exp(a_ts)     gives  d_a_ts += p_ts d_lse_t
    a_ts = q_t . k_s / sqrt + b_ts  gives  d_q_t = sum_s d_a_ts k_s / sqrt,  d_k_s = sum_t d_a_ts q_t / sqrt,  d_b = d_a
    """
    q, k, v, key, allowed, bias, b, bias_saved, o, lse = saved
    d_o, d_lse = d_out
    d_q, d_k, d_v, d_b = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape), np.zeros((*q.shape[:3], k.shape[1]))
    for row in np.ndindex(q.shape[:3]):
        g, _, t = row
        for s in range(k.shape[1]):
            if allowed[t, s] and key.position[s] >= 0:
                p = math.exp(_score(q, k, b, row, s) - lse[row])
                d_v[g, s] += p * d_o[row]
                d_a = p * (np.dot(d_o[row], v[g, s]) - np.dot(d_o[row], o[row]) + d_lse[row])
                d_q[row] += d_a * k[g, s] / math.sqrt(q.shape[3])
                d_k[g, s] += d_a * q[row] / math.sqrt(q.shape[3])
                d_b[(*row, s)] = d_a
    return d_q, d_k, d_v, None, None, None, None if bias is None else bias.backward(bias_saved, d_b)


def blockwise_gradients(q, k, v, query, key, rule, bias, o, lse, d_o, d_lse, *, t_block=128, s_block=128):
    """The same gradient with o and lse as they are given: of these keys alone, or of more."""
    b, bias_saved = (None, None) if bias is None else bias(query, key)
    saved = (q, k, v, key, rule(query, key), bias, b, bias_saved, o, lse)
    d_q, d_k, d_v, *_, d_bias = blockwise_attention_backward(saved, (d_o, d_lse))
    return (d_q, d_k, d_v, d_bias), None


def _score(q, k, b, row, s):
    return np.dot(q[row], k[row[0], s]) / math.sqrt(q.shape[3]) + (0.0 if b is None else b[(*row, s)])
