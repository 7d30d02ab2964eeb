r"""What a language model minimises: cross-entropy and its relatives, over any leading axes.

Every loss is a weighted mean over tokens, $L = \sum_i w_i \ell_i / \sum_i w_i$. A weight of 0 ignores a token, whatever
its target says; where all weights are 0, the loss and its gradient are 0. Weights are data and have no gradient.
Statistics are taken in float32 or wider, and so are the results.

    loss, metrics = cross_entropy(logits, targets, weights)

A regulariser is a term to be added: `loss + 1e-4 * z_loss(logits, weights)`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Shaped

from minilm.layers.embedding import unembed


class Metrics(NamedTuple):
    """Sums over tokens, for the log: sums of several batches or devices add up to those of their union.

    `loss_sum / token_count` is the mean cross-entropy, `correct_count / token_count` the accuracy: the share of tokens
    whose target no other token beats. It is the plain cross-entropy under label smoothing too, so that runs compare.
    """

    loss_sum: Float[Array, ""]
    token_count: Float[Array, ""]
    correct_count: Float[Array, ""]


@jax.jit
def token_cross_entropy(
    logits: Float[Array, "*tokens n"], targets: Integer[Array, "*tokens"]
) -> Float[Array, "*tokens"]:
    r"""The cross-entropy of each token, in nats: minus the log-probability of its target.

    $$ \ell = -\log p_y = \log \sum_j e^{z_j} - z_y, \qquad \partial\ell / \partial z_j = p_j - [j = y] $$

    The largest logit is taken off first, so that no exponential overflows and a confident token keeps its digits.

    Args:
      logits: z `(..., n)`, of any float dtype.
      targets: y `(...)`, from 0 to n − 1; the loss of any other target is NaN.
    Returns:
      ℓ `(...)`, in float32 or wider.

    Reference: `minilm.reference.losses.token_cross_entropy`.

    >>> token_cross_entropy(jnp.zeros((2, 8)), jnp.array([3, 5])).round(4).tolist()  # ln 8
    [2.0794, 2.0794]
    """
    return _token_losses(_shifted(logits), targets)


@jax.jit
def cross_entropy(
    logits: Float[Array, "*tokens n"],
    targets: Integer[Array, "*tokens"],
    weights: Shaped[Array, "*tokens"] | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    r"""The mean cross-entropy of the tokens that count, in nats.

    $$ L = \frac{\sum_i w_i\, \ell_i}{\sum_i w_i}, \qquad \ell_i = \log \sum_j e^{z_{ij}} - z_{i y_i} $$

    Args:
      logits: z `(..., n)`.
      targets: y `(...)`; read only where the weight is not 0.
      weights: w `(...)`, numbers or booleans; None counts every token once.
    Returns:
      `(loss, metrics)`: L and the sums that the log adds up.

    Reference: `minilm.reference.losses.cross_entropy`.

    >>> loss, metrics = cross_entropy(jnp.zeros((3, 8)), jnp.array([3, 5, -100]), jnp.array([1, 1, 0]))
    >>> round(float(loss), 4), float(metrics.token_count)
    (2.0794, 2.0)
    """
    metrics = _metrics(_shifted(logits), targets, weights)
    return _mean(metrics.loss_sum, metrics.token_count), metrics


@jax.jit
def label_smoothed_cross_entropy(
    logits: Float[Array, "*tokens n"],
    targets: Integer[Array, "*tokens"],
    weights: Shaped[Array, "*tokens"] | None = None,
    smoothing: Float[Array, ""] | float = 0.1,
) -> tuple[Float[Array, ""], Metrics]:
    r"""Cross-entropy to a target of which a share ε is spread evenly over the vocabulary.

    $$ \ell = -(1 - \varepsilon) \log p_y - \frac{\varepsilon}{n} \sum_j \log p_j
            = \log \sum_j e^{z_j} - (1 - \varepsilon)\, z_y - \frac{\varepsilon}{n} \sum_j z_j $$

    With ε = 0 it is `cross_entropy`. The spread includes the target itself, as in PyTorch and Optax.

    Args:
      logits: z `(..., n)`.
      targets: y `(...)`; read only where the weight is not 0.
      weights: w `(...)`, numbers or booleans; None counts every token once.
      smoothing: ε, from 0 to 1.
    Returns:
      `(loss, metrics)`: the smoothed mean, and the sums of the plain cross-entropy.

    Reference: `minilm.reference.losses.label_smoothed_cross_entropy`. Paper: arXiv:1512.00567, section 7.
    """
    z = _shifted(logits)
    losses = _log_sum_exp(z) - (1 - smoothing) * _at(z, targets) - smoothing * z.mean(-1)
    return _mean(*_sums(losses, weights)), _metrics(z, targets, weights)


@jax.jit
def z_loss(logits: Float[Array, "*tokens n"], weights: Shaped[Array, "*tokens"] | None = None) -> Float[Array, ""]:
    r"""What keeps the logits from drifting: the mean square of the log of softmax's denominator.

    $$ L_z = \frac{\sum_i w_i \log^2 Z_i}{\sum_i w_i}, \qquad Z_i = \sum_j e^{z_{ij}} $$

    Cross-entropy does not see a constant added to all logits; this term draws it towards log Z = 0. PaLM adds
    1e-4 of it.

    Args:
      logits: z `(..., n)`.
      weights: w `(...)`, numbers or booleans; None counts every token once.
    Returns:
      L_z, a term to be added to a loss.

    Reference: `minilm.reference.losses.z_loss`. Paper: arXiv:2204.02311, section 5.

    >>> round(float(z_loss(jnp.zeros((3, 8)))), 4)  # ln² 8
    4.3241
    """
    log_Z = jax.nn.logsumexp(logits.astype(_wide(logits)), axis=-1)
    return _mean(*_sums(log_Z**2, weights))


@partial(jax.jit, static_argnames="chunk")
def chunked_cross_entropy(
    x: Float[Array, "*tokens d"],
    unembedding: Float[Array, "n d"],
    targets: Integer[Array, "*tokens"],
    weights: Shaped[Array, "*tokens"] | None = None,
    *,
    chunk: int = 512,
) -> tuple[Float[Array, ""], Metrics]:
    r"""`cross_entropy` of the logits x Eᵀ, computed `chunk` tokens at a time: the array of t × n logits never exists.

    $$ L = \frac{\sum_i w_i\, \ell(E x_i, y_i)}{\sum_i w_i}, \qquad
       \frac{\partial L}{\partial x_i} \propto w_i\, (p_i - e_{y_i})\, E, \qquad
       \frac{\partial L}{\partial E} \propto \sum_i w_i\, (p_i - e_{y_i})\, x_i^\top $$

    The loss is one number, so its gradient is known up to a factor before the backward pass begins: each chunk's is
    taken while its logits are at hand, and nothing is computed twice.

    Args:
      x: the last layer's output `(..., d)`.
      unembedding: E `(n, d)`.
      targets: y `(...)`; read only where the weight is not 0.
      weights: w `(...)`, numbers or booleans; None counts every token once.
      chunk: tokens whose logits exist at once; memory is chunk × n.
    Returns:
      `(loss, metrics)`, those of `cross_entropy(unembed(unembedding, x), targets, weights)`.

    Reference: `minilm.reference.losses.chunked_cross_entropy`. Paper: arXiv:2410.10989, section 3.2.
    """
    y, w = targets.ravel(), jnp.ones(targets.size, _wide(x)) if weights is None else weights.ravel()
    metrics: Metrics = _chunked_metrics(chunk, x.reshape(-1, x.shape[-1]), unembedding, y, w)
    return _mean(metrics.loss_sum, metrics.token_count), metrics


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked_metrics(chunk, x, unembedding, y, w) -> Any:
    metrics = jax.lax.map(lambda rows: _chunk_loss(unembedding, *rows)[1], _in_chunks(chunk, x, y, w))
    return jax.tree.map(jnp.sum, metrics)


def _chunked_metrics_forward(chunk, x, unembedding, y, w):
    def gradient(d_unembedding, rows):
        (_, metrics), (d_E, d_x) = jax.value_and_grad(_chunk_loss, (0, 1), has_aux=True)(unembedding, *rows)
        return d_unembedding + d_E, (metrics, d_x)

    d_unembedding = jnp.zeros(unembedding.shape, _wide(unembedding))
    d_unembedding, (metrics, d_x) = jax.lax.scan(gradient, d_unembedding, _in_chunks(chunk, x, y, w))
    d_x = d_x.reshape(-1, x.shape[-1])[: len(x)]
    return jax.tree.map(jnp.sum, metrics), (d_x, d_unembedding.astype(unembedding.dtype))


def _chunked_metrics_backward(chunk, saved, d_metrics):
    return *((d_metrics.loss_sum * d).astype(d.dtype) for d in saved), None, None


_chunked_metrics.defvjp(_chunked_metrics_forward, _chunked_metrics_backward)


def _chunk_loss(unembedding, x, y, w):
    metrics = _metrics(_shifted(unembed(unembedding, x)), y, w)
    return metrics.loss_sum, metrics


def _in_chunks(chunk, *arrays):
    """Each array cut into chunks of rows; the last chunk is filled up with zeros, its weights too."""
    rows = len(arrays[0])
    size = max(1, min(chunk, rows))
    return tuple(
        jnp.pad(a, [(0, -rows % size), *[(0, 0)] * (a.ndim - 1)]).reshape(-1, size, *a.shape[1:]) for a in arrays
    )


def _wide(x):
    return jnp.promote_types(x.dtype, jnp.float32)


def _shifted(logits):
    z = logits.astype(_wide(logits))
    return z - jax.lax.stop_gradient(z.max(-1, keepdims=True))


def _log_sum_exp(z):
    return jnp.log(jnp.exp(z).sum(-1))


def _at(z, targets):
    n = z.shape[-1]
    y = jnp.where((targets >= 0) & (targets < n), targets, n)  # −1 would be the last token; n is none, and gives NaN
    return jnp.take_along_axis(z, y[..., None], axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]


def _token_losses(z, targets):
    return _log_sum_exp(z) - _at(z, targets)


def _sums(values, weights):
    """Σ w v and Σ w; a value of weight 0 is not looked at, so it may be NaN."""
    w = jnp.ones_like(values) if weights is None else jax.lax.stop_gradient(weights).astype(values.dtype)
    return jnp.where(w == 0, 0, w * values).sum(), w.sum()


def _mean(weighted_sum, weight_sum):
    return weighted_sum / jnp.where(weight_sum == 0, 1, weight_sum)


def _metrics(z, targets, weights):
    loss_sum, token_count = _sums(_token_losses(z, targets), weights)
    correct_count, _ = _sums((_at(z, targets) == 0).astype(z.dtype), weights)
    return Metrics(loss_sum, token_count, correct_count)
