"""Laws of the activations beyond the table: symmetries, and what happens where they saturate or rows are empty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.layers import activation
from minilm.reference import activation as reference
from tests.strategies import arrays
from tests.tolerances import FORMULA, REDUCTION, assert_close

ELEMENTWISE = ("relu", "squared_relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")
ROWWISE = ("softmax", "log_softmax", "logsumexp")
FAR = np.array([-1e30, -800.0, -90.0, -40.0, -6.5, -0.25, 0.0, 0.5, 5.5, 40.0, 90.0, 800.0])


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_values_and_gradients_hold_where_the_function_saturates(name):
    x = FAR[1:]
    expected, saved = getattr(reference, name)(x)
    y, vjp = jax.vjp(getattr(activation, name), jnp.asarray(x))
    assert_close(y, expected, FORMULA)
    assert_close(vjp(jnp.ones(len(x)))[0], getattr(reference, f"{name}_backward")(saved, np.ones(len(x))), FORMULA)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=["bf16", "f32"])
@pytest.mark.parametrize("name", [name for name in ELEMENTWISE if name != "squared_relu"])
def test_gradients_are_finite_at_any_input(name, dtype):
    gradient = jax.vmap(jax.grad(getattr(activation, name)))(jnp.asarray(FAR[1:], dtype))
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_nan_stays_a_nan(name):
    assert jnp.isnan(getattr(activation, name)(jnp.array(jnp.nan)))


@pytest.mark.parametrize("name", ["gelu", "silu", "gelu_tanh"])
@given(x=arrays(3, 5))
def test_a_gated_identity_and_its_mirror_image_differ_by_the_identity(name, x):
    f, x = getattr(activation, name), jnp.asarray(x)  # x g(x) with g(x) + g(-x) = 1
    assert_close(f(x) - f(-x), x, FORMULA)


@given(x=arrays(7))
def test_tanh_is_a_stretched_sigmoid(x):
    x = jnp.asarray(x)
    assert_close(activation.tanh(x), 2 * activation.sigmoid(2 * x) - 1, FORMULA)


def test_the_tanh_form_of_gelu_is_off_by_at_most_five_ten_thousandths():
    x = jnp.linspace(-8, 8, 4001)
    assert 1e-4 < jnp.abs(activation.gelu(x) - activation.gelu_tanh(x)).max() < 5e-4


@given(x=arrays(2, 3, 5))
def test_softmax_is_positive_and_adds_up_to_one_over_the_last_axis(x):
    y = activation.softmax(jnp.asarray(x))
    assert (y > 0).all()
    assert_close(y.sum(-1), jnp.ones((2, 3)), REDUCTION)


@given(x=arrays(2, 5), shift=st.integers(-1000, 1000))
def test_a_shift_moves_no_weight(x, shift):
    x = jnp.asarray(x)
    assert_close(activation.softmax(x + shift), activation.softmax(x), FORMULA)
    assert_close(activation.log_softmax(x + shift), activation.log_softmax(x), FORMULA)
    assert_close(activation.logsumexp(x + shift) - shift, activation.logsumexp(x), FORMULA)


@given(x=arrays(2, 5))
def test_log_softmax_is_the_logarithm_of_softmax(x):
    x = jnp.asarray(x)
    assert_close(jnp.exp(activation.log_softmax(x)), activation.softmax(x), FORMULA)
    assert_close(x - activation.logsumexp(x)[:, None], activation.log_softmax(x), FORMULA)


@given(x=arrays(4, 3))
def test_the_gradient_of_logsumexp_is_softmax(x):
    x = jnp.asarray(x)
    assert_close(jax.grad(lambda x: activation.logsumexp(x).sum())(x), activation.softmax(x), FORMULA)


@given(x=arrays(2, 6), seed=st.integers(0, 999))
def test_masking_an_entry_is_removing_it(x, seed):
    x, where = jnp.asarray(x), np.random.default_rng(seed).random(6) < 0.5
    y = activation.softmax(x, where=jnp.asarray(where))
    assert (y[:, ~where] == 0).all()
    assert_close(y[:, where], activation.softmax(x[:, where]), FORMULA)


@pytest.mark.parametrize("empty", [jnp.nan, jnp.inf, -jnp.inf, 3.0])
def test_a_fully_masked_row_gives_zeros_with_a_gradient_of_zero_whatever_stands_in_it(empty):
    x = jnp.array([[1.0, 2.0, -1.0], [empty, empty, empty]])
    where = jnp.array([[True, True, False], [False, False, False]])
    y, vjp = jax.vjp(lambda x: activation.softmax(x, where=where), x)
    (gradient,) = vjp(jnp.array([[1.0, -2.0, 3.0], [4.0, 5.0, 6.0]]))
    assert (y[1] == 0).all()
    assert (gradient[1] == 0).all()
    assert (gradient[0, :2] != 0).all()
    assert gradient[0, 2] == 0


def test_a_row_of_minus_infinity_alone_is_as_good_as_masked():
    x = jnp.full((1, 3), -jnp.inf)
    assert (activation.softmax(x) == 0).all()
    assert (activation.logsumexp(x) == -jnp.inf).all()
    for function in (activation.softmax, activation.logsumexp):
        assert (jax.grad(lambda x, function=function: function(x).sum())(x) == 0).all()


def test_by_hand_too_minus_infinity_adds_nothing_to_a_sum_of_exponentials():
    x = np.array([[-np.inf, 1.5, -np.inf, 0.5], [-np.inf] * 4])
    y, saved = reference.logsumexp(x)
    gradient = reference.logsumexp_backward(saved, np.ones(2))
    np.testing.assert_array_equal(y, [reference.logsumexp(x[:1, 1::2])[0][0], -np.inf])
    assert_close(gradient, jax.grad(lambda x: activation.logsumexp(x).sum())(jnp.asarray(x)), FORMULA)


@pytest.mark.parametrize("name", ROWWISE)
def test_rows_far_from_zero_overflow_nowhere(name):
    near = jnp.array([0.0, -1.0, -3.0], jnp.float32)
    shift = 0.0 if name != "logsumexp" else 2.0**20
    far, f = near + 2.0**20, getattr(activation, name)
    assert_close(f(far), f(near) + shift, REDUCTION, jnp.float32)
    assert_close(jax.grad(lambda x: f(x).sum())(far), jax.grad(lambda x: f(x).sum())(near), REDUCTION, jnp.float32)


@pytest.mark.parametrize("name", ROWWISE)
def test_a_long_row_in_bfloat16_is_summed_in_float32(name):
    x = jnp.asarray(np.random.default_rng(0).standard_normal(5000), jnp.bfloat16)
    exact, _ = (
        getattr(reference, name)(np.asarray(x, np.float64))
        if name != "softmax"
        else (jax.nn.softmax(x.astype(float)), 0)
    )
    assert_close(getattr(activation, name)(x), exact, 1, jnp.bfloat16)


@pytest.mark.parametrize("name", ["softmax", "logsumexp"])
@given(x=arrays(2, 3))
def test_forward_and_second_derivatives_exist_and_agree(name, x):
    f, x = getattr(activation, name), jnp.asarray(x)
    w = jnp.arange(1.0, 1 + f(x).size).reshape(f(x).shape)
    forward = jax.jacfwd(jax.grad(lambda x: (w * f(x)).sum()))(x)
    backward = jax.jacrev(jax.jacrev(lambda x: (w * f(x)).sum()))(x)
    assert_close(forward, backward, FORMULA)


@pytest.mark.parametrize("shape", [(8, 500), (300, 3)], ids=str)
@pytest.mark.parametrize("name", ROWWISE)
def test_bfloat16_rows_are_computed_in_float32_and_rounded_once(name, shape):
    x, f = jnp.asarray(4 * np.random.default_rng(1).standard_normal(shape), jnp.bfloat16), getattr(activation, name)
    np.testing.assert_array_equal(f(x), f(x.astype(jnp.float32)).astype(jnp.bfloat16))


def test_entries_too_far_apart_for_an_exponential_leave_the_largest_alone():
    x = jnp.array([[-2000.0, 0.0, -4000.0], [1000.0, -3000.0, 5000.0]])
    np.testing.assert_array_equal(activation.softmax(x), [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(activation.logsumexp(x), [0.0, 5000.0])
    np.testing.assert_array_equal(activation.log_softmax(x), [[-2000.0, 0.0, -4000.0], [-4000.0, -8000.0, 0.0]])
