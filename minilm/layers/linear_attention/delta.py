r"""The delta rule: a state that is asked what it holds under a key before anything is written there.

$$ u_t = v_t - (a_t S_{t-1})^\top k_t, \qquad S_t = a_t S_{t-1} + \beta_t\, k_t u_t^\top, \qquad o_t = S_t^\top q_t $$

Linear attention adds a value to what stands under its key; the delta rule writes the difference, and so replaces it
(for keys of length one and β = 1, wholly). It is one step of gradient descent on $\tfrac12 \|S^\top k_t - v_t\|^2$,
with the learning rate β. The gated rule lets the state fade first.

What is written depends on what was written before, so that a chunk asks for the solution of a triangular system:

$$ (I + A)\, W = \mathrm{diag}(\beta)\, V, \qquad A_{ts} = \beta_t\, \Gamma_{ts}\, (k_t \cdot k_s) \quad (s < t) $$

It is solved by forward substitution. The inverse as a product, $(I - A)(I + A^2)(I + A^4) \cdots$, is fewer steps and
all of them matrix products; but where keys resemble each other the powers grow before they vanish, and cancel: in
float32 its relative error is $10^{-7}$ for random keys, 310 for keys of correlation 0.5 and $7 \cdot 10^{10}$ at 0.99,
where substitution stays at $3 \cdot 10^{-7}$.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from minilm.layers.linear_attention.chunks import in_chunks, out_of_chunks
from minilm.layers.linear_attention.decay import decay_matrix


@jax.jit
def delta_step(
    state: Float[Array, "g k v"],
    q: Float[Array, "g k"],
    k: Float[Array, "g k"],
    v: Float[Array, "g v"],
    beta: Float[Array, " g"],
    log_decay: Float[Array, " g"],
):
    r"""One token: the state fades, is corrected at the token's key, and is asked by its query.

    $$ u = v - a S^\top k, \qquad S' = a S + k\, (\beta u)^\top, \qquad o = S'^\top q $$

    With a = 1 this is DeltaNet. With β = 0 nothing is written.

    Args:
      state: S `(g, k, v)`, in float32 or wider.
      q, k, v: of one token, `(g, k)`, `(g, k)` and `(g, v)`. The state stays bounded while $0 \le \beta \|k\|^2 \le 2$.
      beta: β, how much of the difference is written, `(g,)`.
      log_decay: ln a ≤ 0, `(g,)`; 0 keeps everything, −∞ nothing.
    Returns:
      `(state, o)`: S', and o `(g, v)` in v's dtype.

    Reference: `minilm.reference.linear_attention.delta.delta_step`. Papers: arXiv:2102.11174, arXiv:2412.06464 (gated).

    >>> one, held = jnp.ones((1, 1)), jnp.full((1, 1, 1), 8.0)
    >>> delta_step(held, one, one, 3 * one, jnp.array([1.0]), jnp.array([0.0]))[1].item()
    3.0
    >>> delta_step(held, one, one, 3 * one, jnp.array([0.5]), jnp.log(jnp.array([0.5])))[1].item()
    3.5
    """
    wide = state.dtype
    q, k, u, beta, log_decay = (x.astype(wide) for x in (q, k, v, beta, log_decay))
    state = jnp.exp(log_decay)[:, None, None] * state
    u = u - jnp.einsum("gkv,gk->gv", state, k)
    state = state + k[:, :, None] * (beta[:, None] * u)[:, None, :]
    return state, jnp.einsum("gkv,gk->gv", state, q).astype(v.dtype)


@jax.jit
def delta_parallel(
    q: Float[Array, "g t k"],
    k: Float[Array, "g t k"],
    v: Float[Array, "g t v"],
    beta: Float[Array, "g t"],
    log_decay: Float[Array, "g t"],
) -> Float[Array, "g t v"]:
    r"""All tokens at once, from an empty state.

    $$ W = \left(I + \mathrm{tril}(\mathrm{diag}(\beta)\, K K^\top \odot \Gamma, -1)\right)^{-1}
           \mathrm{diag}(\beta)\, V, \qquad O = (Q K^\top \odot \Gamma)\, W $$

    W is what the steps write, $w_t = \beta_t u_t$. Where no key resembles an earlier one the matrix is I, and this is
    linear attention without a normaliser, of values βv.

    Args:
      q, k, v: `(g, t, k)`, `(g, t, k)`, `(g, t, v)`.
      beta: `(g, t)`.
      log_decay: `(g, t)`.
    Returns:
      o `(g, t, v)`, in v's dtype.

    Reference: `minilm.reference.linear_attention.delta.delta_parallel`. Paper: arXiv:2406.06484, section 3.

    >>> key, v = jnp.ones((1, 3, 1)), jnp.array([[[5.0], [7.0], [2.0]]])
    >>> delta_parallel(key, key, v, jnp.array([[1.0, 1.0, 0.5]]), jnp.zeros((1, 3))).tolist()
    [[[5.0], [7.0], [4.5]]]
    """
    wide = jnp.promote_types(v.dtype, jnp.float32)
    q, k, values, beta, log_decay = (x.astype(wide) for x in (q, k, v, beta, log_decay))
    gamma = decay_matrix(log_decay)
    w = _written(k, beta, gamma, beta[..., None] * values)
    return ((q @ k.mT * gamma) @ w).astype(v.dtype)


@partial(jax.jit, static_argnames="chunk")
def delta_chunked(
    state: Float[Array, "g k v"],
    q: Float[Array, "g t k"],
    k: Float[Array, "g t k"],
    v: Float[Array, "g t v"],
    beta: Float[Array, "g t"],
    log_decay: Float[Array, "g t"],
    *,
    chunk: int = 32,
):
    r"""The parallel form inside a chunk of C tokens, the recurrence from chunk to chunk.

    $$ (I + A)\, [U, Y] = \mathrm{diag}(\beta)\, [V, \mathrm{diag}(\gamma) K], \qquad W = U - Y S $$
    $$ S' = \gamma_C\, S + K^\top \mathrm{diag}(\Gamma_C)\, W, \qquad
       O = \mathrm{diag}(\gamma)\, Q S + (Q K^\top \odot \Gamma)\, W, \qquad \gamma_t = a_1 a_2 \cdots a_t $$

    with S the state before the chunk, and U what would be written into an empty one. U and Y are those of all chunks at
    once; only what holds S is left to the loop. One chunk of all tokens is `delta_parallel`; chunks of one are the loop
    of `delta_step`.

    Args:
      state: S before the first token, `(g, k, v)`, in float32 or wider.
      q, k, v: `(g, t, k)`, `(g, t, k)`, `(g, t, v)`, of any length.
      beta: `(g, t)`.
      log_decay: `(g, t)`.
      chunk: C. On a CPU 16 and 32 were about equally fast, 64 and 128 slower, for keys and values of width 64.
    Returns:
      `(state, o)`: S after the last token, and o `(g, t, v)` in v's dtype.

    Reference: `minilm.reference.linear_attention.delta.delta_chunked`. Papers: arXiv:2406.06484, section 3;
    arXiv:2412.06464, section 3.3.
    """
    t, wide = q.shape[1], state.dtype
    q, k, values, beta, log_decay = (in_chunks(x.astype(wide), chunk=min(chunk, t)) for x in (q, k, v, beta, log_decay))
    gamma, since_start = decay_matrix(log_decay), jnp.exp(log_decay.cumsum(-1))[..., None]
    both = beta[..., None] * jnp.concatenate([values, since_start * k], -1)
    u, y = jnp.split(_written(k, beta, gamma, both), [v.shape[2]], axis=-1)
    until_end = gamma[:, :, -1, :, None] * k

    def next_chunk(state, inputs):
        decay, k, u, y = inputs
        w = u - y @ state
        return decay * state + k.mT @ w, (state, w)

    state, (before, w) = jax.lax.scan(next_chunk, state, (since_start[:, :, -1:], until_end, u, y))
    o = since_start * q @ before + (q @ k.mT * gamma) @ w
    return state, out_of_chunks(o, t=t).astype(v.dtype)


def _written(k, beta, gamma, values):
    """(I + A)⁻¹ values, for each leading index; of the matrix only what lies below the diagonal is read."""
    return solve_triangular(beta[..., None] * (k @ k.mT) * gamma, values, lower=True, unit_diagonal=True)
