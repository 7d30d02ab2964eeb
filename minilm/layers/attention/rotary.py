"""Rotary attention: queries and keys turned to their positions before they meet."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

from minilm.layers.attention.core import Prepared
from minilm.layers.position import rotary, rotate
from minilm.pytrees import register


@register
@dataclass(frozen=True)
class Rotary(Prepared):
    r"""An attention whose scores know distances: `Rotary(Dense(Causal()))`, `Rotary(Blockwise(Causal()))`.

    $$ A_{ts} = \frac{(R_{p_t} q_t) \cdot (R_{p_s} k_s)}{\sqrt{k}} = \frac{q_t \cdot (R_{p_s - p_t} k_s)}{\sqrt{k}} $$

    R is `position.rotary`. Each key is turned once, before a cache holds it. (That of `Streaming`, which moves what it
    holds, has it unturned.)

    Reference: `minilm.reference.attention.rotary.Rotary`. Paper: arXiv:2104.09864.
    """

    attend: Callable[..., Any]
    theta: float = field(default=10000.0, metadata={"static": True})

    def prepare(self, q, k, query, key):
        """Queries and keys turned to where they stand."""
        return rotary(q, query.position, self.theta), rotary(k, key.position, self.theta)


@register
@dataclass(frozen=True)
class ScaledRotary(Prepared):
    """`Rotary` by frequencies that are given: `ScaledRotary(Dense(Causal()), *yarn_frequencies(64, ...))`.

    They are leaves of the pytree, so that another text may be read by others without a new compilation. While a cache
    lives they have to stay, for its keys are turned. (`dynamic_ntk_frequencies`, which change with the length, says
    what to do otherwise.)

    Reference: `minilm.reference.attention.rotary.ScaledRotary`. Papers: arXiv:2306.15595, arXiv:2309.00071.
    """

    attend: Callable[..., Any]
    frequencies: Any
    magnitude: Any = 1.0

    def prepare(self, q, k, query, key):
        """Queries and keys turned to where they stand."""
        # As an array of NumPy they would keep the precision of the first program that met them.
        frequencies = jnp.asarray(self.frequencies)
        return tuple(rotate(x, at.position, frequencies, self.magnitude) for x, at in ((q, query), (k, key)))
