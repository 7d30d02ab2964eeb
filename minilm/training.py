r"""The mathematics of training: the gradient of a batch, one compiled step, and how far it has come.

    g = ∇ loss(θ, batch)                   averaged over the parts of the batch, if it comes in parts
    g = g · min(1, c / |g|)                clipped
    θ = θ + optimizer(g, θ)                `minilm.optimizers`

Nothing here knows a model: `loss(params, batch, key=key) -> (loss, metrics)` is a function that the caller hands in.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minilm.precision import cast_weights

# What `jax.checkpoint` recomputes stands behind a barrier. Before JAX 0.12 XLA's compiler for CPUs takes it away too
# soon, finds that the same was computed before, and keeps that instead: rematerialisation would save nothing.
KEPT_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}


class TrainState(NamedTuple):
    """All that one step hands to the next: with the config and the data it decides the rest of the run, bit for bit."""

    params: Any
    optimizer: Any
    step: jax.Array


def init_state(params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


# ── a step ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def in_precision(loss: Callable, dtype) -> Callable:
    """The loss with its matrix products in `dtype`; gradients arrive in the parameters' precision, through the cast.

    In float32, which parameters are in, it is the loss itself.
    """
    if jnp.dtype(dtype) == jnp.float32:
        return loss
    return lambda params, batch, key=None: loss(cast_weights(params, dtype), batch, key=key)


def gradient_of_parts(loss: Callable, params, parts, keys):
    r"""Loss and gradient of a batch that comes in k parts, one after the other: those of the whole batch.

    With $W_j$ the total weight of the positions in part j, whose mean loss is $\ell_j$:

    $$ \ell = \sum_j \frac{W_j}{\sum_i W_i}\, \ell_j, \qquad
       \nabla \ell = \sum_j \frac{W_j}{\sum_i W_i}\, \nabla \ell_j $$

    Args:
      loss: a function of (params, batch, key=) to (loss, metrics), where loss is a mean over weighted positions.
      params: θ.
      parts: a batch whose leaves have a leading axis of length k.
      keys: k random keys, for dropout.
    Returns:
      `(loss, gradient)`.
    """
    total = parts.weights.sum()
    share = parts.weights.sum(tuple(range(1, parts.weights.ndim))) / jnp.where(total > 0, total, 1)

    def part_of(j):
        return jax.tree.map(lambda leaf: leaf[j], parts), keys[j], share[j]

    def contribution(part, key, share):
        (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(params, part, key=key)
        return jax.tree.map(lambda leaf: share.astype(leaf.dtype) * leaf, (value, gradient))

    def add(j, sums):
        return jax.tree.map(jnp.add, sums, contribution(*part_of(j)))

    return jax.lax.fori_loop(1, len(keys), add, contribution(*part_of(0)))


def make_step(loss: Callable, optimizer: optax.GradientTransformation, seed: int, *, remat: bool = False) -> Callable:
    """The compiled training step: a function of (state, batches) to (state, metrics) that makes several steps a call.

    Its batches have two leading axes, `(steps, parts, ...)`: one call scans as many steps as the first is long, each
    over a batch in as many parts as the second is long. Memory for the old state is reused for the new one, so
    the state that went in is gone afterwards. Dropout's key is folded from (seed, step), never carried: the
    hundredth step is the same whether or not the run was interrupted after the fiftieth, and whether calls make
    one step or ten. Metrics are arrays `(steps,)`: `loss` in nats and `gradient_norm` before clipping.

    `remat=True` says that the loss recomputes (`jax.checkpoint`), so that a CPU's compiler lets it; JAX then takes the
    step at the top alone, and inside no other compiled function.
    """

    def one_step(state, parts):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        keys = jax.random.split(key, len(parts.weights))
        value, gradient = gradient_of_parts(loss, state.params, parts, keys)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(params, optimizer_state, state.step + 1), metrics

    def several_steps(state, batches):
        return jax.lax.scan(one_step, state, batches)

    undone = remat and jax.default_backend() == "cpu" and jax.__version_info__ < (0, 12)
    return jax.jit(several_steps, donate_argnums=0, compiler_options=KEPT_BARRIERS if undone else None)


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_evaluate(loss: Callable) -> Callable:
    """A function of (params, batches) to the total cross-entropy in nats, and the number of tokens it was taken over.

    It adds up the sums among the loss's metrics, so that a text's total is the same however it is cut into batches.
    """

    @jax.jit
    def sums(params, batch):
        _, metrics = loss(params, batch, key=None)
        return metrics.loss_sum, metrics.token_count

    def evaluate(params, batches: Iterable) -> tuple[float, float]:
        found = jax.device_get([sums(params, batch) for batch in batches])
        return sum(float(nats) for nats, _ in found), sum(float(tokens) for _, tokens in found)

    return evaluate


class EarlyStopping(NamedTuple):
    """The best loss on held-out text so far, at which step it was reached, and how many measurements ago.

    >>> progress = EarlyStopping()
    >>> for step, loss in [(10, 3.0), (20, 2.0), (30, 2.5), (40, 2.2)]:
    ...     progress = progress.after(step, loss)
    >>> progress
    EarlyStopping(best=2.0, best_step=20, waited=2)
    """

    best: float = math.inf
    best_step: int = -1
    waited: int = 0

    def after(self, step: int, loss: float) -> "EarlyStopping":
        """The record after one more measurement."""
        return EarlyStopping(loss, step, 0) if loss < self.best else self._replace(waited=self.waited + 1)

    def exhausts(self, patience: int) -> bool:
        """Whether it has waited as long as it may; a patience of 0 never ends."""
        return 0 < patience <= self.waited

    def in_words(self) -> str:
        """What it waited for.

        >>> EarlyStopping(best=2.0, best_step=20, waited=2).in_words()
        'the last 2 measurements brought no new best'
        """
        return f"the last {'measurement' if self.waited == 1 else f'{self.waited} measurements'} brought no new best"
