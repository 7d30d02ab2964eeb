"""The feed-forward layer of a block: up to a wider space, through a non-linear function, and down again."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.initializers import normal
from minilm.layers.activation import gelu, gelu_tanh, relu, sigmoid, silu
from minilm.layers.linear import LinearParams, linear, matmul


class MLPParams(NamedTuple):
    """Two affine maps, of width d to f and back; a bias may be absent (None)."""

    w_up: Float[Array, "d f"]
    b_up: Float[Array, " f"] | None
    w_down: Float[Array, "f d"]
    b_down: Float[Array, " d"] | None


class GLUParams(NamedTuple):
    """Three linear maps: two of width d to f, of which one becomes the gate of the other, and one back."""

    w_gate: Float[Array, "d f"]
    w_up: Float[Array, "d f"]
    w_down: Float[Array, "f d"]


def init_mlp(
    key,
    d: int,
    f: int,
    *,
    bias: bool = True,
    deviation: float | None = None,
    out_deviation: float | None = None,
    dtype=jnp.float32,
) -> MLPParams:
    """Weights N(0, deviation²), those of `w_down` N(0, out_deviation²); None means one over the fan-in. Biases zero."""
    up_key, down_key = jax.random.split(key)
    return MLPParams(
        w_up=normal(up_key, (d, f), fan_in=d, deviation=deviation, dtype=dtype),
        b_up=jnp.zeros(f, dtype) if bias else None,
        w_down=normal(down_key, (f, d), fan_in=f, deviation=out_deviation, dtype=dtype),
        b_down=jnp.zeros(d, dtype) if bias else None,
    )


def init_glu(
    key, d: int, f: int, *, deviation: float | None = None, out_deviation: float | None = None, dtype=jnp.float32
) -> GLUParams:
    """Weights N(0, deviation²), those of `w_down` N(0, out_deviation²); None means one over the fan-in.

    With f = 8d/3 a gated layer has as many parameters as an MLP with f = 4d.
    """
    gate_key, up_key, down_key = jax.random.split(key, 3)
    return GLUParams(
        w_gate=normal(gate_key, (d, f), fan_in=d, deviation=deviation, dtype=dtype),
        w_up=normal(up_key, (d, f), fan_in=d, deviation=deviation, dtype=dtype),
        w_down=normal(down_key, (f, d), fan_in=f, deviation=out_deviation, dtype=dtype),
    )


@partial(jax.jit, static_argnames="activation")
def mlp(params: MLPParams, x: Float[Array, "... d"], activation: Callable = gelu_tanh) -> Float[Array, "... d"]:
    r"""The Transformer's position-wise network.

    $$ y = \phi(x W_{\text{up}} + b_{\text{up}})\, W_{\text{down}} + b_{\text{down}} $$

    Args:
      params: W_up `(d, f)`, b_up `(f,)`, W_down `(f, d)`, b_down `(d,)`.
      x: `(..., d)`.
      activation: φ, an elementwise function. Pass one that has a name: each new `lambda` is compiled anew.
    Returns:
      y `(..., d)`, in x's dtype.

    Reference: `minilm.reference.feed_forward.mlp`. Paper: arXiv:1706.03762, section 3.3 (with relu).

    >>> params = init_mlp(jax.random.key(0), 1, 2)._replace(w_up=jnp.array([[1.0, -1.0]]), w_down=jnp.ones((2, 1)))
    >>> mlp(params, jnp.array([3.0]), relu).tolist()
    [3.0]
    """
    h = activation(linear(LinearParams(params.w_up, params.b_up), x))
    return linear(LinearParams(params.w_down, params.b_down), h)


@partial(jax.jit, static_argnames="activation")
def glu(params: GLUParams, x: Float[Array, "... d"], activation: Callable = sigmoid) -> Float[Array, "... d"]:
    r"""A gated linear unit as a feed-forward layer: one half decides how much of the other passes.

    $$ y = \left(\phi(x W_{\text{gate}}) \odot x W_{\text{up}}\right) W_{\text{down}} $$

    With the sigmoid it is the original. `reglu`, `geglu` and `swiglu` are named for other φ; T5 1.1 and Gemma
    say GEGLU and compute `glu(params, x, gelu_tanh)`.

    Args:
      params: W_gate and W_up `(d, f)`, W_down `(f, d)`.
      x: `(..., d)`.
      activation: φ, an elementwise function. Pass one that has a name: each new `lambda` is compiled anew.
    Returns:
      y `(..., d)`, in x's dtype.

    Reference: `minilm.reference.feed_forward.glu`. Papers: arXiv:1612.08083, arXiv:2002.05202.

    >>> params = GLUParams(w_gate=jnp.zeros((1, 2)), w_up=jnp.ones((1, 2)), w_down=jnp.ones((2, 1)))
    >>> glu(params, jnp.array([3.0])).tolist()
    [3.0]
    """
    return matmul(activation(matmul(x, params.w_gate)) * matmul(x, params.w_up), params.w_down)


@jax.jit
def reglu(params: GLUParams, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    r"""A feed-forward layer whose gate is a rectifier.

    $$ y = \left(\max(x W_{\text{gate}}, 0) \odot x W_{\text{up}}\right) W_{\text{down}} $$

    Args:
      params: W_gate and W_up `(d, f)`, W_down `(f, d)`.
      x: `(..., d)`.
    Returns:
      y `(..., d)`, in x's dtype.

    Reference: `minilm.reference.feed_forward.reglu`. Paper: arXiv:2002.05202.

    >>> params = GLUParams(w_gate=jnp.array([[2.0, -2.0]]), w_up=jnp.ones((1, 2)), w_down=jnp.ones((2, 1)))
    >>> reglu(params, jnp.array([3.0])).tolist()
    [18.0]
    """
    return glu(params, x, relu)


@jax.jit
def geglu(params: GLUParams, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    r"""A feed-forward layer whose gate is the exact GELU.

    $$ y = \left(\mathrm{gelu}(x W_{\text{gate}}) \odot x W_{\text{up}}\right) W_{\text{down}} $$

    Args:
      params: W_gate and W_up `(d, f)`, W_down `(f, d)`.
      x: `(..., d)`.
    Returns:
      y `(..., d)`, in x's dtype.

    Reference: `minilm.reference.feed_forward.geglu`. Paper: arXiv:2002.05202.

    >>> params = GLUParams(w_gate=jnp.array([[9.0, -9.0]]), w_up=jnp.ones((1, 2)), w_down=jnp.ones((2, 1)))
    >>> geglu(params, jnp.array([2.0])).tolist()
    [36.0]
    """
    return glu(params, x, gelu)


@jax.jit
def swiglu(params: GLUParams, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    r"""A feed-forward layer whose gate is the sigmoid linear unit, as in Llama, PaLM and most that followed.

    $$ y = \left(\mathrm{silu}(x W_{\text{gate}}) \odot x W_{\text{up}}\right) W_{\text{down}} $$

    Args:
      params: W_gate and W_up `(d, f)`, W_down `(f, d)`.
      x: `(..., d)`.
    Returns:
      y `(..., d)`, in x's dtype.

    Reference: `minilm.reference.feed_forward.swiglu`. Paper: arXiv:2002.05202.

    >>> params = GLUParams(w_gate=jnp.array([[50.0, -50.0]]), w_up=jnp.ones((1, 2)), w_down=jnp.ones((2, 1)))
    >>> swiglu(params, jnp.array([2.0])).tolist()
    [200.0]
    """
    return glu(params, x, silu)
