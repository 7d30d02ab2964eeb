"""Laws of the matrix product: its weight's dtype is the compute dtype, forwards and backwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from minilm.layers.feed_forward import init_glu, init_mlp, mlp, swiglu
from minilm.layers.linear import init_linear, linear, matmul
from tests.programs import dots
from tests.strategies import seeds
from tests.tolerances import REDUCTION, assert_close


def products_of_training(f, params, x):
    return list(dots(jax.make_jaxpr(jax.grad(lambda *a: f(*a).sum(), argnums=(0, 1)))(params, x).jaxpr))


def in_bfloat16(params):
    return jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)


@given(seed=seeds)
def test_a_bfloat16_weight_multiplies_rounded_operands_exactly_and_returns_float32(seed):
    rng = np.random.default_rng(seed)
    x, d_y = (
        jnp.asarray(rng.standard_normal((2, 3, 40)), jnp.float32),
        jnp.asarray(rng.standard_normal((2, 3, 5)), jnp.float32),
    )
    w = jnp.asarray(rng.standard_normal((40, 5)), jnp.bfloat16)
    y, vjp = jax.vjp(matmul, x, w)
    d_x, d_w = vjp(d_y)
    assert (y.dtype, d_x.dtype, d_w.dtype) == (jnp.float32, jnp.float32, jnp.bfloat16)
    x, w, d_y = (np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64) for a in (x, w, d_y))
    assert_close(y, x @ w, REDUCTION, jnp.float32)
    assert_close(d_x, d_y @ w.T, REDUCTION, jnp.float32)
    assert_close(d_w, np.einsum("bti,bto->io", x, d_y), 1, jnp.bfloat16)


LAYERS = {
    "matmul": (lambda key: init_linear(key, 4, 3).w, lambda w, x: matmul(x, w), 3),
    "linear": (lambda key: init_linear(key, 4, 3), linear, 3),
    "mlp": (lambda key: init_mlp(key, 4, 6), mlp, 6),
    "swiglu": (lambda key: init_glu(key, 4, 6), swiglu, 9),
}


@pytest.mark.parametrize("name", LAYERS)
def test_all_products_of_a_bfloat16_layer_multiply_bfloat16_and_sum_in_float32(name):
    init, f, count = LAYERS[name]
    x = jnp.ones((2, 5, 4), jnp.float32)
    found = products_of_training(f, in_bfloat16(init(jax.random.key(0))), x)
    assert found == [("bfloat16", "bfloat16", "float32")] * count


@pytest.mark.parametrize("name", LAYERS)
def test_every_product_is_of_two_matrices_with_all_leading_axes_flattened(name):
    init, f, _ = LAYERS[name]
    jaxpr = jax.make_jaxpr(jax.grad(lambda p, x: f(p, x).sum()))(
        init(jax.random.key(0)), jnp.ones((2, 5, 4), jnp.float32)
    )
    assert set(dots(jaxpr.jaxpr, of="ndim")) == {("2", "2", "2")}
    assert set(dots(jaxpr.jaxpr)) == {("float32", "float32", "float32")}


def test_a_bias_may_be_absent_and_has_no_gradient_then():
    params = init_linear(jax.random.key(0), 3, 2, bias=False)
    assert params.b is None
    assert jax.grad(lambda p: linear(p, jnp.ones((4, 3), jnp.float32)).sum())(params).b is None


def test_the_initial_bias_is_there_unless_refused_and_is_zero():
    b = init_linear(jax.random.key(0), 3, 2).b
    assert b is not None
    np.testing.assert_array_equal(b, np.zeros(2))


@pytest.mark.parametrize("of_x", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("of_w", [jnp.bfloat16, jnp.float32])
def test_output_and_gradient_have_the_dtype_of_the_input_whatever_those_of_weight_and_bias(of_x, of_w):
    params = init_linear(jax.random.key(0), 3, 2)
    params = params._replace(w=params.w.astype(of_w), b=jnp.ones(2, jnp.float32))
    y, vjp = jax.vjp(linear, params, jnp.ones((4, 3), of_x))
    d_params, d_x = vjp(y)
    assert (y.dtype, d_x.dtype, d_params.w.dtype) == (of_x, of_x, of_w)


@pytest.mark.parametrize("rows", [2, 9])
@pytest.mark.parametrize(("i", "o"), [(3, 7), (7, 3)])
def test_the_product_of_a_weight_s_gradient_has_the_narrower_width_as_its_rows(i, o, rows):
    x, w = jnp.ones((rows, i)), jnp.ones((i, o))
    *_, (_, _, result) = dots(jax.make_jaxpr(jax.grad(lambda w: matmul(x, w).sum()))(w).jaxpr, of="shape")
    assert result == str((3, 7))
