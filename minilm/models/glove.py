r"""GloVe (Pennington, Socher and Manning, 2014): vectors whose products are the logarithms of what was counted.

word2vec walks through the text and sees each pair of neighbours as it comes. GloVe counts all pairs first, and then
fits a vector for each word, as itself (w) and as a neighbour (w̃), to the table of counts X:

    w_i · w̃_j + b_i + b̃_j ≈ log X_ij

Why the logarithm: what tells *ice* from *steam* is a ratio, in how much more the one is found near *solid*, and the
other near *gas*. The logarithm of a ratio is a difference, so differences of vectors come to mean something.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from minilm.data.cooccurrence import Cooccurrence, batches


@jax.tree_util.register_static
@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the defaults are those of Stanford's program for vectors of this width.

    frequent, power: x_max and α of the weight f.
    """

    vocab_size: int
    d_model: int = 50
    frequent: float = 100.0
    power: float = 0.75
    learning_rate: float = 0.05
    epochs: int = 25
    batch_size: int = 256


class Params(NamedTuple):
    """w and b of each word as itself, w̃ and b̃ of each as a neighbour."""

    embedding: Float[Array, "n d"]
    bias: Float[Array, " n"]
    other_embedding: Float[Array, "n d"]
    other_bias: Float[Array, " n"]


class Batch(NamedTuple):
    """Pairs of words and how often they were found near each other; 0 is no pair."""

    word: Int[Array, "*steps p"]
    other: Int[Array, "*steps p"]
    count: Float[Array, "*steps p"]


class State(NamedTuple):
    """The parameters, and of each number in them the sum of the squares of its gradients."""

    params: Params
    squares: Params


def init(key, config: Config) -> State:
    """Everything uniform within ±1 / (2 d), the sums of squares 1, as in Stanford's program."""
    n, d = config.vocab_size, config.d_model

    def draw(key, *shape):
        return jax.random.uniform(key, shape, minval=-0.5 / d, maxval=0.5 / d)

    w, b, w_other, b_other = jax.random.split(key, 4)
    params = Params(draw(w, n, d), draw(b, n), draw(w_other, n, d), draw(b_other, n))
    return State(params, jax.tree.map(jnp.ones_like, params))


def loss(params: Params, batch: Batch, *, config: Config) -> Float[Array, ""]:
    r"""Weighted least squares over the pairs that were found near each other.

    $$ J = \sum_{ij} f(X_{ij}) \big(w_i \cdot \tilde w_j + b_i + \tilde b_j - \log X_{ij}\big)^2, \qquad
       f(x) = \min\Big(1, \Big(\frac{x}{x_{max}}\Big)^\alpha\Big) $$

    A pair that was never found has f(0) = 0 and need not be looked at: the table is nearly all zeros. f lets rare
    counts, which are mostly chance, say little, and the most frequent ones no more than the frequent.

    Args:
      params: w, w̃ `(n, d)` and b, b̃ `(n,)`.
      batch: pairs, `(p,)`.
      config: x_max and α.
    Returns:
      J, the sum; Stanford's program writes J / 2.

    Reference: `minilm.reference.models.glove.loss`. Paper: Pennington et al., EMNLP 2014, equations 8 and 9.
    """
    x = batch.count
    w, w_other = params.embedding[batch.word], params.other_embedding[batch.other]
    b, b_other = params.bias[batch.word], params.other_bias[batch.other]
    f = jnp.minimum(1, (x / config.frequent) ** config.power)
    log_x = jnp.log(jnp.where(x > 0, x, 1))
    return jnp.sum(f * (jnp.sum(w * w_other, -1) + b + b_other - log_x) ** 2)


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def rows_read(params: Params, batch: Batch) -> tuple[Params, Batch]:
    """The rows that a batch reads, one for each pair, as parameters of their own, and the batch that reads those."""
    place = jnp.arange(batch.word.size)
    return jax.tree.map(lambda p, row: p[row], params, _rows(batch)), Batch(place, place, batch.count)


def adagrad(state: State, batch: Batch, *, config: Config) -> State:
    r"""One step of AdaGrad: each number at a rate of its own, the smaller the more it has moved already.

    $$ G \leftarrow G + \sum_{p} g_p^2, \qquad \theta \leftarrow \theta - \eta \sum_p \frac{g_p}{\sqrt G} $$

    with $g_p$ the gradient of a single pair, in the rows that it reads; squares are taken pair by pair, as when the
    pairs come one at a time. A frequent word is thus soon settled, while a rare one still moves at nearly the full
    rate each time that it is met. Paper: Duchi, Hazan and Singer (2011).
    """
    gradient = jax.grad(loss)(*rows_read(state.params, batch), config=config)
    rows = _rows(batch)
    squares = jax.tree.map(lambda G, row, g: G.at[row].add(g**2), state.squares, rows, gradient)
    params = jax.tree.map(
        lambda p, G, row, g: p.at[row].add(-config.learning_rate * g / jnp.sqrt(G[row])),
        state.params,
        squares,
        rows,
        gradient,
    )
    return State(params, squares)


def _rows(batch):
    return Params(batch.word, batch.word, batch.other, batch.other)


@partial(jax.jit, static_argnames="config", donate_argnums=0)
def train_steps(state: State, batches: Batch, *, config: Config) -> State:
    """Many steps in one call: the batches carry a first axis, one entry a step."""
    state, _ = jax.lax.scan(lambda s, batch: (adagrad(s, batch, config=config), None), state, batches)
    return state


def train(x: Cooccurrence, config: Config, seed: int = 0) -> Params:
    """Fit the table of counts, from the first vectors to the last epoch."""
    if not len(x.count):
        raise ValueError("There are no two words near each other to learn from; give more text, or a wider window.")
    largest = max(x.word.max(), x.other.max())
    if largest >= config.vocab_size or not np.isfinite(x.count).all():
        raise ValueError(
            f"The table should hold finite counts of words 0 to {config.vocab_size - 1}, config.vocab_size in number, "
            f"and holds words up to {largest}{'' if np.isfinite(x.count).all() else ' and counts that are not finite'}."
        )
    state = init(jax.random.key(seed), config)
    for epoch in range(config.epochs):
        for arrays in batches(x, config.batch_size, seed, epoch):
            state = train_steps(state, Batch(**arrays), config=config)
    return state.params


def vectors(params: Params) -> np.ndarray:
    """w + w̃ for each word, `(n, d)`: the table is symmetric, and the sum of both does a little better than either."""
    return np.asarray(params.embedding + params.other_embedding)
