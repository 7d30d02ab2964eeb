r"""A state that fades by one number a token: linear attention, RetNet and Mamba-2 are this recurrence.

$$ S_t = a_t\, S_{t-1} + k_t v_t^\top, \qquad o_t = S_t^\top q_t $$

Linear attention never forgets ($a_t = 1$); RetNet forgets at a rate of its own in each head; Mamba-2 reads from its
input how much to forget. Written out, the recurrence is attention whose softmax gave way to a product of decays:

$$ o_t = \sum_{s \le t} \Gamma_{ts}\, (q_t \cdot k_s)\, v_s, \qquad \Gamma_{ts} = a_{s+1} a_{s+2} \cdots a_t $$
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minilm.layers.linear_attention.chunks import in_chunks, out_of_chunks


@jax.jit
def decay_step(
    state: Float[Array, "g k v"],
    q: Float[Array, "g k"],
    k: Float[Array, "g k"],
    v: Float[Array, "g v"],
    log_decay: Float[Array, " g"],
):
    r"""One token: the state fades, takes in the key's value, and is asked by the query.

    $$ S' = a\, S + k v^\top, \qquad o = S'^\top q $$

    Args:
      state: S `(g, k, v)`, in float32 or wider.
      q, k, v: of one token, `(g, k)`, `(g, k)` and `(g, v)`.
      log_decay: ln a ≤ 0, `(g,)`; 0 keeps everything, −∞ nothing.
    Returns:
      `(state, o)`: S', and o `(g, v)` in v's dtype.

    Reference: `minilm.reference.linear_attention.decay.decay_step`. Papers: arXiv:2006.16236 (linear attention),
    arXiv:2307.08621 (RetNet), arXiv:2405.21060 (Mamba-2).

    >>> one = jnp.ones((1, 1))
    >>> state, o = decay_step(jnp.full((1, 1, 1), 8.0), one, one, 3 * one, jnp.log(jnp.array([0.5])))
    >>> o.item()
    7.0
    """
    wide = state.dtype
    state = jnp.exp(log_decay.astype(wide))[:, None, None] * state + k.astype(wide)[:, :, None] * v[:, None, :]
    return state, jnp.einsum("gkv,gk->gv", state, q.astype(wide)).astype(v.dtype)


@jax.jit
def decay_matrix(log_decay: Float[Array, "... t"]) -> Float[Array, "... t t"]:
    r"""How much of token s is left at token t.

    $$ \Gamma_{ts} = \prod_{s < m \le t} a_m \quad (s \le t), \qquad \Gamma_{ts} = 0 \quad (s > t) $$

    The logarithms of each product are summed by themselves. A difference of two sums from the beginning, $F_t - F_s$,
    would be cheaper, but loses its digits where F is large, and is NaN after one $a_m = 0$.

    Args:
      log_decay: ln a ≤ 0, `(..., t)`.
    Returns:
      Γ `(..., t, t)`, lower triangular, 1 on its diagonal.

    Reference: `minilm.reference.linear_attention.decay.decay_matrix`. Paper: arXiv:2405.21060, section 6 ("segsum").

    >>> decay_matrix(jnp.log(jnp.array([0.5, 0.5, 0.25]))).round(3).tolist()
    [[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.125, 0.25, 1.0]]
    """
    t = log_decay.shape[-1]
    counted = jnp.where(jnp.tri(t, k=-1, dtype=bool), log_decay[..., :, None], 0)
    return jnp.where(jnp.tri(t, dtype=bool), jnp.exp(counted.cumsum(-2)), 0)


@jax.jit
def decay_parallel(
    q: Float[Array, "g t k"], k: Float[Array, "g t k"], v: Float[Array, "g t v"], log_decay: Float[Array, "g t"]
) -> Float[Array, "g t v"]:
    r"""All tokens at once, from an empty state.

    $$ O = \left(Q K^\top \odot \Gamma\right) V $$

    Args:
      q, k, v: `(g, t, k)`, `(g, t, k)`, `(g, t, v)`.
      log_decay: `(g, t)`.
    Returns:
      o `(g, t, v)`, in v's dtype.

    Reference: `minilm.reference.linear_attention.decay.decay_parallel`.
    """
    wide = jnp.promote_types(v.dtype, jnp.float32)
    scores = jnp.einsum("gtk,gsk->gts", q, k, preferred_element_type=wide)
    return jnp.einsum("gts,gsv->gtv", scores * decay_matrix(log_decay.astype(wide)), v.astype(wide)).astype(v.dtype)


@partial(jax.jit, static_argnames="chunk")
def decay_chunked(
    state: Float[Array, "g k v"],
    q: Float[Array, "g t k"],
    k: Float[Array, "g t k"],
    v: Float[Array, "g t v"],
    log_decay: Float[Array, "g t"],
    *,
    chunk: int = 64,
):
    r"""The parallel form inside a chunk of C tokens, the recurrence from chunk to chunk.

    $$ o_t = \sum_{s \le t} \Gamma_{ts}\, (q_t \cdot k_s)\, v_s + \gamma_t\, S^\top q_t, \qquad
       S' = \gamma_C\, S + \sum_s \Gamma_{Cs}\, k_s v_s^\top, \qquad \gamma_t = a_1 a_2 \cdots a_t $$

    with t and s inside the chunk, and S before it. One chunk of all tokens is `decay_parallel`; chunks of one are the
    loop of `decay_step`.

    Args:
      state: S before the first token, `(g, k, v)`, in float32 or wider.
      q, k, v: `(g, t, k)`, `(g, t, k)`, `(g, t, v)`, of any length.
      log_decay: `(g, t)`.
      chunk: C.
    Returns:
      `(state, o)`: S after the last token, and o `(g, t, v)` in v's dtype.

    Reference: `minilm.reference.linear_attention.decay.decay_chunked`. Paper: arXiv:2405.21060, section 6.
    """
    t, wide = q.shape[1], state.dtype
    q, k, v_in, log_decay = (in_chunks(x.astype(wide), chunk=min(chunk, t)) for x in (q, k, v, log_decay))
    inside, since_start = decay_matrix(log_decay), jnp.exp(log_decay.cumsum(-1))
    scores = jnp.einsum("ngtk,ngsk->ngts", q, k) * inside
    written = jnp.einsum("ngsk,ngsv->ngkv", k * inside[:, :, -1, :, None], v_in)

    def next_chunk(state, inputs):
        decay, written = inputs
        return decay[:, None, None] * state + written, state

    state, before = jax.lax.scan(next_chunk, state, (since_start[:, :, -1], written))
    o = jnp.einsum("ngts,ngsv->ngtv", scores, v_in) + jnp.einsum("ngtk,ngkv->ngtv", since_start[..., None] * q, before)
    return state, out_of_chunks(o, t=t).astype(v.dtype)
