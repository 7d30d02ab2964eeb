"""Laws of the norms beyond the table: what they forget, what they keep, and that no digit is lost far from zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.layers.normalization import init_layer_norm, init_rms_norm, layer_norm, rms_norm
from minilm.reference import normalization as reference
from tests.strategies import seeds
from tests.tolerances import FORMULA, LAYER, REDUCTION, assert_close

NORMS = {"layer_norm": (layer_norm, init_layer_norm), "rms_norm": (rms_norm, init_rms_norm)}
every_norm = pytest.mark.parametrize("name", NORMS)


def rows(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


@given(seed=seeds)
def test_layer_norm_gives_rows_of_mean_zero_and_variance_one(seed):
    y = layer_norm(init_layer_norm(5), rows(seed, 2, 3, 5), eps=0.0)
    assert_close([y.mean(-1), (y**2).mean(-1)], [jnp.zeros((2, 3)), jnp.ones((2, 3))], FORMULA)


@given(seed=seeds)
def test_rms_norm_gives_rows_of_mean_square_one(seed):
    assert_close((rms_norm(init_rms_norm(5), rows(seed, 2, 3, 5), eps=0.0) ** 2).mean(-1), jnp.ones((2, 3)), FORMULA)


@every_norm
@given(seed=seeds, factor=st.sampled_from([1e-3, 0.5, 7.0, 1e4]))
def test_a_stretched_row_is_normalised_to_the_same(name, seed, factor):
    norm, init = NORMS[name]
    x = rows(seed, 3, 4)
    assert_close(norm(init(4), factor * x, eps=0.0), norm(init(4), x, eps=0.0), FORMULA)


@given(seed=seeds, shift=st.integers(-100, 100))
def test_layer_norm_forgets_a_shift_and_rms_norm_does_not(seed, shift):
    x = rows(seed, 3, 4)
    assert_close(layer_norm(init_layer_norm(4), x + shift), layer_norm(init_layer_norm(4), x), FORMULA)
    if shift:
        moved = rms_norm(init_rms_norm(4), x + shift) - rms_norm(init_rms_norm(4), x)
        assert jnp.abs(moved).max() > 0.01


@given(seed=seeds)
def test_the_two_norms_agree_on_rows_of_mean_zero(seed):
    x = rows(seed, 3, 4)
    x -= x.mean(-1, keepdims=True)
    assert_close(rms_norm(init_rms_norm(4), x, eps=0.1), layer_norm(init_layer_norm(4), x, eps=0.1), FORMULA)


@every_norm
@given(seed=seeds)
def test_the_gradient_is_orthogonal_to_the_row_and_for_layer_norm_to_a_shift(name, seed):
    norm, init = NORMS[name]
    x, w = rows(seed, 2, 3, 5)
    gradient = jax.grad(lambda x: (w * norm(init(5), x, eps=0.0)).sum())(x)
    size = jnp.abs(gradient * x).sum(-1)
    assert_close([(gradient * x).sum(-1), size], [jnp.zeros(3), size], FORMULA)
    if name == "layer_norm":
        assert_close([gradient.sum(-1), size], [jnp.zeros(3), size], FORMULA)


@every_norm
@pytest.mark.parametrize("constant", [0.0, 1e-20, 3.0, 1e4])
def test_a_constant_row_gives_finite_values_and_gradients(name, constant):
    norm, init = NORMS[name]
    x = jnp.full((2, 3), constant, jnp.float32)
    assert jnp.isfinite(norm(init(3), x)).all()
    assert jnp.isfinite(jax.grad(lambda x: (norm(init(3), x) * jnp.arange(3.0, dtype=jnp.float32)).sum())(x)).all()


@every_norm
@given(seed=seeds)
def test_no_digit_is_lost_where_the_mean_is_much_larger_than_the_deviation(name, seed):
    norm, init = NORMS[name]
    x = (1e4 + 3 * rows(seed, 4, 64)).astype(jnp.float32)
    exact, _ = getattr(reference, name)(jax.tree.map(np.asarray, init(64)), np.asarray(x, np.float64))
    assert_close(norm(init(64), x) * 2.0**-12, exact * 2.0**-12, REDUCTION * 1e4 / 3, jnp.float32)


@every_norm
def test_statistics_of_a_long_bfloat16_row_are_taken_in_float32(name):
    norm, init = NORMS[name]
    x = (rows(0, 4096) + 2).astype(jnp.bfloat16)
    exact, _ = getattr(reference, name)(jax.tree.map(np.asarray, init(4096)), np.asarray(x, np.float64))
    assert_close(norm(init(4096), x), exact, 1, jnp.bfloat16)


@every_norm
def test_squares_that_float16_does_not_hold_are_taken_in_float32(name):
    norm, init = NORMS[name]
    y = norm(init(2), jnp.array([300.0, -300.0], jnp.float16))
    assert_close(y, np.array([1.0, -1.0]), 1, jnp.float16)


@every_norm
@given(seed=seeds)
def test_parameters_in_float32_suffice_for_input_of_any_dtype(name, seed):
    norm, init = NORMS[name]
    for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
        x = rows(seed, 2, 5).astype(dtype)
        y, vjp = jax.vjp(norm, init(5), x)
        d_params, d_x = vjp(jnp.ones_like(y))
        assert y.dtype == d_x.dtype == dtype
        assert d_params.scale.dtype == jnp.float32
        exact, _ = getattr(reference, name)(jax.tree.map(np.asarray, init(5)), np.asarray(x, np.float64))
        assert_close(y, exact, LAYER, jnp.bfloat16 if dtype == jnp.bfloat16 else jnp.float32)
