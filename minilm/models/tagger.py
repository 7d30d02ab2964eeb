r"""What is each token? An encoder reads the text, a plane for every tag judges each place, and then a tag is chosen.

h = encode(tokens)            (..., t, e): something about every place, in the light of the whole text
emissions = h W + b           (..., t, c): a score for every tag at every place

Chosen at each place alone, by a softmax, neighbours may disagree: the end of a word that never began. A linear-chain
conditional random field (`minilm.layers.crf`) gives each step from tag to tag a score as well, and chooses among whole
paths. The two differ in one field of the parameters: `crf=None` is the softmax. Paper: arXiv:1508.01991.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from minilm.layers.crf import CRFParams, crf_log_likelihood, crf_marginals, init_crf, viterbi
from minilm.layers.dropout import dropout
from minilm.layers.linear import LinearParams, init_linear, linear
from minilm.losses import Metrics, cross_entropy
from minilm.models.encoders import Encoder, each_text, inside


class Batch(NamedTuple):
    """Texts and their tags.

    tokens:  `(b, t)`, or `(b, t, m)` where the encoder takes m tokens a place.
    length:  `(b,)`, how many places of each text count.
    tags:    `(b, t)`, from 0 to c − 1; in padding anything.
    weights: `(b, t)`, 1 at places that count and 0 in padding.
    """

    tokens: Any
    length: Any
    tags: Any
    weights: Any


@jax.tree_util.register_static
@dataclass(frozen=True)
class Config:
    """Its hyper-parameters."""

    encoder: Encoder
    n_tags: int
    crf: bool = True  # whether `init` gives it a CRF; without, a softmax at each place
    dropout: float = 0.0  # of what the encoder says

    def __post_init__(self):
        if self.n_tags < 2:
            raise ValueError(f"A tagger tells at least 2 tags apart, and n_tags is {self.n_tags}.")


class Params(NamedTuple):
    """All of the model; `crf=None` where each tag is chosen by itself."""

    encoder: Any
    output: LinearParams
    crf: CRFParams | None


def init(key, config: Config) -> Params:
    """Random parameters, and scores of zero, so that the loss begins at ln c."""
    encoder_key, output_key = jax.random.split(key)
    output = init_linear(output_key, config.encoder.width, config.n_tags)
    return Params(
        encoder=config.encoder.init(encoder_key),
        output=output._replace(w=jnp.zeros_like(output.w)),
        crf=init_crf(config.n_tags) if config.crf else None,
    )


def apply(
    params: Params, tokens: Int[Array, "..."], length: Int[Array, "..."], *, config: Config, key=None
) -> Float[Array, "... t c"]:
    """Emissions, the score of every tag at every place, `(..., t, c)`. Dropout acts only with a key.

    Args:
      params, config: the model.
      tokens: `(..., t)`, or `(..., t, m)` where the encoder takes m tokens a place.
      length: how many places of each text count, `(...)`.
      key: a random key.
    """
    encoder_key, said_key = (None, None) if key is None else jax.random.split(key)
    h = config.encoder.apply(params.encoder, tokens, length, key=encoder_key)
    h = jnp.where(inside(h, length)[..., None], h, 0)  # what stands in padding is not to reach the gradient either
    return linear(params.output, dropout(h, config.dropout, said_key))


def loss(params: Params, batch: Batch, *, config: Config, key=None):
    r"""Mean loss in nats per token, and the metrics that training logs; whether tags are chosen alone or together.

    $$ L = \frac{\sum_{b,t} w_{bt} (-\log p_{bt, y_{bt}})}{\sum_{b,t} w_{bt}} \qquad \text{or} \qquad
       L = \frac{\sum_b \bar w_b (-\log p(y_b))}{\sum_{b,t} w_{bt}}, \qquad
       \bar w_b = \frac{1}{n_b} \sum_t w_{bt} $$

    Each place of a text has the same share of its path, so a path weighs what its places weigh on average. Where the
    CRF's parameters are zero the two are equal.

    Reference: `minilm.reference.models.tagger.loss`.
    """
    emissions = apply(params, batch.tokens, batch.length, config=config, key=key)
    weights = jnp.where(inside(emissions, batch.length), batch.weights, 0).astype(emissions.dtype)
    if params.crf is None:
        return cross_entropy(emissions, batch.tags, weights)
    path_weight = weights.sum(-1) / jnp.maximum(batch.length, 1)
    length = jnp.where(path_weight == 0, 0, batch.length)  # of a text that does not count, nothing is read
    log_p = each_text(partial(crf_log_likelihood, params.crf), length)(emissions, batch.tags, length)
    is_right = choose(params.crf, emissions, length) == batch.tags
    metrics = Metrics(-(path_weight * log_p).sum(), weights.sum(), (weights * is_right).sum())
    return metrics.loss_sum / jnp.where(metrics.token_count == 0, 1, metrics.token_count), metrics


def decode(
    params: Params, tokens: Int[Array, "..."], length: Int[Array, "..."], *, config: Config
) -> Int[Array, "... t"]:
    """The tags that are chosen, `(..., t)`; −1 in padding."""
    return choose(params.crf, apply(params, tokens, length, config=config), length)


def marginals(
    params: Params, tokens: Int[Array, "..."], length: Int[Array, "..."], *, config: Config
) -> Float[Array, "... t c"]:
    """The probability of each tag at each place, whatever the others are, `(..., t, c)`; 0 in padding."""
    emissions = apply(params, tokens, length, config=config)
    if params.crf is not None:
        return each_text(partial(crf_marginals, params.crf), length)(emissions, length)
    return jnp.where(inside(emissions, length)[..., None], jax.nn.softmax(emissions), 0)


def choose(crf: CRFParams | None, emissions: Float[Array, "... t c"], length: Int[Array, "..."]) -> Int[Array, "... t"]:
    r"""The best tag at each place, or by Viterbi's algorithm the best path; −1 in padding.

    $$ \hat y_t = \arg\max_j e_{tj} \qquad \text{or} \qquad \hat y = \arg\max_y s(y) $$

    >>> choose(None, jnp.array([[2.0, 1.0], [0.0, 3.0], [0.0, 0.0]]), jnp.array(2)).tolist()
    [0, 1, -1]
    """
    if crf is not None:
        tags, _ = each_text(partial(viterbi, crf), length)(emissions, length)
        return tags
    return jnp.where(inside(emissions, length), emissions.argmax(-1), -1)


def forbid(
    crf: CRFParams, start: Bool[Array, " c"], transitions: Bool[Array, "c c"], end: Bool[Array, " c"]
) -> CRFParams:
    """The CRF with −∞ for every step that is not allowed: it has no probability, no gradient, and is never chosen.

    Args:
      crf: the CRF's parameters.
      start, transitions, end: where a path may begin, step and end, as `minilm.data.tagged.allowed_steps` says it of
        tags that spell spans. If a text's true path steps elsewhere, its loss is infinite.

    >>> anywhere, never_alike = jnp.ones(2, bool), ~jnp.eye(2, dtype=bool)
    >>> crf = forbid(init_crf(2), jnp.array([True, False]), never_alike, anywhere)
    >>> choose(crf, jnp.array([[0.0, 9.0], [0.0, 9.0], [0.0, 9.0]]), jnp.array(3)).tolist()
    [0, 1, 0]
    """
    allowed = CRFParams(transitions=transitions, start=start, end=end)
    return jax.tree.map(lambda score, may: jnp.where(may, score, -jnp.inf), crf, allowed)
