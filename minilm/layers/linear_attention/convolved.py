"""A short convolution before a mixer, whichever it is."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.layers.linear_attention.convolution import (
    init_identity_short_convolution,
    init_short_convolution,
    short_convolution,
)
from minilm.shapes import Mixer

BEGINNINGS = {
    "random": init_short_convolution,
    "identity": lambda key, width, d: init_identity_short_convolution(width, d),
}


class ConvolvedParams(NamedTuple):
    """The convolution's weights, and the mixer's parameters."""

    convolution: Float[Array, "width d"]
    mixer: Any


class ConvolvedState(NamedTuple):
    """The last inputs that the convolution still needs, and the mixer's state."""

    inputs: Float[Array, "width-1 d"]
    mixer: Any


def convolved_mixer(mixer: Mixer, *, width: int, initial: str = "random") -> Mixer:
    """The mixer, of an input in which each channel has seen its last `width` values.

    Args:
      mixer: any.
      width: of the convolution; 1 lets a token see itself alone.
      initial: random, or identity: how the convolution begins, which decides more than one would think
        (`init_short_convolution` has figures).
    Returns:
      a `Mixer` of `ConvolvedParams`, whose state is a `ConvolvedState`.
    Raises:
      ValueError: for a width below 1, or another word for how it begins.
    """
    if width < 1 or initial not in BEGINNINGS:
        raise ValueError(f"A convolution is at least 1 wide and begins random or identity; told: {width}, {initial!r}.")

    def init(key, d_model):
        convolution_key, mixer_key = jax.random.split(key)
        return ConvolvedParams(BEGINNINGS[initial](convolution_key, width, d_model), mixer.init(mixer_key, d_model))

    def apply(params, x, tokens):
        def convolve(x, position):
            return short_convolution(params.convolution, _empty(params.convolution, x.dtype), x, position >= 0)[1]

        convolved = jnp.vectorize(convolve, signature="(t,d),(t)->(t,d)")(x, tokens.position)
        return mixer.apply(params.mixer, convolved, tokens)

    def init_state(params, size, dtype=None):
        wide = params.convolution.dtype if dtype is None else dtype
        return ConvolvedState(_empty(params.convolution, wide), mixer.init_state(params.mixer, size, dtype))

    def step(params, state, x, tokens):
        inputs, x = short_convolution(params.convolution, state.inputs, x, tokens.position >= 0)
        after, y = mixer.step(params.mixer, state.mixer, x, tokens)
        return ConvolvedState(inputs, after), y

    return Mixer(init=init, apply=apply, init_state=init_state, step=step)


def _empty(w, dtype):
    return jnp.zeros((len(w) - 1, w.shape[1]), jnp.promote_types(dtype, jnp.float32))
