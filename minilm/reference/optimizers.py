r"""The optimizers that minilm takes from Optax and the usual learning-rate schedules, by hand.

Each optimizer is one step for one array: `adam(state, g, rate) -> (state, update)`, and the parameter becomes
`w + update`. A state is None before the first step, which stands for zeros. The symbols are the papers': g the
gradient, m and v running means of g and g², η the rate.
"""

import math
from typing import NamedTuple

import numpy as np


class AdamState(NamedTuple):
    """The running means of g and of g², and the number of steps taken."""

    m: np.ndarray
    v: np.ndarray
    t: int


def sgd(state, g, rate):
    r"""Gradient descent: against the gradient, in proportion to it.

    $$ \Delta w = -\eta\, g $$
    """
    return state, -rate * g


def momentum(state, g, rate, beta=0.9):
    r"""A heavy ball: the velocity forgets slowly, so what gradients agree on adds up to 1 / (1 − β) times itself.

    $$ m \leftarrow \beta m + g, \qquad \Delta w = -\eta\, m $$

    Polyak, "Some methods of speeding up the convergence of iteration methods" (1964).
    """
    m = beta * _or_zeros(state, g) + g
    return m, -rate * m


def nesterov(state, g, rate, beta=0.9):
    r"""Momentum that looks one step ahead: the velocity is applied once more before it is known.

    $$ m \leftarrow \beta m + g, \qquad \Delta w = -\eta\, (g + \beta m) $$

    Nesterov (1983), in the form of Sutskever et al. (ICML 2013), with w the point at which the gradient is taken.
    """
    m = beta * _or_zeros(state, g) + g
    return m, -rate * (g + beta * m)


def rmsprop(state, g, rate, beta=0.9, eps=1e-8):
    r"""Every entry at its own scale: the gradient over its root mean square.

    $$ v \leftarrow \beta v + (1 - \beta)\, g^2, \qquad \Delta w = -\eta\, \frac{g}{\sqrt{v} + \epsilon} $$

    Tieleman and Hinton, Coursera lecture 6.5 (2012). ε stands outside the root, as in PyTorch; Optax can do both.
    """
    v = beta * _or_zeros(state, g) + (1 - beta) * g**2
    return v, -rate * g / (np.sqrt(v) + eps)


def adam(state, g, rate, beta_1=0.9, beta_2=0.999, eps=1e-8):
    r"""Momentum at every entry's own scale, both means freed of their start at zero.

    $$ m \leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2 $$
    $$ \hat m = \frac{m}{1 - \beta_1^t}, \qquad \hat v = \frac{v}{1 - \beta_2^t}, \qquad
       \Delta w = -\eta\, \frac{\hat m}{\sqrt{\hat v} + \epsilon} $$

    A mean that began at 0 has after t steps the weights (1 − β) βⁱ, which sum to 1 − βᵗ: hence the divisions. Paper:
    arXiv:1412.6980.
    """
    m, v, t = AdamState(np.zeros_like(g), np.zeros_like(g), 0) if state is None else state
    t = t + 1
    m = beta_1 * m + (1 - beta_1) * g
    v = beta_2 * v + (1 - beta_2) * g**2
    m_hat = m / (1 - beta_1**t)
    v_hat = v / (1 - beta_2**t)
    return AdamState(m, v, t), -rate * m_hat / (np.sqrt(v_hat) + eps)


def adamw(state, g, rate, w, decay, beta_1=0.9, beta_2=0.999, eps=1e-8):
    r"""Adam, with weight decay apart from the gradient: a penalty inside g would be divided by its own size.

    $$ \Delta w = \Delta w_{\text{Adam}} - \eta\, \lambda\, w $$

    λ is 0 for what should not shrink: biases, scales of norms, embeddings. Paper: arXiv:1711.05101.
    """
    state, update = adam(state, g, rate, beta_1, beta_2, eps)
    return state, update - rate * decay * w


def muon(state, g, rate, beta=0.95, iterations=5, eps=1e-8):
    r"""Momentum for a matrix, made nearly orthogonal: every direction of the update is about as long as every other.

    $$ M \leftarrow \beta M + (1 - \beta)\, G, \qquad
       \hat M = \beta \frac{M}{1 - \beta^{t+1}} + (1 - \beta) \frac{G}{1 - \beta^t} $$
    $$ X_0 = \hat M / \lVert \hat M \rVert, \qquad A = X X^\top, \qquad
       X \leftarrow a X + (b A + c A^2) X, \qquad \Delta W = -\eta \sqrt{\max(1, o / i)}\; X $$

    Five turns of the polynomial take singular values from anywhere in (0, 1] to between 0.6 and 1.3, which is near
    enough; its slope at 0, a, is what small ones need. Momentum is Nesterov's, freed of its start as Adam's is. Jordan
    et al., "Muon" (2024); arXiv:2502.16982.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    m, t = (np.zeros_like(g), 0) if state is None else state
    m, t = beta * m + (1 - beta) * g, t + 1
    x = beta * m / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
    inputs, outputs = x.shape
    x = x.T if inputs > outputs else x
    x = x / (np.sqrt((x**2).sum()) + eps)
    for _ in range(iterations):
        xx = x @ x.T
        x = a * x + (b * xx + c * xx @ xx) @ x
    x = x.T if inputs > outputs else x
    return (m, t), -rate * math.sqrt(max(1, outputs / inputs)) * x


def clip_by_global_norm(gradients, largest):
    r"""All gradients of a model, shortened together where their common length is above c; their direction stays.

    $$ g \leftarrow g \cdot \min\left(1, \frac{c}{\lVert g \rVert}\right), \qquad
       \lVert g \rVert^2 = \sum_{a} \sum_j g_{aj}^2 $$

    `gradients` is a list of arrays a. Paper: arXiv:1211.5063.
    """
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    return [g if norm <= largest else g * (largest / norm) for g in gradients]


def constant(step, peak):
    r"""The same rate at every step: $\eta_s = \eta$."""
    return peak


def linear_warmup(step, peak, warmup):
    r"""From 0 to the peak in a straight line, then level: a fresh Adam divides by a v that has seen little.

    $$ \eta_s = \eta \cdot \min(1, s / w) $$
    """
    return peak * min(1.0, step / warmup)


def warmup_cosine(step, peak, warmup, steps, final=0.0):
    r"""Warm-up, then down half a cosine to the final rate at the last step. Paper: arXiv:1608.03983.

    $$ \eta_s = \eta_{\text{final}} + (\eta - \eta_{\text{final}})\, \frac{1 + \cos \pi u}{2}, \qquad
       u = \min\left(1, \frac{s - w}{S - w}\right), \quad s \ge w $$
    """
    if step < warmup:
        return linear_warmup(step, peak, warmup)
    u = min(1.0, (step - warmup) / (steps - warmup))
    return final + (peak - final) * (1 + math.cos(math.pi * u)) / 2


def inverse_square_root(step, peak, warmup):
    r"""Warm-up, then falling as the root of the step, with no end in sight. Paper: arXiv:1706.03762, section 5.3.

    $$ \eta_s = \eta \cdot \min\left(\frac{s}{w}, \sqrt{\frac{w}{s}}\right) $$
    """
    return linear_warmup(step, peak, warmup) if step <= warmup else peak * math.sqrt(warmup / step)


def warmup_stable_decay(step, peak, warmup, decay, steps, final=0.0):
    r"""Warm-up, a level stretch, and a straight line down over the last D steps. Paper: arXiv:2404.06395.

    $$ \eta_s = \eta_{\text{final}} + (\eta - \eta_{\text{final}})
       \cdot \min\left(1, \frac{\max(S - s, 0)}{D}\right), \quad s \ge w $$
    """
    if step < warmup:
        return linear_warmup(step, peak, warmup)
    return final + (peak - final) * min(1.0, max(steps - step, 0) / decay)


def _or_zeros(state, g):
    return np.zeros_like(g) if state is None else state
