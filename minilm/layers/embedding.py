"""Tokens into vectors, and vectors back into scores of tokens."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minilm.initializers import normal
from minilm.layers.linear import matmul


def init_embedding(key, n: int, d: int, *, deviation: float = 0.02, dtype=jnp.float32) -> Float[Array, "n d"]:
    """A table of n vectors of width d, drawn from N(0, deviation²); 0.02 is what GPT-2 and BERT use."""
    return normal(key, (n, d), deviation=deviation, dtype=dtype)


@jax.jit
def embed(embedding: Float[Array, "n d"], tokens: Int[Array, "..."]) -> Float[Array, "... d"]:
    r"""The table's rows at the given ids: the product of one-hot vectors with the table, without the zeros.

    $$ y = E_{\text{token}} $$

    Backwards, every place adds its gradient to the row it read: repeated ids add up, and rows that nobody read get
    exactly zero.

    Compiled code cannot raise an error, so ids are checked on the host, where they are made (the tokenizer, the loader,
    `generate`). Should one outside 0 … n − 1 come here all the same, its vector is NaN, −1 included, and the loss shows
    it; plain indexing would silently return the last row.

    Args:
      embedding: E `(n, d)`.
      tokens: integers `(...)`, from 0 to n − 1.
    Returns:
      y `(..., d)`, in the table's dtype.

    Reference: `minilm.reference.embedding.embed`. Paper: Bengio et al., JMLR 2003.

    >>> embed(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, 0, 1])).tolist()
    [[3.0, 4.0], [1.0, 2.0], [3.0, 4.0]]
    """
    return embedding.at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


@jax.jit
def unembed(embedding: Float[Array, "n d"], x: Float[Array, "... d"]) -> Float[Array, "... n"]:
    r"""A score for every token: the inner product of x with its row, the *logits* of a softmax over the vocabulary.

    $$ y_j = \sum_d x_d\, E_{jd} $$

    With the table that `embed` reads, input and output are tied: a word is predicted where x resembles its vector.
    The product is taken in the table's dtype, as `linear.matmul` says.

    Args:
      embedding: E `(n, d)`.
      x: `(..., d)`.
    Returns:
      logits `(..., n)`, in x's dtype.

    Reference: `minilm.reference.embedding.unembed`. Paper: arXiv:1608.05859 (tying).

    >>> unembed(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1.0, 1.0])).tolist()
    [3.0, 7.0]
    """
    return matmul(x, embedding.T)
