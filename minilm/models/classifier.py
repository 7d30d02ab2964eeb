r"""What kind of text is this? An encoder reads it, pooling makes one vector of its places, and planes divide those.

h = encode(tokens)            (..., t, e): something about every place
y = pool(h)                   (..., e): something about the whole
logits = y W + b              (..., c): a score for every class

Below the words alone, with the mean, it is a bag of words (fastText); below a recurrent network with the maximum, each
component of y is the strongest sign of something that any place gave.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minilm.layers.dropout import dropout
from minilm.layers.linear import LinearParams, init_linear, linear
from minilm.layers.pooling import (
    AttentionPoolParams,
    attention_pool,
    attention_pool_weights,
    init_attention_pool,
    last_pool,
    max_pool,
    mean_pool,
)
from minilm.losses import cross_entropy
from minilm.models.encoders import Encoder, each_text, inside

POOLS: dict[str, Callable] = {"mean": mean_pool, "max": max_pool, "last": last_pool}  # beside "attention", which learns


class Batch(NamedTuple):
    """Texts and what they are: tokens `(b, t)` or `(b, t, m)`, their lengths, labels and weights `(b,)`."""

    tokens: Any
    length: Any
    labels: Any
    weights: Any


@jax.tree_util.register_static
@dataclass(frozen=True)
class Config:
    """Its hyper-parameters."""

    encoder: Encoder
    n_classes: int = 2
    pool: str = "max"  # a name in POOLS, or attention
    dropout: float = 0.0  # of what was pooled

    def __post_init__(self):
        if self.pool not in (*POOLS, "attention"):
            raise ValueError(f"There is no pooling {self.pool!r}: choose one of {', '.join(POOLS)}, attention.")
        if self.n_classes < 2:
            raise ValueError(f"A classifier tells at least 2 classes apart, and n_classes is {self.n_classes}.")


class Params(NamedTuple):
    """All of the model; `pool=None` where pooling has nothing to learn."""

    encoder: Any
    pool: AttentionPoolParams | None
    output: LinearParams


def init(key, config: Config) -> Params:
    """Random parameters, and scores of zero, so that the loss begins at ln c."""
    encoder_key, pool_key, output_key = jax.random.split(key, 3)
    e = config.encoder.width
    output = init_linear(output_key, e, config.n_classes)
    return Params(
        encoder=config.encoder.init(encoder_key),
        pool=init_attention_pool(pool_key, e, e) if config.pool == "attention" else None,
        output=output._replace(w=jnp.zeros_like(output.w)),
    )


def apply(
    params: Params, tokens: Int[Array, "..."], length: Int[Array, "..."], *, config: Config, key=None
) -> Float[Array, "... c"]:
    """Logits of the classes, `(..., c)`; a text of length 0 has those of the bias. Dropout acts only with a key.

    Args:
      params, config: the model.
      tokens: `(..., t)`, or `(..., t, m)` where the encoder takes m tokens a place.
      length: how many places of each text count, `(...)`.
      key: a random key.
    """
    encoder_key, pooled_key = (None, None) if key is None else jax.random.split(key)
    h, counts = _read(params, tokens, length, config, encoder_key)
    pool = POOLS[config.pool] if params.pool is None else lambda h, mask: attention_pool(params.pool, h, mask)
    y = each_text(pool, length)(h, counts)
    return linear(params.output, dropout(y, config.dropout, pooled_key))


def loss(params: Params, batch: Batch, *, config: Config, key=None):
    """Mean cross-entropy in nats over the batch's weighted texts, and the metrics that training logs."""
    logits = apply(params, batch.tokens, batch.length, config=config, key=key)
    return cross_entropy(logits, batch.labels, batch.weights)


def attention(
    params: Params, tokens: Int[Array, "..."], length: Int[Array, "..."], *, config: Config
) -> Float[Array, "... t"]:
    """How much each place mattered, `(..., t)`: to be drawn under the words. Of models that pool by attention."""
    if params.pool is None:
        raise ValueError(f"This classifier pools by {config.pool}, and has no attention to show: use pool='attention'.")
    h, counts = _read(params, tokens, length, config, None)
    return each_text(lambda h, mask: attention_pool_weights(params.pool, h, mask), length)(h, counts)


def _read(params, tokens, length, config, key):
    h = config.encoder.apply(params.encoder, tokens, length, key=key)
    return h, inside(h, length)
