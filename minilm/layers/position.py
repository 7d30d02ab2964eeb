"""Where a token stands: vectors added to it (sinusoidal, learned), or a rotation of its queries and keys (rotary)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Real

from minilm.initializers import normal
from minilm.layers.embedding import embed
from minilm.layers.rotary_scaling import rotary_frequencies


@partial(jax.jit, static_argnames=("d", "theta", "dtype"))
def sinusoidal(
    position: Real[Array, "..."], d: int, theta: float = 10000.0, dtype=jnp.float32
) -> Float[Array, "... d"]:
    r"""The fixed position vectors of the first Transformer, to be added to the embeddings.

    $$ y_{2m} = \sin(p\, \omega_m), \qquad y_{2m+1} = \cos(p\, \omega_m), \qquad \omega_m = \theta^{-2m/d} $$

    The vector at p + a is a rotation of the one at p by angles that depend on a alone, so a linear map can attend to
    a distance.

    Args:
      position: p `(...)`, integers or fractions.
      d: width, even.
      theta: the wavelengths grow from 2π to nearly 2πθ.
      dtype: of the result. The angles are computed in float32 or wider; in float32 they are off by p·1.2e-7 at most.
    Returns:
      y `(..., d)`.

    Reference: `minilm.reference.position.sinusoidal`. Paper: arXiv:1706.03762, section 3.5.

    >>> sinusoidal(jnp.array([0]), 4).tolist()
    [[0.0, 1.0, 0.0, 1.0]]
    """
    a = _angles(position, rotary_frequencies(d, theta), dtype)
    return jnp.stack([jnp.sin(a), jnp.cos(a)], -1).reshape(*a.shape[:-1], d).astype(dtype)


def init_learned(key, p: int, d: int, *, deviation: float = 0.02, dtype=jnp.float32) -> Float[Array, "p d"]:
    """A table of p position vectors of width d, drawn from N(0, deviation²): BERT's 0.02; GPT-2's own code has 0.01."""
    return normal(key, (p, d), deviation=deviation, dtype=dtype)


@jax.jit
def learned(table: Float[Array, "p d"], position: Int[Array, "..."]) -> Float[Array, "... d"]:
    r"""A trained vector for each position, to be added to the embeddings.

    $$ y = P_{\text{position}} $$

    This is `embedding.embed` with positions for tokens, and there is no vector beyond the table's end: such a
    position gives NaN. Padding, whose position is −1, gets the vector of position 0, for it must stay finite.

    Args:
      table: P `(p, d)`.
      position: integers `(...)`, from 0 to p − 1, or −1 for padding.
    Returns:
      y `(..., d)`, in the table's dtype.

    Reference: `minilm.reference.position.learned`. Paper: arXiv:1705.03122.

    >>> learned(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, 0, -1])).tolist()
    [[3.0, 4.0], [1.0, 2.0], [1.0, 2.0]]
    """
    return embed(table, jnp.maximum(position, 0))


@partial(jax.jit, static_argnames="theta")
def rotary(
    x: Float[Array, "*batch t k"], position: Real[Array, "*#batch t"], theta: float = 10000.0
) -> Float[Array, "*batch t k"]:
    r"""Rotary position embedding in the half layout: entry m and entry m + k/2 form the m-th plane.

    $$ \begin{pmatrix} y_m \\ y_{m+k/2} \end{pmatrix} = \begin{pmatrix} \cos a_m & -\sin a_m \\ \sin a_m & \cos a_m
       \end{pmatrix} \begin{pmatrix} x_m \\ x_{m+k/2} \end{pmatrix}, \qquad a_m = p\, \theta^{-2m/k} $$

    Norms stay, and the inner product of a query at p with a key at p′ depends on p − p′ alone. GPT-NeoX and the
    Llama checkpoints of Hugging Face use this layout; the paper's is `rotary_interleaved`. One layout's weights give
    nonsense under the other: permute the columns of W_q and W_k to change between them.

    The angles are computed in float32 or wider. In float32 an angle is off by p·1.2e-7 at most: 0.012 at position
    100,000, and nothing to speak of at 2,048.

    Args:
      x: queries or keys `(..., t, k)`, k even.
      position: p `(t,)` or `(..., t)`, broadcast against the leading axes of x; integers or fractions.
      theta: a Python number; the wavelengths grow from 2π to nearly 2πθ. Llama 3 uses 500,000.
    Returns:
      y `(..., t, k)`, in x's dtype.
    Raises:
      ValueError: where k is odd.

    Reference: `minilm.reference.position.rotary`. Paper: arXiv:2104.09864.

    >>> [round(y, 3) for y in rotary(jnp.array([[1.0, 0.0]]), jnp.array([1]))[0].tolist()]
    [0.54, 0.841]
    """
    return rotate(x, position, rotary_frequencies(x.shape[-1], theta))


@jax.jit
def rotate(
    x: Float[Array, "*batch t k"],
    position: Real[Array, "*#batch t"],
    frequencies: Float[Array | np.ndarray, " half"],
    magnitude: Float[Array, ""] | float = 1.0,
) -> Float[Array, "*batch t k"]:
    r"""`rotary` by frequencies that are given, such as those of `minilm.layers.rotary_scaling` for longer texts.

    $$ \begin{pmatrix} y_m \\ y_{m+k/2} \end{pmatrix} = c \begin{pmatrix} \cos a_m & -\sin a_m \\ \sin a_m & \cos a_m
       \end{pmatrix} \begin{pmatrix} x_m \\ x_{m+k/2} \end{pmatrix}, \qquad a_m = p\, \omega_m $$

    Args:
      x: queries or keys `(..., t, k)`, k even.
      position: p `(t,)` or `(..., t)`, broadcast against the leading axes of x; integers or fractions.
      frequencies: ω `(k/2,)`, one for each plane. They are rounded once, to float32 or x's dtype if that is wider.
      magnitude: c, on cos and sin. On queries and keys alike it multiplies the scores by c²: YaRN's temperature.
    Returns:
      y `(..., t, k)`, in x's dtype.
    Raises:
      ValueError: where there is not one frequency for each pair of entries.

    Reference: `minilm.reference.position.rotate`. Papers: arXiv:2104.09864, arXiv:2309.00071.

    >>> [round(y, 3) for y in rotate(jnp.array([[1.0, 0.0]]), jnp.array([4]), jnp.array([0.25]), 2.0)[0].tolist()]
    [1.081, 1.683]
    """
    half = x.shape[-1] // 2
    if x.shape[-1] != 2 * frequencies.shape[0]:
        expected = f"a frequency for each pair of {x.shape[-1]} entries was expected"
        raise ValueError(f"Positions turn pairs of entries: {expected}, but there are {frequencies.shape[0]}.")
    a = _angles(position, frequencies, x.dtype)
    first, second = _rotate(x[..., :half], x[..., half:], a, jnp.asarray(magnitude, a.dtype))
    return jnp.concatenate([first, second], -1).astype(x.dtype)


@partial(jax.jit, static_argnames="theta")
def rotary_interleaved(
    x: Float[Array, "*batch t k"], position: Real[Array, "*#batch t"], theta: float = 10000.0
) -> Float[Array, "*batch t k"]:
    r"""Rotary position embedding in the paper's own layout: neighbours 2m and 2m + 1 form the m-th plane.

    $$ \begin{pmatrix} y_{2m} \\ y_{2m+1} \end{pmatrix} = \begin{pmatrix} \cos a_m & -\sin a_m \\ \sin a_m & \cos a_m
       \end{pmatrix} \begin{pmatrix} x_{2m} \\ x_{2m+1} \end{pmatrix}, \qquad a_m = p\, \theta^{-2m/k} $$

    RoFormer, GPT-J and Meta's own Llama files use it. It is `rotary` with the entries of x in another order.

    Args:
      x: queries or keys `(..., t, k)`, k even.
      position: p `(t,)` or `(..., t)`, broadcast against the leading axes of x; integers or fractions.
      theta: a Python number.
    Returns:
      y `(..., t, k)`, in x's dtype.
    Raises:
      ValueError: where k is odd.

    Reference: `minilm.reference.position.rotary_interleaved`. Paper: arXiv:2104.09864.

    >>> [round(y, 3) for y in rotary_interleaved(jnp.array([[1.0, 0.0]]), jnp.array([1]))[0].tolist()]
    [0.54, 0.841]
    """
    a = _angles(position, rotary_frequencies(x.shape[-1], theta), x.dtype)
    even, odd = _rotate(x[..., 0::2], x[..., 1::2], a)
    return jnp.stack([even, odd], -1).reshape(x.shape).astype(x.dtype)


def _rotate(x_1, x_2, a, magnitude: Any = 1.0):
    cos, sin = magnitude * jnp.cos(a), magnitude * jnp.sin(a)
    return x_1 * cos - x_2 * sin, x_1 * sin + x_2 * cos


def _angles(position, frequencies, dtype):
    """The angles (..., width / 2) at each position, in `dtype` or float32, whichever is wider."""
    # The frequencies are rounded once, from NumPy's float64; in JAX they would be float64 or float32 with the x64 flag.
    wide = jnp.promote_types(dtype, jnp.float32)
    return position[..., None].astype(wide) * jnp.asarray(frequencies, wide)
