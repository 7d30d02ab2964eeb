"""How a decoder weighs the places of a source: Bahdanau's way and the five of Luong, each the same three functions.

keys = prepare(θ, values)              once for a source
a = weights(θ, q, keys, mask)          at every step of its decoder, which asks with q

What can be said of a place without knowing the question is said in `prepare`: a decoder that asks forty times would
else multiply every place by the same matrix forty times.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from minilm.initializers import normal
from minilm.layers.activation import softmax
from minilm.layers.attention.additive import init_additive, projected_additive_scores
from minilm.layers.attention.multiplicative import (
    LocalParams,
    dot_scores,
    init_concat,
    init_local,
    local_p_weights,
    location_scores,
)
from minilm.layers.linear import matmul
from minilm.models.records import one_record


class Scorer(NamedTuple):
    """The contract; h is the width of a question, e that of a place.

    init:    (key, h, e) -> params
    prepare: (params, values) -> keys, `(..., s, e)` -> `(..., s, k)`
    weights: (params, q, keys, mask) -> what each place weighs, `(h,)`, `(s, k)`, `(s,)` -> `(s,)`; 0 where not mask
    """

    init: Callable
    prepare: Callable
    weights: Callable


class GeneralParams(NamedTuple):
    """From a question to what it is held against a place with."""

    w: Float[Array, "h e"]


class LocationParams(NamedTuple):
    """A column for each place."""

    w: Float[Array, "h s"]


class LocalPParams(NamedTuple):
    """Those of the general scores, and of the place that is looked at."""

    w: Float[Array, "h e"]
    place: LocalParams


@one_record
def additive(width: int = 64) -> Scorer:
    r"""Bahdanau's: $a_s = v \cdot \tanh(q W_q + k_s W_k)$, by `additive_scores`, through a hidden layer of a width."""

    def init(key, h, e):
        return init_additive(key, h, e, width)

    def prepare(params, values):
        return matmul(values, params.w_k)

    def scores(params, q, keys):
        return projected_additive_scores(params.v, matmul(q, params.w_q)[None], keys)[0]

    return Scorer(init, prepare, _softmax_of(scores))


@one_record
def dot() -> Scorer:
    r"""Luong's *dot*: $a_s = q \cdot k_s$, by `dot_scores`; the question must be as wide as a place."""

    def init(key, h, e):
        if h != e:
            raise ValueError(
                f"Dot scores need a decoder as wide as what the encoder says of a place, and here are {h} and {e}: "
                "give them the same width (each direction of an encoder has half), or take general()."
            )

    return Scorer(init, lambda params, values: values, _softmax_of(_dot))


@one_record
def general() -> Scorer:
    r"""Luong's *general*: $a_s = q W \cdot k_s$, by `general_scores`, read from the other side: $q \cdot (W k_s)$."""

    def init(key, h, e):
        return GeneralParams(w=normal(key, (h, e), fan_in=h))

    def prepare(params, values):
        return matmul(values, params.w.T)

    return Scorer(init, prepare, _softmax_of(_dot))


@one_record
def concat(width: int = 64) -> Scorer:
    r"""Luong's *concat*: $a_s = v \cdot \tanh([q, k_s]\, W)$, by `concat_scores`; the additive ones, with one W."""

    def init(key, h, e):
        return init_concat(key, h, e, width)

    def prepare(params, values):
        return matmul(values, params.w[-values.shape[-1] :])

    def scores(params, q, keys):
        return projected_additive_scores(params.v, matmul(q, params.w[: len(q)])[None], keys)[0]

    return Scorer(init, prepare, _softmax_of(scores))


@one_record
def location(places: int = 32) -> Scorer:
    r"""Luong's *location*: $a_s = q \cdot W_{\cdot s}$, by `location_scores`, wherever it says, whatever stands there.

    It has a column for each of so many places, and sources may not be longer.
    """

    def init(key, h, e):
        return LocationParams(w=normal(key, (h, places), fan_in=h))

    def prepare(params, values):
        if values.shape[-2] > places:
            raise ValueError(
                f"location({places}) has {places} places, and the source {values.shape[-2]}: give it more."
            )
        return values

    def scores(params, q, keys):
        return location_scores(params.w, q[None])[0, : len(keys)]

    return Scorer(init, prepare, _softmax_of(scores))


@one_record
def local_p(width: int = 64, reach: float = 3.0) -> Scorer:
    r"""Luong's *local-p*: *general* within reach of a place that the question predicts, by `local_p_weights`.

    Its weights sum to less than one.
    """
    inner = general()

    def init(key, h, e):
        score_key, place_key = jax.random.split(key)
        return LocalPParams(inner.init(score_key, h, e).w, place=init_local(place_key, h, width))

    def weights(params, q, keys, mask):
        return local_p_weights(params.place, q[None], dot_scores(q[None], keys), mask, reach=reach)[0]

    return Scorer(init, inner.prepare, weights)


SCORERS: dict[str, Callable[..., Scorer]] = {
    "additive": additive,
    "dot": dot,
    "general": general,
    "concat": concat,
    "location": location,
    "local_p": local_p,
}


def _dot(params, q, keys):
    return dot_scores(q[None], keys)[0]


def _softmax_of(scores):
    return lambda params, q, keys, mask: softmax(scores(params, q, keys), where=mask)
