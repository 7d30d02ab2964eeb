"""The non-linear functions, number by number."""

import math

import numpy as np


def relu(x):
    """y = max(x, 0)."""
    return _each(lambda a: a if a > 0 else 0.0, x), x


def relu_backward(saved, d_y):
    """Gradient with respect to x.

    y = x where x > 0, else 0   gives  d_x = d_y where x > 0, else 0; at the kink itself any value in [0, 1] would do.
    """
    return _each(lambda a, d: d if a > 0 else 0.0, saved, d_y)


def squared_relu(x):
    """y = max(x, 0)^2."""
    return _each(lambda a: a * a if a > 0 else 0.0, x), x


def squared_relu_backward(saved, d_y):
    """Gradient with respect to x: y = x^2 where x > 0 gives d_x = 2 x d_y there, and 0 elsewhere."""
    return _each(lambda a, d: 2 * a * d if a > 0 else 0.0, saved, d_y)


def gelu(x):
    """y = x Phi(x), with Phi(x) = (1 + erf(x / sqrt 2)) / 2 the standard normal distribution function."""
    return _each(lambda a: a * _normal_distribution(a), x), x


def gelu_backward(saved, d_y):
    """Gradient with respect to x.

    y = x Phi(x),  Phi'(x) = phi(x) = exp(-x^2 / 2) / sqrt(2 pi)   gives  d_x = (Phi(x) + x phi(x)) d_y.
    """

    def slope(a):
        return _normal_distribution(a) + a * math.exp(-a * a / 2) / math.sqrt(2 * math.pi)

    return _each(lambda a, d: slope(a) * d, saved, d_y)


def gelu_tanh(x):
    """y = x (1 + tanh u) / 2,  u = sqrt(2 / pi) (x + 0.044715 x^3); and (1 + tanh u) / 2 = 1 / (1 + exp(-2 u))."""
    return _each(lambda a: a / (1 + _exp(-2 * _gelu_argument(a))), x), x


def gelu_tanh_backward(saved, d_y):
    """Gradient with respect to x.

    y = x s,  s = 1 / (1 + exp(-2 u))     gives  dy/dx = s + x ds/du du/dx,  ds/du = 2 s (1 - s) = 2 s / (1 + exp(2 u))
    u = sqrt(2 / pi) (x + 0.044715 x^3)   gives  du/dx = sqrt(2 / pi) (1 + 3 * 0.044715 x^2)
    """

    def slope(a):
        u = _gelu_argument(a)
        s = 1 / (1 + _exp(-2 * u))
        return s + a * 2 * s / (1 + _exp(2 * u)) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * a * a)

    return _each(lambda a, d: slope(a) * d, saved, d_y)


def silu(x):
    """y = x sigma(x)."""
    return _each(lambda a: a * _logistic(a), x), x


def silu_backward(saved, d_y):
    """Gradient with respect to x.

    y = x s,  s = sigma(x),  ds/dx = s (1 - s)   gives  d_x = (s + x s (1 - s)) d_y.
    """

    def slope(a):
        s = _logistic(a)
        return s + a * s * (1 - s)

    return _each(lambda a, d: slope(a) * d, saved, d_y)


def sigmoid(x):
    """y = 1 / (1 + exp(-x))."""
    y = _each(_logistic, x)
    return y, y


def sigmoid_backward(saved, d_y):
    """Gradient with respect to x, by y alone.

    y = 1 / (1 + e),  e = exp(-x)   gives  dy/dx = e / (1 + e)^2 = y (1 - y).
    """
    return _each(lambda y, d: y * (1 - y) * d, saved, d_y)


def tanh(x):
    """y = tanh(x)."""
    y = _each(math.tanh, x)
    return y, y


def tanh_backward(saved, d_y):
    """Gradient with respect to x, by y alone: dy/dx = 1 / cosh(x)^2 = 1 - tanh(x)^2 = 1 - y^2."""
    return _each(lambda y, d: (1 - y * y) * d, saved, d_y)


def softmax(x, where=True):
    """y[j] = exp(x[j]) / sum of exp(x[i]), both over the entries that `where` admits; the others are skipped and 0."""
    where = np.broadcast_to(where, x.shape)
    y = np.zeros(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        admitted = [j for j in range(x.shape[-1]) if where[row][j]]
        for j in admitted:
            # e^x[j] / sum_i e^x[i] = 1 / sum_i e^(x[i] - x[j]): no maximum needed, and an overflow to infinity means 0.
            y[row][j] = 1 / sum(_exp(x[row][i] - x[row][j]) for i in admitted)
    return y, y


def softmax_backward(saved, d_y):
    """Gradients with respect to (x, where); the mask has none.

    y[j] = e[j] / sum_i e[i],  e = exp(x)   gives  dy[j] / dx[i] = y[j] ((i == j) - y[i]),
    hence  d_x[i] = sum_j d_y[j] dy[j] / dx[i] = y[i] (d_y[i] - sum_j d_y[j] y[j]).
    What is masked has y = 0, and so no gradient.
    """
    y, d_x = saved, np.zeros(d_y.shape)
    for row in np.ndindex(y.shape[:-1]):
        mean = sum(d_y[row][j] * y[row][j] for j in range(y.shape[-1]))
        for i in range(y.shape[-1]):
            d_x[row][i] = y[row][i] * (d_y[row][i] - mean)
    return d_x, None


def log_softmax(x):
    """y[j] = x[j] - log of the sum of exp(x[i])."""
    total, _ = logsumexp(x)
    y = np.zeros(x.shape)
    for row in np.ndindex(x.shape):
        y[row] = x[row] - total[row[:-1]]
    return y, y


def log_softmax_backward(saved, d_y):
    """Gradient with respect to x.

    y[j] = x[j] - log sum_i exp(x[i])   gives  dy[j] / dx[i] = (i == j) - exp(y[i]),
    hence  d_x[i] = d_y[i] - exp(y[i]) sum_j d_y[j].
    """
    y, d_x = saved, np.zeros(d_y.shape)
    for row in np.ndindex(y.shape):
        d_x[row] = d_y[row] - math.exp(y[row]) * sum(d_y[row[:-1]])
    return d_x


def logsumexp(x):
    """y = log of the sum of exp(x[i]), one number after the other: log(e^a + e^b) = b + log(1 + e^(a - b))."""
    y = np.zeros(x.shape[:-1])
    for row in np.ndindex(x.shape[:-1]):
        total = -math.inf
        for a in sorted(x[row]):
            total = a + math.log1p(_exp(total - a)) if a > -math.inf else total
        y[row] = total
    return y, (x, y)


def logsumexp_backward(saved, d_y):
    """Gradient with respect to x.

    y = log sum_i exp(x[i])   gives  dy / dx[i] = exp(x[i]) / sum_j exp(x[j]) = exp(x[i] - y).
    """
    x, y = saved
    d_x = np.zeros(x.shape)
    for row in np.ndindex(x.shape):
        if x[row] > -math.inf:
            d_x[row] = d_y[row[:-1]] * math.exp(x[row] - y[row[:-1]])
    return d_x


def _each(f, *arrays):
    """f of every number, or of every pair of numbers that stand in the same place."""
    return np.array([f(*numbers) for numbers in zip(*(a.ravel().tolist() for a in arrays), strict=True)]).reshape(
        arrays[0].shape
    )


def _exp(a):
    return math.exp(a) if a < 700 else math.inf


def _logistic(a):
    return 1 / (1 + math.exp(-a)) if a >= 0 else math.exp(a) / (1 + math.exp(a))


def _normal_distribution(a):
    return math.erfc(-a / math.sqrt(2)) / 2


def _gelu_argument(a):
    return math.sqrt(2 / math.pi) * (a + 0.044715 * a**3)
