r"""How the parameters descend: a learning rate that rises and falls, and Optax told which parameter is which.

    θ = θ − η_t · update(∇loss)

AdamW moves every number by its own history. Muon moves a matrix as a whole: it makes the momentum's singular values
equal, so that a direction the loss cares little about moves as far as the others. It is for the weights of matrix
products; embeddings, norms, biases and the head stay with Adam.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers
from optax.contrib import muon as optax_muon

from minilm.config import OptimizerConfig
from minilm.precision import is_weight


def schedule(config: OptimizerConfig, steps: int) -> Callable:
    r"""The learning rate at step t of T, after a linear warm-up of w steps.

    $$ \eta_t = \eta \min\left(1, \frac{t + 1}{w}\right) \cdot \big(\varphi + (1 - \varphi)\, s(t)\big) $$

    With p the share of the steps after the warm-up that is over, and d the share of all steps over which it falls:

    $$ s_{cosine} = \tfrac12 (1 + \cos \pi p), \qquad s_{warm\_down} = \min\left(1, \frac{T - t}{d\,T}\right), \qquad
       s_{constant} = 1 $$

    Papers: arXiv:1608.03983 (cosine), arXiv:2405.18392 (a constant rate and a linear cool-down).

    >>> rate = schedule(OptimizerConfig(learning_rate=0.5, warmup_steps=10, final_share=0.0), steps=110)
    >>> [round(float(rate(t)), 3) for t in (0, 9, 60, 110)]
    [0.05, 0.5, 0.25, 0.0]
    """
    w = max(config.warmup_steps, 1)

    def cosine(t):
        p = jnp.clip((t - w) / max(steps - w, 1), 0, 1)
        return (1 + jnp.cos(jnp.pi * p)) / 2

    def warm_down(t):
        return jnp.clip((steps - t) / max(config.warmdown_share * steps, 1), 0, 1)

    def constant(t):
        return jnp.ones_like(t)

    s = {"cosine": cosine, "warm_down": warm_down, "constant": constant}[config.schedule]

    def learning_rate(t):
        t = jnp.asarray(t, jnp.float32)
        fall = config.final_share + (1 - config.final_share) * s(t)
        return config.learning_rate * jnp.minimum(1, (t + 1) / w) * fall

    return learning_rate


def decays(params):
    """Which parameters decay: those whose field is named `w_*`, by name and not by rank.

    A bias packed into a matrix would decay by rank, and a weight with an axis for its heads might be missed.
    """
    return jax.tree.map_with_path(lambda path, _: is_weight(path), params)


def matrices(params):
    """How Muon reads each `w_*` as a matrix from inputs to outputs, heads flattened; None for all that is Adam's.

    Every weight takes its first axis in and gives the others, but for `w_o`, which takes all heads in and gives the
    last. Left to itself Optax's Muon takes what has two axes, which are the embeddings, and not the weights of heads.
    """

    def dimensions(path, leaf):
        if not is_weight(path):
            return None
        inputs = leaf.ndim - 1 if path[-1].name == "w_o" else 1
        return MuonDimensionNumbers(tuple(range(inputs)), tuple(range(inputs, leaf.ndim)))

    return jax.tree.map_with_path(dimensions, params)


def adamw(config: OptimizerConfig, learning_rate: Callable) -> optax.GradientTransformation:
    """AdamW: Adam with weight decay taken apart from the gradient. Paper: arXiv:1711.05101."""
    return optax.adamw(learning_rate, b1=config.beta_1, b2=config.beta_2, weight_decay=config.weight_decay, mask=decays)


def muon(config: OptimizerConfig, learning_rate: Callable) -> optax.GradientTransformation:
    r"""Muon for the matrices, at a rate of their own, and Adam for everything else.

    $$ M_t = \beta M_{t-1} + (1 - \beta)\, G_t, \qquad
       W \leftarrow W - \eta_t \sqrt{\max(1, o / i)}\; U V^\top \quad\text{where}\quad U \Sigma V^\top \approx M_t $$

    with Nesterov's momentum, there and in Adam; five Newton-Schulz iterations find $U V^\top$, by hand in
    `minilm.reference.optimizers.muon`. References: Jordan et al., "Muon" (2024); arXiv:2502.16982.
    """
    share = config.matrix_learning_rate / config.learning_rate
    return optax_muon(
        lambda t: share * learning_rate(t),
        weight_decay=config.weight_decay,
        adam_learning_rate=learning_rate,
        adam_b1=config.beta_1,
        adam_b2=config.beta_2,
        muon_weight_dimension_numbers=matrices,
    )


OPTIMIZERS = {"adamw": adamw, "muon": muon}
"""From a name to a function of (config, learning_rate) that gives an Optax transformation; add your own."""


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clip by the norm over all parameters, then the optimizer that the config names, under its schedule."""
    if config.optimizer not in OPTIMIZERS:
        raise ValueError(f"There is no optimizer {config.optimizer!r}; there are {', '.join(sorted(OPTIMIZERS))}.")
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        OPTIMIZERS[config.optimizer](config, schedule(config, steps)),
    )
