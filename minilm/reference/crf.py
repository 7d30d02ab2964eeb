"""The conditional random field, number by number; positions from the sequence's length on are never read.

Everything differentiable here has the gradient of a score or of log Z. A path's score is a sum of numbers of the
parameters and emissions, so its gradient counts how often each occurs in it. That of log Z is the same, expected:

    d log Z / d theta = sum_y (exp(s(y)) / Z) d s(y) / d theta = E[d s(y) / d theta]

hence P(y_t = j) for an emission, and the sum over t of P(y_{t-1} = i, y_t = j) for a transition.
"""

import math

import numpy as np


def crf_score(params, emissions, tags, length=None):
    """s = start[y_1] + sum_t e[t, y_t] + sum_t T[y_{t-1}, y_t] + end[y_n], and 0 for no position at all."""
    n = _length(emissions, length)
    score = sum(emissions[t, tags[t]] for t in range(n))
    score += sum(params.transitions[tags[t - 1], tags[t]] for t in range(1, n))
    if n:
        score += params.start[tags[0]] + params.end[tags[n - 1]]
    return float(score), (params, emissions, tags, n)


def crf_score_backward(saved, d_score):
    """Gradients with respect to (params, emissions, tags, length).

    The score is a sum of numbers, so each has d_score for every time that it stands in the sum.
    """
    params, emissions, tags, n = saved
    d_params, d_emissions = type(params)(*(np.zeros(p.shape) for p in params)), np.zeros(emissions.shape)
    for t in range(n):
        d_emissions[t, tags[t]] = d_score
    for t in range(1, n):
        d_params.transitions[tags[t - 1], tags[t]] += d_score
    if n:
        d_params.start[tags[0]] = d_score
        d_params.end[tags[n - 1]] = d_score
    return d_params, d_emissions, None, None


def crf_log_normalizer(params, emissions, length=None):
    """log Z = log of the sum of exp(alpha[n, j] + end[j])."""
    n = _length(emissions, length)
    log_Z = _logsumexp(_forward(params, emissions, n)[-1] + params.end) if n else 0.0
    return log_Z, (params, emissions, n, log_Z)


def crf_log_normalizer_backward(saved, d_log_Z):
    """Gradients with respect to (params, emissions, length): d_log_Z times what is expected of a path.

    Of all paths, those with y_t = j have the share     exp(alpha[t, j] + beta[t, j] - log Z),
    and those with y_{t-1} = i and y_t = j the share    exp(alpha[t-1, i] + T[i, j] + e[t, j] + beta[t, j] - log Z):
    alpha[t, j] is the log of the sum over the beginnings that end in j at t, beta[t, j] that over all that may follow.
    """
    params, emissions, n, log_Z = saved
    d_params, d_emissions = type(params)(*(np.zeros(p.shape) for p in params)), np.zeros(emissions.shape)
    if n and log_Z > -math.inf:
        tag, pair = _shares(params, emissions, n, log_Z)
        d_emissions[:n] = d_log_Z * tag
        d_params.transitions[:] = d_log_Z * pair.sum(0)
        d_params.start[:] = d_log_Z * tag[0]
        d_params.end[:] = d_log_Z * tag[-1]
    return d_params, d_emissions, None


def crf_log_likelihood(params, emissions, tags, length=None):
    """log p = s - log Z."""
    score, saved_score = crf_score(params, emissions, tags, length)
    log_Z, saved_log_Z = crf_log_normalizer(params, emissions, length)
    return score - log_Z, (saved_score, saved_log_Z)


def crf_log_likelihood_backward(saved, d_log_p):
    """Gradients with respect to (params, emissions, tags, length): the path's own counts, less the expected ones."""
    d_params, d_emissions, _, _ = crf_score_backward(saved[0], d_log_p)
    d_params_Z, d_emissions_Z, _ = crf_log_normalizer_backward(saved[1], d_log_p)
    return type(d_params)(*map(np.subtract, d_params, d_params_Z)), d_emissions - d_emissions_Z, None, None


def crf_marginals(params, emissions, length=None):
    """p[t, j] = exp(alpha[t, j] + beta[t, j] - log Z), and 0 beyond the length."""
    log_Z, (_, _, n, _) = crf_log_normalizer(params, emissions, length)
    p = np.zeros(emissions.shape)
    if n and log_Z > -math.inf:
        p[:n], _ = _shares(params, emissions, n, log_Z)
    return p, (params, emissions, n, log_Z)


def crf_marginals_backward(saved, d_p):
    """Gradients with respect to (params, emissions, length).

    With V(y) = sum_t d_p[t, y_t], the sum of d_p[t, j] p[t, j] is E[V]. For a number theta of the scores, and k(y) how
    often a path uses it, d p(y) / d theta = p(y) (k(y) - E[k]), so that

        d_theta = sum_y V(y) p(y) (k(y) - E[k]) = E[V k] - E[V] E[k]

    which for k(y) = [y_t = j] is P(y_t = j) (E[V | y_t = j] - E[V]); likewise for a pair of neighbours. What V a
    beginning that ends in j at t has gathered is, on average, u[t, j]; what follows j at t will gather, w[t, j]:

        u[t, j] = d_p[t, j] + sum_i P(y_{t-1} = i | y_t = j, the beginning) u[t-1, i]
        w[t, i] = sum_j P(y_{t+1} = j | y_t = i, what follows) (d_p[t+1, j] + w[t+1, j])
    """
    params, emissions, n, log_Z = saved
    T, c = params.transitions, emissions.shape[1]
    d_params, d_emissions = type(params)(*(np.zeros(p.shape) for p in params)), np.zeros(emissions.shape)
    if not n or log_Z == -math.inf:
        return d_params, d_emissions, None
    alpha, beta = _forward(params, emissions, n), _backward(params, emissions, n)
    tag, pair = _shares(params, emissions, n, log_Z)
    u, w = np.zeros((n, c)), np.zeros((n, c))
    u[0] = d_p[0]
    for t in range(1, n):
        for j in range(c):
            before = _softmax(alpha[t - 1] + T[:, j])
            u[t, j] = d_p[t, j] + sum(before[i] * u[t - 1, i] for i in range(c))
    for t in range(n - 2, -1, -1):
        for i in range(c):
            after = _softmax(T[i] + emissions[t + 1] + beta[t + 1])
            w[t, i] = sum(after[j] * (d_p[t + 1, j] + w[t + 1, j]) for j in range(c))
    mean = sum(tag[0, j] * (u[0, j] + w[0, j]) for j in range(c))
    for t in range(n):
        for j in range(c):
            d_emissions[t, j] = tag[t, j] * (u[t, j] + w[t, j] - mean)
            for i in range(c if t else 0):
                gathered = u[t - 1, i] + d_p[t, j] + w[t, j]
                d_params.transitions[i, j] += pair[t - 1, i, j] * (gathered - mean)
    d_params.start[:], d_params.end[:] = d_emissions[0], d_emissions[n - 1]
    return d_params, d_emissions, None


def viterbi(params, emissions, length=None):
    """The best path to each tag, from the best paths to the tags before; the first of those that are as good."""
    n, c = _length(emissions, length), emissions.shape[1]
    tags = np.full(len(emissions), -1)
    best = [(params.start[j] + emissions[0, j], [j]) for j in range(c)] if n else []
    for t in range(1, n):
        longer = []
        for j in range(c):
            score, path = max(((s + params.transitions[y[-1], j], y) for s, y in best), key=lambda pair: pair[0])
            longer.append((score + emissions[t, j], [*path, j]))
        best = longer
    if n:
        _, tags[:n] = max(((s + params.end[y[-1]], y) for s, y in best), key=lambda pair: pair[0])
    score, saved = crf_score(params, emissions, tags, n)
    return (tags, score), saved


def viterbi_backward(saved, d_out):
    """Gradients with respect to (params, emissions, length), from d_out = (d_tags, d_score).

    Where the best path is the only one, a small change leaves it the best: the score's gradient is that of this path.
    """
    d_params, d_emissions, _, _ = crf_score_backward(saved, d_out[1])
    return d_params, d_emissions, None


def _length(emissions, length):
    return len(emissions) if length is None else int(length)


def _forward(params, emissions, n):
    """alpha[t, j] = e[t, j] + log sum_i exp(alpha[t-1, i] + T[i, j]), which begins with start[j] + e[0, j]."""
    alpha = np.zeros((n, emissions.shape[1]))
    alpha[0] = params.start + emissions[0]
    for t in range(1, n):
        for j in range(emissions.shape[1]):
            alpha[t, j] = emissions[t, j] + _logsumexp(alpha[t - 1] + params.transitions[:, j])
    return alpha


def _backward(params, emissions, n):
    """beta[t, i] = log sum_j exp(T[i, j] + e[t+1, j] + beta[t+1, j]), which ends with end[i]."""
    beta = np.zeros((n, emissions.shape[1]))
    beta[n - 1] = params.end
    for t in range(n - 2, -1, -1):
        for i in range(emissions.shape[1]):
            beta[t, i] = _logsumexp(params.transitions[i] + emissions[t + 1] + beta[t + 1])
    return beta


def _shares(params, emissions, n, log_Z):
    """P(y_t = j), `(n, c)`, and P(y_{t-1} = i, y_t = j), `(n - 1, c, c)`."""
    c = emissions.shape[1]
    alpha, beta = _forward(params, emissions, n), _backward(params, emissions, n)
    tag, pair = np.zeros((n, c)), np.zeros((n - 1, c, c))
    for t, j in np.ndindex(n, c):
        tag[t, j] = math.exp(alpha[t, j] + beta[t, j] - log_Z)
    for t, i, j in np.ndindex(n - 1, c, c):
        step = params.transitions[i, j] + emissions[t + 1, j]
        pair[t, i, j] = math.exp(alpha[t, i] + step + beta[t + 1, j] - log_Z)
    return tag, pair


def _logsumexp(scores):
    largest = max(scores)
    return largest + math.log(sum(math.exp(s - largest) for s in scores)) if largest > -math.inf else -math.inf


def _softmax(scores):
    total = _logsumexp(scores)
    return [math.exp(s - total) if s > -math.inf else 0.0 for s in scores]
