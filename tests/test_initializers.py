"""Laws of the initial weights: the variance each rule promises, orthogonality, determinism, dtype."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import initializers
from tests.strategies import keys
from tests.tolerances import LAYER, assert_close, unit_roundoff

SHAPE = (300, 70)
IN, OUT = SHAPE
# name: its keywords, the variance it promises, and the largest value it can give (in deviations)
RULES = {
    "normal": ({"fan_in": IN}, 1 / IN, math.inf),
    "truncated_normal": ({"fan_in": IN}, 1 / IN, 2 / 0.8796256610342398),
    "uniform": ({"fan_in": IN}, 1 / IN, math.sqrt(3)),
    "glorot_normal": ({"fan_in": IN, "fan_out": OUT}, 2 / (IN + OUT), math.inf),
    "glorot_uniform": ({"fan_in": IN, "fan_out": OUT}, 2 / (IN + OUT), math.sqrt(3)),
    "he_normal": ({"fan_in": IN}, 2 / IN, math.inf),
    "he_uniform": ({"fan_in": IN}, 2 / IN, math.sqrt(3)),
}
every_rule = pytest.mark.parametrize("name", RULES)


@every_rule
@settings(max_examples=5)
@given(key=keys())
def test_weights_have_mean_zero_the_promised_variance_and_the_promised_bound(name, key):
    keywords, variance, bound = RULES[name]
    w = np.asarray(getattr(initializers, name)(key, SHAPE, **keywords), np.float64) / math.sqrt(variance)
    assert abs(w.mean()) < 6 / math.sqrt(w.size)
    assert abs((w**2).mean() - 1) < 6 * math.sqrt(2 / w.size)  # no rule has a heavier tail than the normal's
    assert 0.9 * min(bound, 3.5) < np.abs(w).max() < bound * (1 + LAYER * unit_roundoff(jnp.float32))


@every_rule
@settings(max_examples=5)
@given(key=keys())
def test_the_same_key_draws_the_same_weights_and_another_key_others(name, key):
    keywords, _, _ = RULES[name]
    draw = getattr(initializers, name)
    assert (draw(key, (3, 5), **keywords) == draw(key, (3, 5), **keywords)).all()
    assert (draw(key, (3, 5), **keywords) != draw(jax.random.fold_in(key, 1), (3, 5), **keywords)).any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", [*RULES, "orthogonal"])
def test_weights_come_in_the_dtype_asked_for_and_in_float32_unasked(name, dtype):
    keywords = RULES[name][0] if name in RULES else {}
    draw, key = getattr(initializers, name), jax.random.key(0)
    assert draw(key, (2, 3), **keywords).dtype == jnp.float32
    assert draw(key, (2, 3), **keywords, dtype=dtype).dtype == dtype


@pytest.mark.parametrize("name", ["normal", "truncated_normal", "uniform"])
def test_a_stated_deviation_replaces_the_rule(name):
    draw, key = getattr(initializers, name), jax.random.key(1)
    assert_close(draw(key, (3, 5), deviation=0.5), draw(key, (3, 5), fan_in=4), LAYER, jnp.float32)
    assert_close(draw(key, (3, 5)), draw(key, (3, 5), deviation=1.0), LAYER, jnp.float32)


@settings(max_examples=6)
@given(key=keys(), shape=st.sampled_from([(4, 4), (3, 7), (6, 2)]))
def test_orthogonal_rows_or_columns_are_orthonormal(key, shape):
    w = initializers.orthogonal(key, shape, dtype=jnp.float64)
    assert w.shape == shape
    gram = w.T @ w if shape[0] >= shape[1] else w @ w.T
    assert_close(gram, jnp.eye(min(shape)), LAYER)


def test_orthogonal_matrices_prefer_no_sign():
    w = jax.vmap(lambda key: initializers.orthogonal(key, (3, 3)))(jax.random.split(jax.random.key(0), 2000))
    positive = np.asarray(w > 0).mean(0)
    assert np.abs(positive - 0.5).max() < 6 * 0.5 / math.sqrt(2000)
