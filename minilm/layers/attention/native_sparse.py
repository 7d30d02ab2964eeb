"""Native sparse attention: a coarse look at everything, a sharp look at the blocks worth it, and a window on the last.

Each of the three branches has keys and values of its own, so that none learns in another's place. Key s stands at
position s: these functions are of one document, from its beginning, or of a cache with a slot for every position.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from minilm.initializers import normal
from minilm.layers.activation import gelu_tanh, sigmoid, softmax
from minilm.layers.attention.block_selection import largest
from minilm.layers.attention.cache import KVCache, append, init_cache, write_slots
from minilm.layers.attention.core import dot_product_attention, mix, scores
from minilm.layers.attention.multi_head import MultiHeadParams, init_multi_head, merge, project
from minilm.layers.linear import LinearParams, init_linear, linear
from minilm.shapes import Mixer, Tokens


class CompressParams(NamedTuple):
    """A vector for each of the p places in a block, and two affine maps, from the whole block to one key or value."""

    e: Float[Array, "p k"]
    w_up: Float[Array, "p*k f"]
    b_up: Float[Array, " f"]
    w_down: Float[Array, "f k"]
    b_down: Float[Array, " k"]


class NativeSparseParams(NamedTuple):
    """Heads, whose w_k and w_v hold those of compression, selection and window side by side, 3 g of them; and the rest.

    The gate maps the input to a number for each branch and head, `(3, g, r)` flattened, of which the sigmoid is taken.
    """

    heads: MultiHeadParams
    gate: LinearParams
    compress_k: CompressParams
    compress_v: CompressParams


class NativeSparseState(NamedTuple):
    """Keys and values of the tokens read so far, those of the three branches side by side; and the first's compressed.

    Block i of k and v is that of `compress` once its last token is read; till then no query may see it.
    """

    cache: KVCache
    k: Float[Array, "g b k"]
    v: Float[Array, "g b v"]


def init_compress(key, p: int, k: int, *, dtype=jnp.float32) -> CompressParams:
    """Weights N(0, 1/fan_in), places N(0, 0.02²), biases zero; the layer between is as wide as the block."""
    e_key, up_key, down_key = jax.random.split(key, 3)
    return CompressParams(
        e=normal(e_key, (p, k), deviation=0.02, dtype=dtype),
        w_up=normal(up_key, (p * k, p * k), fan_in=p * k, dtype=dtype),
        b_up=jnp.zeros(p * k, dtype),
        w_down=normal(down_key, (p * k, k), fan_in=p * k, dtype=dtype),
        b_down=jnp.zeros(k, dtype),
    )


def init_native_sparse(
    key, d: int, *, g: int, r: int, k: int, v: int, length: int, bias: bool = True, dtype=jnp.float32
) -> NativeSparseParams:
    """Queries of g · r heads, keys and values of g in each branch; the rest as `init_linear` and `init_compress`."""
    heads_key, branches_key, gate_key, k_key, v_key = jax.random.split(key, 5)
    heads = init_multi_head(heads_key, d, g=g, r=r, k=k, v=v, bias=bias, dtype=dtype)
    branches = init_multi_head(branches_key, d, g=3 * g, r=r, k=k, v=v, bias=bias, dtype=dtype)
    return NativeSparseParams(
        heads=heads._replace(w_k=branches.w_k, w_v=branches.w_v, b_k=branches.b_k, b_v=branches.b_v),
        gate=init_linear(gate_key, d, 3 * g * r, dtype=dtype),
        compress_k=init_compress(k_key, length, k, dtype=dtype),
        compress_v=init_compress(v_key, length, v, dtype=dtype),
    )


@partial(jax.jit, static_argnames="stride")
def compress(params: CompressParams, x: Float[Array, "g s k"], *, stride: int) -> Float[Array, "g b k"]:
    r"""Blocks of keys (or of values), each squeezed to one.

    $$ y_i = \varphi\left([x_{id} + e_0, \dots, x_{id + l - 1} + e_{l - 1}]\right), \qquad
       \varphi(z) = \operatorname{gelu}(z W_{\text{up}} + b_{\text{up}})\, W_{\text{down}} + b_{\text{down}} $$

    with l the length of a block and d the stride, at which blocks begin; they overlap where d < l. The paper says no
    more of φ than that it is a learnable MLP with a position encoding inside the block; one hidden layer, shared by
    all heads, is what is taken here. The last blocks end beyond x and read zeros there: no query may see them yet.

    Args:
      params: e `(l, k)`, and the two maps.
      x: keys or values `(g, s, k)`, from position 0 on.
      stride: d.
    Returns:
      `(g, b, k)`, b = ⌈s / d⌉, in x's dtype.

    Reference: `minilm.reference.attention.native_sparse.compress`. Paper: arXiv:2502.11089, equation 7.

    >>> params = CompressParams(jnp.zeros((2, 1)), jnp.ones((2, 1)), jnp.zeros(1), jnp.ones((1, 1)), jnp.zeros(1))
    >>> compress(params, jnp.array([[[10.0], [20.0], [30.0]]]), stride=1).ravel().tolist()
    [30.0, 50.0, 30.0]
    """
    (g, s, k), l = x.shape, params.e.shape[0]
    first = jnp.arange(0, s, stride)
    z = jnp.pad(x, ((0, 0), (0, l), (0, 0)))[:, first[:, None] + jnp.arange(l)] + params.e.astype(x.dtype)
    h = gelu_tanh(linear(LinearParams(params.w_up, params.b_up), z.reshape(g, -1, l * k)))
    return linear(LinearParams(params.w_down, params.b_down), h)


@partial(jax.jit, static_argnames=("length", "stride", "size", "n"))
def selected_blocks(
    weights: Float[Array, "g t b"], position: Int[Array, " t"], *, length: int, stride: int, size: int, n: int
) -> Bool[Array, "g t c"]:
    r"""The blocks that a group of heads reads in full: those on which their compressed attention has spent most.

    $$ u_j = \sum_{m = 0}^{l'/d - 1} \sum_{n = 0}^{l/d - 1} w_{(l'/d) j + m - n}, \qquad
       C_t = \operatorname{top}_n \{\, u_j : j \le b_t \,\} \ni 0,\ b_t - 1,\ b_t $$

    with $b_t = \lfloor p_t / l' \rfloor$. The double sum counts a compressed block i once for each stride that it
    shares with the block j. (The paper counts blocks from 1, whence its − m.) The first block and the query's last two
    are always among the n, and of equally good blocks the earlier is.

    Args:
      weights: compressed attention, summed over the heads of a group, `(g, t, b)`: block i begins at position i d.
      position: of the queries, `(t,)`; −1 chooses none.
      length, stride: l and d, of compressed blocks; d divides l and l'.
      size: l', of the blocks to select.
      n: how many, at least 3.
    Returns:
      booleans `(g, t, ⌈b d / l'⌉)`, which have no gradient.
    Raises:
      ValueError: for n < 3.

    Reference: `minilm.reference.attention.native_sparse.selected_blocks`. Paper: arXiv:2502.11089, equations 9 to 11.

    >>> weights = jnp.array([[[0.1, 0.1, 0.5, 0.1, 0.1, 0.1]]])
    >>> selected_blocks(weights, jnp.array([11]), length=2, stride=2, size=2, n=4).astype(int).tolist()
    [[[1, 0, 1, 0, 1, 1]]]
    """
    _check_selected(n)
    i, j = stride * jnp.arange(weights.shape[-1]), size * jnp.arange(-(-weights.shape[-1] * stride // size))
    shared = jnp.minimum(i[:, None] + length, j + size) - jnp.maximum(i[:, None], j)
    u = jax.lax.stop_gradient(weights) @ (jnp.maximum(shared, 0) / stride)
    back = position[:, None] // size - j // size
    fixed = (j == 0) | (back == 0) | (back == 1)
    return largest(jnp.where(back < 0, -jnp.inf, jnp.where(fixed, jnp.inf, u)), n=n) & (back >= 0)


@partial(jax.jit, static_argnames=("stride", "size", "n", "width"))
def native_sparse_attention(
    compress_k: CompressParams,
    compress_v: CompressParams,
    gates: Float[Array, "3 g r t"],
    q: Float[Array, "g r t k"],
    k: Float[Array, "3 g s k"],
    v: Float[Array, "3 g s v"],
    position: Int[Array, " t"],
    *,
    stride: int,
    size: int,
    n: int,
    width: int,
) -> Float[Array, "g r t v"]:
    r"""Compressed, selected and windowed attention, added through gates.

    $$ o_t = g^{\text{cmp}}_t\, o^{\text{cmp}}_t + g^{\text{sel}}_t\, o^{\text{sel}}_t
           + g^{\text{win}}_t\, o^{\text{win}}_t $$

    The first attends to `compress`ed blocks that end no later than the query, the second to the past tokens of the
    `selected_blocks`, the third to the last `width` tokens, the query's own among them. With the gates (0, 1, 0) and
    all blocks selected it *is* causal `dot_product_attention`, and with (0, 0, 1) that of a sliding window.

    Held: keys and values of all s tokens in three branches (of the first, s / d compressed and the last l would do; of
    the third, the last `width`). Read by one query: s / d compressed ones, n · size selected and `width` of the window.
    (Written here for its mathematics: all scores are taken, and most are masked.)

    Args:
      compress_k, compress_v: φ of the keys and φ of the values.
      gates: a number between 0 and 1 for each branch, head and query, `(3, g, r, t)`.
      q: queries `(g, r, t, k)`, the same for all branches.
      k, v: `(3, g, s, k)`, `(3, g, s, v)`: compression, selection, window. Key s stands at position s.
      position: of the queries, `(t,)`; −1 sees nothing and gives 0.
      stride, size, n: as `selected_blocks`'s.
      width: of the window.
    Returns:
      `(g, r, t, v)`, in the dtype of v.

    Reference: `minilm.reference.attention.native_sparse.native_sparse_attention`. Paper: arXiv:2502.11089, section 3.
    """
    blocks = compress(compress_k, k[0], stride=stride), compress(compress_v, v[0], stride=stride)
    sizes = {"length": compress_k.e.shape[0], "stride": stride, "size": size, "n": n, "width": width}
    return _added_branches(gates, q, *blocks, k, v, position, **sizes)


def native_sparse_mixer(
    *, g: int, r: int, k: int, v: int, length: int, stride: int, size: int, n: int, width: int, bias: bool = True
) -> Mixer:
    """Native sparse attention as a block takes it, gated by the sigmoid of an affine map of its input.

    In the paper g = 4, r = 16, k = 192, v = 128, length = 32, stride = 16, size = 64, n = 16 and width = 512.

    Args:
      g, r, k, v, bias: as `softmax_mixer`'s.
      length: positions in a compressed block.
      stride, size, n, width: as `native_sparse_attention`'s.
    Returns:
      a `Mixer` of `NativeSparseParams`, whose `NativeSparseState` must have a slot for every position of its one
      document. That is read from its beginning without a gap, but for padding: a step of t tokens compresses the ⌈t /
      stride⌉ blocks that may end in it, and none that ended before.
    Raises:
      ValueError: a stride that does not divide `length` and `size`, or n < 3.
    """
    _check(length, stride, size, n)
    sizes = {"stride": stride, "size": size, "n": n, "width": width}

    def apply(params, x, tokens):
        def to_itself(gates, q, k, v, position, document):
            _, k, v = _appended(init_cache(params.heads, x.shape[-2]), k, v, Tokens(position, document))
            return native_sparse_attention(params.compress_k, params.compress_v, gates, q, k, v, position, **sizes)

        signature = "(b,g,r,t),(g,r,t,k),(h,t,k),(h,t,v),(t),(t)->(g,r,t,v)"
        o = jnp.vectorize(to_itself, signature=signature)(*_gates_and_heads(params, x), *tokens)
        return merge(params.heads, o.astype(x.dtype))

    def init_state(params, size, dtype=None):
        cache, b = init_cache(params.heads, size, dtype), -(-size // stride)
        return NativeSparseState(cache, cache.k[:g, :b], cache.v[:g, :b])

    def step(params, state, x, tokens):
        gates, q, k, v = _gates_and_heads(params, x)
        cache, k, v = _appended(state.cache, k, v, tokens)
        blocks = _completed(params, state, k[0], v[0], tokens.position, stride)
        o = _added_branches(gates, q, *blocks, k, v, tokens.position, length=length, **sizes)
        return NativeSparseState(cache, *blocks), merge(params.heads, o.astype(x.dtype))

    init = partial(init_native_sparse, g=g, r=r, k=k, v=v, length=length, bias=bias)
    return Mixer(init=init, apply=apply, init_state=init_state, step=step)


def _check(length, stride, size, n):
    if stride < 1 or length % stride or size % stride:
        raise ValueError(f"A stride of {stride} must divide the length of blocks, {length}, and their size, {size}.")
    _check_selected(n)


def _gates_and_heads(params, x):
    """Gates `(..., 3, g, r, t)`, q, k and v."""
    _, g, r, _ = params.heads.w_q.shape
    gates = sigmoid(linear(params.gate, x)).reshape(*x.shape[:-1], 3, g, r)
    return jnp.moveaxis(gates, -4, -1), *project(params.heads, x, x)


def _appended(cache, k, v, tokens):
    """The cache with a chunk in it, and all keys and values that it holds then, branch by branch."""
    cache = append(cache, k, v, tokens)
    return cache, *(y.reshape(3, -1, *y.shape[1:]) for y in (cache.k, cache.v))


def _completed(params, state, k, v, position, stride):
    """Compressed blocks after a chunk, of whose t tokens at most ⌈t / stride⌉ are the last of one.

    From the first of those blocks on so many are computed. If one is not whole yet no query sees it, and the step that
    completes it computes it again. A chunk of padding alone begins where the cache ends.
    """
    start, l = position.min(where=position >= 0, initial=k.shape[1]), params.compress_k.e.shape[0]
    first = jnp.maximum(-((l - 1 - start) // stride), 0)
    i = first + jnp.arange(-(-position.shape[0] // stride))
    places = (i[:, None] * stride + jnp.arange(l)).ravel()

    def completed(phi, held, x):
        blocks = jnp.take(x, places, axis=1, mode="fill", fill_value=0)  # side by side, so that none overlaps another
        return write_slots(held, i, compress(phi, blocks, stride=l))

    return completed(params.compress_k, state.k, k), completed(params.compress_v, state.v, v)


def _added_branches(gates, q, k_cmp, v_cmp, k, v, position, *, length, stride, size, n, width):
    """`native_sparse_attention` where the first branch's blocks are compressed already."""
    ahead = position[:, None] - jnp.arange(k.shape[2])
    end = stride * jnp.arange(k_cmp.shape[1]) + length - 1
    weights = softmax(scores(q, k_cmp), where=end <= position[:, None])
    chosen = selected_blocks(weights.sum(1), position, length=length, stride=stride, size=size, n=n)
    selected = jnp.repeat(chosen, size, axis=-1)[:, None, :, : k.shape[2]] & (ahead >= 0)
    branches = (
        mix(weights, v_cmp),
        dot_product_attention(q, k[1], v[1], selected),
        dot_product_attention(q, k[2], v[2], (ahead >= 0) & (ahead < width)),
    )
    return sum(g[..., None] * o for g, o in zip(gates, branches, strict=True)).astype(v.dtype)


def _check_selected(n):
    if n < 3:
        raise ValueError(f"the first block and the last two are always selected: expected n of at least 3, got {n}")
