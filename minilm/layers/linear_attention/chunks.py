"""Sequences cut into chunks, and put together again."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@partial(jax.jit, static_argnames="chunk")
def in_chunks(x: Float[Array, "g t ..."], *, chunk: int) -> Float[Array, "chunks g chunk ..."]:
    r"""A sequence cut into chunks, the last one filled with zeros.

    $$ y_{ngc} = x_{g,\, nC + c} $$

    To a recurrence a token of zeros is none: it writes nothing, and the logarithm 0 keeps everything.

    Args:
      x: `(g, t, ...)`.
      chunk: C, the tokens of a chunk.
    Returns:
      y `(n, g, C, ...)`, in $n = \lceil t / C \rceil$ chunks.

    Reference: `minilm.reference.linear_attention.chunks.in_chunks`.

    >>> in_chunks(jnp.array([[1.0, 2.0, 3.0]]), chunk=2).tolist()
    [[[1.0, 2.0]], [[3.0, 0.0]]]
    """
    padded = jnp.pad(x, ((0, 0), (0, -x.shape[1] % chunk)) + ((0, 0),) * (x.ndim - 2))
    return jnp.moveaxis(padded.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)


@partial(jax.jit, static_argnames="t")
def out_of_chunks(x: Float[Array, "chunks g chunk ..."], *, t: int) -> Float[Array, "g t ..."]:
    r"""The chunks side by side again, without what the last one was filled with.

    $$ y_{g,\, nC + c} = x_{ngc} $$

    Args:
      x: `(n, g, C, ...)`.
      t: the length of the sequence.
    Returns:
      y `(g, t, ...)`.

    Reference: `minilm.reference.linear_attention.chunks.out_of_chunks`.

    >>> out_of_chunks(jnp.array([[[1.0, 2.0]], [[3.0, 0.0]]]), t=3).tolist()
    [[1.0, 2.0, 3.0]]
    """
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :t]
