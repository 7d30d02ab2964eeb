"""Attention by kernels equals attention at once, in values and gradients, and is compiled for what is not here."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.export import DisabledSafetyCheck, export
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

from minilm.layers.attention.biases import Alibi
from minilm.layers.attention.core import Dense, scores
from minilm.layers.attention.masks import (
    Causal,
    Chunked,
    Dilated,
    Everything,
    Padding,
    Prefix,
    SameDocument,
    SlidingWindow,
)
from minilm.layers.attention.multi_head import init_multi_head, multi_head
from minilm.layers.attention.pallas import Pallas, pallas_attention
from minilm.shapes import Tokens
from tests.programs import arithmetic, dots, equations
from tests.strategies import keys, normal, seeds
from tests.test_blockwise import ALIBI, G, K, R, S, T, V, drawn, gradient_of_a_gradient, tokens
from tests.tolerances import FORMULA, LAYER, assert_close


def dense_attention(q, k, v, query, key, rule, bias=None):
    """As the kernels', the output and lse, with 0 for an lse of −∞."""
    mask = rule(query, key) & (key.position >= 0)
    a = scores(q, k) + (0 if bias is None else bias(query, key))
    sees = mask.any(1)
    lse = jax.nn.logsumexp(jnp.where(mask | ~sees[:, None], a, -jnp.inf), axis=-1)
    return Dense(rule, bias)(q, k, v, query, key), jnp.where(sees, lse, 0)


def kernel_attention(*arguments, t_block=4, s_block=3):
    o, lse = pallas_attention(*arguments, t_block=t_block, s_block=s_block)
    return o, jnp.where(jnp.isneginf(lse), 0, lse)


@partial(jax.jit, static_argnums=0)
def value_and_gradients(attention, q, k, v, d_o, query, key, rule, bias=None):
    """The output and lse, and the gradients of q, k, v and the bias. That of lse is the output's first column."""
    (o, lse), pullback = jax.vjp(lambda q, k, v, b: attention(q, k, v, query, key, rule, b), q, k, v, bias)
    return o, lse, pullback((d_o, d_o[..., 0].astype(lse.dtype)))


@pytest.mark.parametrize(
    ("rule_of", "bias"),
    [
        (lambda n: Causal() & SameDocument(), None),
        (lambda n: Causal() & SlidingWindow(n) | Prefix(n // 3), ALIBI),
        pytest.param(lambda n: ~(Causal() | Dilated(n)), ALIBI, marks=pytest.mark.slow),
    ],
    ids=["packed documents", "window and prefix, ALiBi", "complement, ALiBi"],
)
@given(n=st.integers(1, 9), key=keys(), seed=seeds, shuffled=st.booleans())
def test_kernels_equal_dense(rule_of, bias, n, key, seed, shuffled):
    rng = np.random.default_rng(seed)
    arguments = *drawn(key), tokens(rng, T, shuffled), tokens(rng, S, shuffled), rule_of(n), bias
    expected = value_and_gradients(dense_attention, *arguments)
    assert_close(value_and_gradients(kernel_attention, *arguments), expected, FORMULA)


@pytest.mark.parametrize("blocks", [(64, 64), pytest.param((1, 5), marks=pytest.mark.slow)], ids=str)
def test_any_blocks_give_the_same_where_queries_stand_behind_most_keys(blocks):
    arguments = *drawn(jax.random.key(2)), Tokens.arange(T, start=4), Tokens.arange(S), Causal()
    attention = partial(kernel_attention, t_block=blocks[0], s_block=blocks[1])
    assert_close(value_and_gradients(attention, *arguments), value_and_gradients(dense_attention, *arguments), FORMULA)


def packed(lengths):
    """Documents of these lengths."""
    return Tokens(*(jnp.array(np.concatenate(x)) for x in ([np.arange(n) for n in lengths], document_of(lengths))))


def document_of(lengths):
    return [np.full(n, i) for i, n in enumerate(lengths)]


def test_a_query_that_sees_nothing_gets_zero_and_passes_no_gradient():
    q, k, v, d_o = drawn(jax.random.key(4))
    where, rule = (packed([5, 0, 0, T - 5]), packed([5, S - 5])), Causal() & SameDocument()
    o, _, (d_q, d_k, d_v, _) = value_and_gradients(kernel_attention, q, k, v, d_o, *where, rule)
    assert not o[:, :, 5:].any()
    assert not d_q[:, :, 5:].any()
    assert not d_v[:, 5:].any()
    assert all(np.isfinite(x).all() for x in (d_q, d_k))
    assert o[:, :, :5].all()
    lse = pallas_attention(q, k, v, *where, rule, t_block=4, s_block=3)[1]
    assert (np.isneginf(lse) == (np.arange(T) >= 5)).all()


def test_tiles_beyond_reach_are_never_visited():
    """What is not visited cannot be seen: infinite keys there leave no NaN, as 0 · ∞ in a visited tile would."""
    (q, k, v, d_o), rule, where = (
        drawn(jax.random.key(6)),
        Causal() & SameDocument(),
        (packed([4, 4, 5]), packed([6, 6, 5])),
    )
    seen = np.pad(rule(*where), ((0, 3), (0, 1))).reshape(4, 4, 6, 3).any((1, 3))
    for tile, visited in enumerate(seen):
        poisoned = v.at[:, np.repeat(~visited, 3)[:S]].set(jnp.nan)
        o, *_ = value_and_gradients(kernel_attention, q, k, poisoned, d_o, *where, rule)
        assert np.isfinite(o[:, :, 4 * tile : 4 * tile + 4]).all()


def test_products_are_of_half_precision_and_their_sums_are_not():
    where = Tokens.arange(T, start=4), Tokens.arange(S), Causal()
    half = drawn(jax.random.key(7), jnp.bfloat16)
    jaxpr, out = jax.make_jaxpr(value_and_gradients, static_argnums=0, return_shape=True)(
        kernel_attention, *half, *where
    )
    assert set(dots(jaxpr.jaxpr)) == {("bfloat16", "bfloat16", "float32")}
    assert "bfloat16" not in arithmetic(jaxpr.jaxpr)
    assert [leaf.dtype for leaf in jax.tree.leaves(out)] == [half[0].dtype, jnp.float32, *3 * (half[0].dtype,)]


@pytest.mark.slow
def test_in_half_precision_kernels_are_near_to_dense_on_the_same_numbers():
    where = Tokens.arange(T, start=4), Tokens.arange(S), Causal()
    half = drawn(jax.random.key(7), jnp.bfloat16)
    exact = value_and_gradients(dense_attention, *(x.astype(jnp.float64) for x in half), *where)
    assert_close(value_and_gradients(kernel_attention, *half, *where), exact, LAYER, jnp.bfloat16)


def test_multi_head_is_the_same_with_a_place_and_a_prefix_for_each_sequence():
    key = jax.random.key(9)
    params = init_multi_head(key, 6, g=G, r=R, k=K, v=V, dtype=jnp.float64)
    x = normal(key, (2, T, 6))
    start = 3 * jnp.arange(2)[:, None]
    where = Tokens(jnp.maximum(jnp.arange(T) - start, -1), jnp.broadcast_to(start, (2, T)))

    @partial(jax.jit, static_argnums=0)
    def value_and_gradient(attend, x):
        def one(x, n):
            return multi_head(params, x, where, attend(Causal() & SlidingWindow(4) | Prefix(n), ALIBI))

        y, pullback = jax.vjp(lambda x: jax.vmap(partial(one, x))(jnp.array([1, 5])), x)
        return y, pullback(y)

    kernels = partial(Pallas, t_block=4, s_block=3)
    assert_close(value_and_gradient(kernels, x), value_and_gradient(Dense, x), FORMULA)


def test_other_numbers_in_a_rule_are_not_compiled_again():
    q, k, v, _ = drawn(jax.random.key(8))
    attend = jax.jit(lambda a: a(q, k, v, Tokens.arange(T), Tokens.arange(S)))
    for width in (1, 2, 9):
        attend(Pallas(Causal() & SlidingWindow(width)))
    assert attend._cache_size() == 1


# What interpreting hides, compiling tells: shapes of blocks, memory spaces, operations that a language does not have.
GPU = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
TPU = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")  # by JAX 0.12, and not yet gone
@pytest.mark.parametrize(
    ("platform", "device", "call"), [("cuda", GPU, "__gpu$xla.gpu.triton"), ("tpu", TPU, "tpu_custom_call")]
)
@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
def test_kernels_and_their_gradients_are_compiled_for_another_platform(platform, device, call, dtype):
    """Two sequences of 300 tokens, which no tile divides, of a length and a prefix each, under every rule and ALiBi."""
    shapes = (2, 2, 3, 300, 64), (2, 2, 300, 64), (2, 2, 300, 128), (2, 2, 3, 300, 128)
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    numbers, slopes = jax.ShapeDtypeStruct((2, 300), jnp.int32), jax.ShapeDtypeStruct((2, 3), jnp.float32)

    def one(slopes, n, q, k, v, d_o, query, key):
        rule = (Causal() & SlidingWindow(n) & Padding(n) & SameDocument() | Prefix(n)) & ~Dilated(3) | Chunked(5)
        return value_and_gradients(pallas_attention, q, k, v, d_o, query, key, rule & Everything(), Alibi(slopes))

    many = jax.jit(jax.vmap(one, in_axes=(None, 0, *6 * (0,))))
    program = export(many, platforms=[platform], disabled_checks=[DisabledSafetyCheck.custom_call(call)])
    lengths, where = jax.ShapeDtypeStruct((2,), jnp.int32), Tokens(numbers, numbers)
    with use_abstract_mesh(AbstractMesh((1,), ("x",), (AxisType.Auto,), abstract_device=device)):
        assert program(slopes, lengths, *arrays, where, where).mlir_module().count(f"@{call}") == 3


def test_a_second_derivative_is_refused_as_in_tiles():
    with pytest.raises(ValueError, match="no second derivative"):
        gradient_of_a_gradient(Pallas(Causal()))


def test_on_a_cpu_the_kernels_are_interpreted():
    q, k, v, _ = drawn(jax.random.key(8))
    attend = partial(Pallas(Causal()), query=Tokens.arange(T), key=Tokens.arange(S))
    assert "pallas_call" in {e.primitive.name for e in equations(jax.make_jaxpr(attend)(q, k, v).jaxpr)}
    assert "custom_call" not in jax.jit(attend).lower(q, k, v).as_text()
