"""Any attention of minilm inside of Flax, and in the place of `jax.nn.dot_product_attention`.

Both libraries put heads after the length, `(..., length, heads, width)`, and number the query heads group by group, as
minilm does: query head h reads key/value head ⌊h / r⌋. Flax itself is not imported here.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from minilm.layers.attention import core
from minilm.layers.attention.masks import Everything
from minilm.shapes import Tokens


def flax_attention(attend: Callable, query_tokens: Tokens | None = None, key_tokens: Tokens | None = None) -> Callable:
    """What serves as `attention_fn` of Flax, both linen's and nnx's.

    `flax.linen.MultiHeadDotProductAttention(num_heads=4, attention_fn=flax_attention(Rotary(Dense(Causal()))))`

    A mask and a bias that Flax gives are honoured, beside the rule and the bias that `attend` has. Where Flax's own
    function gives a query without keys the mean of all values, this gives 0; and the softmax is in float32 or wider
    whatever `force_fp32_for_softmax` says. Dropout of weights, a precision, and weights to be sown are refused.

    Flax tells an `attention_fn` nothing of positions. Queries and keys of one length are taken to stand at 0, 1, 2, …;
    where their lengths differ, as in cross-attention and in Flax's decoding cache, only `Dense(Everything())`, which
    asks for no position, goes without telling it where they stand.

    Args:
      attend: an attention of one sequence, `attend(q, k, v, query, key)`. To take a mask or a bias from Flax, it must
        be a `Dense` or hold one, as `Rotary` does.
      query_tokens, key_tokens: where queries and keys stand, `(t,)` and `(s,)`, if not at 0, 1, 2, ….
    Returns:
      `attention_fn(query, key, value, bias=None, mask=None, ...)`.
    Raises:
      ValueError: from the function returned, for what is refused above; and for `DenseWithWeights`.
    """
    if isinstance(attend, core.DenseWithWeights):
        raise ValueError("Flax expects an output alone, but DenseWithWeights gives its weights beside it: use Dense.")

    def attention_fn(
        query,
        key,
        value,
        bias=None,
        mask=None,
        broadcast_dropout=True,
        dropout_rng=None,
        dropout_rate=0.0,
        deterministic=False,
        dtype=None,
        precision=None,
        module=None,
        is_causal=False,
        qk_attn_weights_einsum=None,
        attn_weights_value_einsum=None,
    ):
        if dropout_rate > 0 and not deterministic:
            raise ValueError(
                f"No dropout of attention weights was expected, but a rate of {dropout_rate}; set it to 0."
            )
        if module is not None:
            raise ValueError("Weights are not sown by this attention: leave `sow_weights`, or see DenseWithWeights.")
        if precision is not None:
            raise ValueError(f"precision={precision} is not taken here: set jax.default_matmul_precision instead.")
        if qk_attn_weights_einsum is not None or attn_weights_value_einsum is not None:
            raise ValueError("Other einsums for the weights are not taken here: leave `*_einsum_cls` as they are.")
        t, s = query.shape[-3], key.shape[-3]
        if t != s and not _asks_for_no_position(attend) and (query_tokens is None or key_tokens is None):
            told = "this attention asks where they stand, which Flax does not tell: give query_tokens and key_tokens."
            raise ValueError(f"There are {t} queries and {s} keys, and {told}")
        query_at = Tokens.arange(t) if query_tokens is None else query_tokens
        key_at = Tokens.arange(s) if key_tokens is None else key_tokens
        if is_causal:
            mask = jnp.tri(t, s, dtype=bool) & (True if mask is None else mask.astype(bool))
        # Flax's own make_causal_mask is of floats.
        mask = None if mask is None else mask.astype(bool)

        def one(q, k, v, mask, bias):
            return _with(attend, mask, bias)(q, k, v, query_at, key_at)

        dtype = jnp.result_type(query, key, value) if dtype is None else dtype
        query, key, value = (x.astype(dtype) for x in (query, key, value))
        return _over_batches(one, query, key, value, mask, bias)

    return attention_fn


def dot_product_attention(
    query,
    key,
    value,
    bias=None,
    mask=None,
    *,
    scale=None,
    is_causal: bool = False,
    query_seq_lengths=None,
    key_value_seq_lengths=None,
    local_window_size: int | tuple[int, int] | None = None,
    implementation: str | None = None,
    return_residual: bool = False,
    attention: Callable = core.dot_product_attention,
):
    r"""`jax.nn.dot_product_attention` with minilm's mathematics, and with any variant of it.

    $$ O = \operatorname{softmax}(\mathrm{scale}\; Q K^\top + B) V $$

    Where that is defined, this is the same. It differs on purpose in three things: the softmax of float64 is in
    float64 (there it is always in float32); a query whose keys are all masked gets 0 (there the mean of all values),
    with a finite gradient; and values may be of another width than keys (there an error).

    As there, `is_causal` and windows go by indices from the top left: a single query against a cache would see its
    first key alone. For decoding, take a rule of positions: `Dense(Causal())(q, k, v, query, key)`.

    Args:
      query: `(b, t, n, k)` or `(t, n, k)`, with n query heads.
      key, value: `(b, s, g, k)` and `(b, s, g, v)`, or without b; n is a multiple of g.
      bias: added to the scaled scores; broadcasts to `(b, n, t, s)`.
      mask: booleans, True where a query may see a key; broadcasts likewise.
      scale: 1/√k unless given. It multiplies the queries, and is rounded with them where their dtype is short.
      is_causal: whether the query at index t sees keys up to index t alone.
      query_seq_lengths, key_value_seq_lengths: `(b,)`, how many of each sequence are real; the queries behind get 0.
      local_window_size: how many keys are seen to the left and to the right, the query's own index not counted.
      implementation: None or 'xla'.
      return_residual: False.
      attention: any `attention(q, k, v, mask, bias)` of one sequence, in minilm's layout.
    Returns:
      `(b, t, n, v)` or `(t, n, v)`, in the dtype of the values.
    Raises:
      ValueError: for a residual, cuDNN, a mask that is not of booleans, or arrays that do not fit each other.
    """
    query, key, value = (jnp.asarray(x) for x in (query, key, value))
    _check(query, key, value, mask, implementation, return_residual)
    single = query.ndim == 3
    query, key, value = (x[None] if single else x for x in (query, key, value))
    t, s, width = query.shape[1], key.shape[1], query.shape[3]
    distance = jnp.arange(t)[:, None] - jnp.arange(s)
    seen = jnp.ones((t, s), bool) if mask is None else jnp.asarray(mask)
    if is_causal:
        seen &= distance >= 0
    if local_window_size is not None:
        left, right = (local_window_size,) * 2 if isinstance(local_window_size, int) else local_window_size
        seen &= (distance <= left) & (distance >= -right)
    if query_seq_lengths is not None:
        seen &= _real(t, query_seq_lengths)[..., :, None]
    if key_value_seq_lengths is not None:
        seen &= _real(s, key_value_seq_lengths)[..., None, :]
    if scale is not None:
        query = (query * (scale * math.sqrt(width))).astype(query.dtype)

    def one(q, k, v, mask, bias):
        return attention(q, k, v, mask, 0.0 if bias is None else bias)

    o = _over_batches(one, query, key, value, seen, None if bias is None else jnp.asarray(bias))
    return o[0] if single else o


def _over_batches(attend, query, key, value, mask, bias):
    """`attend(q, k, v, mask, bias)` of one sequence in minilm's layout, over `(..., length, heads, width)`."""
    *batch, t, n, width = query.shape
    s, g = key.shape[-3:-1]

    def grouped(x):
        return None if x is None else jnp.broadcast_to(x, (*batch, n, t, s)).reshape(*batch, g, n // g, t, s)

    q = jnp.moveaxis(query.reshape(*batch, t, g, n // g, width), -4, -2)
    k, v = (jnp.swapaxes(x, -2, -3) for x in (key, value))
    for _ in batch:
        attend = jax.vmap(attend)
    o = attend(q, k, v, grouped(mask), grouped(bias))
    return jnp.moveaxis(o, -2, -4).reshape(*batch, t, n, value.shape[-1])


def _with(attend, mask, bias):
    """The attention, under one more mask and one more bias `(g, r, t, s)`."""
    if mask is None and bias is None:
        return attend
    if isinstance(attend, core.Dense):
        return dataclasses.replace(attend, attention=Partial(_under, attend.attention, mask, bias))
    if hasattr(attend, "attend"):
        return dataclasses.replace(attend, attend=_with(attend.attend, mask, bias))
    expected = "a mask or a bias from Flax can be joined to those of a Dense alone"
    raise ValueError(f"{type(attend).__name__} asks rules of positions; {expected}: give Flax none, or use Dense.")


def _under(attention, given_mask, given_bias, q, k, v, mask, bias):
    mask = mask if given_mask is None else mask & given_mask
    return attention(q, k, v, mask, bias if given_bias is None else bias + given_bias)


def _asks_for_no_position(attend):
    return isinstance(attend, core.Dense) and isinstance(attend.rule, Everything) and attend.bias is None


def _real(length, lengths):
    """Which of `length` are real, `(b, 1, length)`."""
    return jnp.arange(length) < jnp.asarray(lengths)[:, None, None]


def _check(query, key, value, mask, implementation, return_residual):
    if implementation not in (None, "xla") or return_residual:
        raise ValueError(
            f"Neither kernels nor residuals are had here: implementation=None and return_residual=False were expected, "
            f"but they are {implementation!r} and {return_residual}; see minilm.layers.attention.blockwise."
        )
    if mask is not None and jnp.asarray(mask).dtype != bool:
        raise ValueError(
            f"A mask of booleans was expected, but it is of {jnp.asarray(mask).dtype}; add floats as bias."
        )
    shapes = [x.shape for x in (query, key, value)]
    if query.ndim not in (3, 4) or not query.ndim == key.ndim == value.ndim or key.shape[:-1] != value.shape[:-1]:
        raise ValueError(
            f"(b, t, n, k), (b, s, g, k), (b, s, g, v), all with b or without, were expected, not {shapes}."
        )
    if query.shape[:-3] != key.shape[:-3] or query.shape[-1] != key.shape[-1] or query.shape[-2] % key.shape[-2]:
        fitting = "equal batches, equal widths of query and key, and n a multiple of g were expected"
        raise ValueError(f"In (b, t, n, k), (b, s, g, k), {fitting}, but the shapes are {shapes}.")
    if not query.dtype == key.dtype == value.dtype:
        raise ValueError(
            f"One dtype was expected, but they are {query.dtype}, {key.dtype}, {value.dtype}; convert them."
        )
