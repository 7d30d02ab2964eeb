r"""word2vec (Mikolov et al., 2013): a word is known by the company it keeps.

A word is predicted from the words near it, by nothing but inner products. Every word has two vectors: v, with which it
predicts, and u, by which it is predicted. What remains when training ends is v.

    skip_gram:  each neighbour alone predicts the word          h = v_s          for every neighbour s
    cbow:       all neighbours together predict it              h = mean of v_s  over the neighbours s

Predicting among n words by softmax costs n products. Both ways around it are logistic regressions on a few rows of u,
and so one formula, log σ(± h · u), serves both:

    negative sampling:      tell the word itself (+) from k words drawn at random (−)
    hierarchical softmax:   tell left (+) from right (−) at every fork on the way to the word in a Huffman tree
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid
from jaxtyping import Array, Bool, Float, Int

from minilm.data import windows


@jax.tree_util.register_static
@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the defaults are those of Mikolov's program and of gensim, which names them otherwise.

    window:        the largest distance of a neighbour; for each word a smaller one is drawn, evenly from 1 to it.
    negatives:     k, the words that each is told from; 0 means hierarchical softmax.
    shared:        how many words are drawn at random for all of a step; each then counts k / shared times.
    subsample:     words more frequent than this are thinned out.
    learning_rate: at the start; it falls linearly to 0.
    stretch:       words in a row whose neighbours are scored by one matrix product,
    stretches:     and how many such stretches a step adds up.
    """

    vocab_size: int
    d_model: int = 100
    window: int = 5
    negatives: int = 5
    shared: int = 32
    subsample: float = 1e-3
    learning_rate: float = 0.025
    epochs: int = 5
    stretch: int = 32
    stretches: int = 8

    def __post_init__(self):
        least = {"window": 1, "negatives": 0, "shared": 1, "epochs": 1, "stretch": 1, "stretches": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, and is {getattr(self, name)}.")
        if not self.subsample > 0:
            raise ValueError(f"subsample must be above 0, and is {self.subsample}: math.inf keeps every word.")


class Params(NamedTuple):
    """v in the rows of `embedding`. u in those of `output`: one a word, or one a fork of the Huffman tree."""

    embedding: Float[Array, "n d"]
    output: Float[Array, "m d"]


class Batch(NamedTuple):
    """Stretches of text: t words in each to be predicted, and with those on both sides s words to predict them from.

    context:      rows of `embedding`, by which is predicted.
    near:         whether context word s is a neighbour of word t.
    output:       rows of `output` that predict word t: its own, or the forks on the way to it,
    sign:         and what is to be told of each: +1, −1, or 0 for none, where the way is shorter than the longest.
    noise:        rows of words drawn at random, each told −1 by every h,
    noise_weight: which counts so many times.
    """

    context: Int[Array, "*steps b s"]
    near: Bool[Array, "*steps b t s"]
    output: Int[Array, "*steps b t l"]
    sign: Int[Array, "*steps b t l"]
    noise: Int[Array, "*steps z"]
    noise_weight: Float[Array, "*steps"]


def init(key, config: Config) -> Params:
    """v uniform within ±1 / (2 d), u zero, as in word2vec.c."""
    n, d = config.vocab_size, config.d_model
    return Params(jax.random.uniform(key, (n, d), minval=-0.5 / d, maxval=0.5 / d), jnp.zeros((n, d)))


def skip_gram(params: Params, batch: Batch) -> Float[Array, ""]:
    r"""Each neighbour predicts the word by itself.

    $$ L = -\sum_t \sum_{s \,\mathrm{near}\, t} \Big[ \sum_l \log \sigma(\pm_{tl}\, v_s \cdot u_{tl})
           + \frac{k}{z} \sum_{i=1}^{z} \log \sigma(-v_s \cdot u_i) \Big] $$

    The paper draws k words at random for every pair. Here all pairs of a batch share z, each counted k/z times: the
    same sum on average, but one matrix product instead of many small ones. In the paper a word predicts its
    neighbours; summed over a text the pairs are the same, and this order is that of word2vec.c.

    Args:
      params: v `(n, d)` and u `(m, d)`.
      batch: stretches of text.
    Returns:
      The sum, not the mean: the learning rate is that of one pair.

    Reference: `minilm.reference.models.word2vec.skip_gram`. Papers: arXiv:1310.4546, arXiv:1301.3781.
    """
    v, u, u_noise = params.embedding[batch.context], params.output[batch.output], params.output[batch.noise]
    right = _log_sigmoid(batch.sign[:, :, None], jnp.einsum("bsd,btld->btsl", v, u))
    wrong = log_sigmoid(-(v @ u_noise.T))
    near = batch.near.astype(v.dtype)
    return -jnp.sum(near[..., None] * right) - batch.noise_weight * jnp.sum(near.sum(1)[..., None] * wrong)


def cbow(params: Params, batch: Batch) -> Float[Array, ""]:
    r"""All neighbours together predict the word: a continuous bag of words.

    $$ h_t = \frac{1}{|N(t)|} \sum_{s \in N(t)} v_s, \qquad
       L = -\sum_t \Big[ \sum_l \log \sigma(\pm_{tl}\, h_t \cdot u_{tl})
           + \frac{k}{z} \sum_{i=1}^{z} \log \sigma(-h_t \cdot u_i) \Big] $$

    with N(t) the neighbours of word t; a word without any adds nothing. word2vec.c and gensim give each neighbour the
    gradient of h itself, not its 1/|N(t)|, and so move v some six times as far: start at three times the
    learning rate of theirs (arXiv:2012.15332 found the slip).

    Args, Returns: as `skip_gram`.

    Reference: `minilm.reference.models.word2vec.cbow`. Paper: arXiv:1301.3781.
    """
    v, u, u_noise = params.embedding[batch.context], params.output[batch.output], params.output[batch.noise]
    near = batch.near.astype(v.dtype)
    count = near.sum(-1)
    h = jnp.einsum("bts,bsd->btd", near, v) / jnp.maximum(count, 1)[..., None]
    right = _log_sigmoid(batch.sign, jnp.einsum("btd,btld->btl", h, u))
    wrong = log_sigmoid(-(h @ u_noise.T))
    heard = (count > 0).astype(v.dtype)[..., None]
    return -jnp.sum(heard * right) - batch.noise_weight * jnp.sum(heard * wrong)


def _log_sigmoid(sign, score):
    return jnp.where(sign == 0, 0, log_sigmoid(sign * score))


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def rows_read(params: Params, batch: Batch) -> tuple[Params, Batch]:
    """The few rows that a batch reads, as parameters of their own, and the batch that reads them there.

    A gradient with respect to all parameters is zero nearly everywhere, and as large as they are. That with respect to
    these rows holds all that is not. A row read twice stands there twice.
    """
    output = jnp.concatenate([batch.output.ravel(), batch.noise.ravel()])
    rows = Params(params.embedding[batch.context.ravel()], params.output[output])
    places, n = jnp.arange(output.size), batch.output.size
    return rows, batch._replace(
        context=jnp.arange(batch.context.size).reshape(batch.context.shape),
        output=places[:n].reshape(batch.output.shape),
        noise=places[n:].reshape(batch.noise.shape),
    )


def descend(loss: Callable, params: Params, batch: Batch, rate) -> Params:
    r"""One step of gradient descent, $\theta \leftarrow \theta - \eta \nabla L$, in the rows that the batch reads."""
    gradient = jax.grad(loss)(*rows_read(params, batch))
    output = jnp.concatenate([batch.output.ravel(), batch.noise.ravel()])
    return Params(
        params.embedding.at[batch.context.ravel()].add(-rate * gradient.embedding),
        params.output.at[output].add(-rate * gradient.output),
    )


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_steps(loss: Callable, params: Params, batches: Batch, rates: Float[Array, " steps"]) -> Params:
    """Many steps in one call: the batches carry a first axis, one entry a step."""
    params, _ = jax.lax.scan(lambda p, step: (descend(loss, p, *step), None), params, (batches, rates))
    return params


def train(loss: Callable, text: windows.Text, config: Config, seed: int = 0) -> Params:
    """Train from the first vector to the last epoch.

    Args:
      loss: `skip_gram` or `cbow`.
      text: the words, where documents begin, and how often each word occurs.
      config: hyper-parameters.
      seed: of the first vectors, and with the number of the epoch of what is drawn from the text.
    Raises:
      ValueError: the text's vocabulary is not the config's.
      FloatingPointError: the learning rate was too large.
    """
    if len(text.counts) != config.vocab_size:
        raise ValueError(f"The text counts {len(text.counts)} words, and config.vocab_size is {config.vocab_size}.")
    tree = None if config.negatives else windows.huffman(text.counts)
    params = init(jax.random.key(seed), config)
    for epoch in range(config.epochs):
        for begun, ended, arrays in windows.batches(text, config, tree, seed, epoch):
            progress = (epoch + np.linspace(begun, ended, len(arrays["noise_weight"]), endpoint=False)) / config.epochs
            rates = (config.learning_rate * (1 - progress)).astype(np.float32)
            params = train_steps(loss, params, Batch(**arrays), rates)
    if not all(jnp.isfinite(p).all() for p in params):
        raise FloatingPointError(
            f"The vectors have grown beyond all numbers. A step adds up {config.stretches} × {config.stretch} words, "
            f"and in a small vocabulary each comes often in it: try a learning_rate below {config.learning_rate}, or "
            "fewer stretches."
        )
    return params
