"""Laws of positions: a rotation keeps norms and tells distances apart, and nothing else; and how exact float32 is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.layers.position import init_learned, learned, rotary, rotary_interleaved, rotate, sinusoidal
from tests.strategies import arrays, keys, seeds
from tests.tolerances import FORMULA, assert_close, unit_roundoff

every_layout = pytest.mark.parametrize("turn", [rotary, rotary_interleaved])
positions = st.integers(0, 5000)


def heads(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


@every_layout
@given(seed=seeds, p=positions)
def test_rotary_keeps_norms(turn, seed, p):
    x = heads(seed, 3, 2, 6)
    y = turn(x, jnp.array([p, p + 7]))
    assert_close(jnp.linalg.norm(y, axis=-1), jnp.linalg.norm(x, axis=-1), FORMULA)


@every_layout
@given(seed=seeds)
def test_rotary_at_position_zero_is_the_identity(turn, seed):
    x = heads(seed, 3, 2, 6)
    assert (turn(x, jnp.zeros(2, jnp.int32)) == x).all()


@every_layout
@given(seed=seeds, p=positions, distance=st.integers(-4000, 4000), shift=positions)
def test_rotary_scores_depend_only_on_distance(turn, seed, p, distance, shift):
    q, k = heads(seed, 2, 1, 6)

    def score(p, s):
        return (turn(q, jnp.array([p])) * turn(k, jnp.array([s]))).sum()

    size = jnp.linalg.norm(q) * jnp.linalg.norm(k)
    actual, expected = score(p + shift, p + shift + distance), score(p, p + distance)
    assert_close([actual, size], [expected, size], FORMULA)


@every_layout
@given(seed=seeds)
def test_rotary_scores_do_depend_on_distance(turn, seed):
    q = jnp.abs(heads(seed, 1, 6)) + 0.1
    scores = [(q * turn(q, jnp.array([p]))).sum() for p in (0, 1, 2)]
    assert scores[0] > scores[1] > scores[2]


@every_layout
@given(seed=seeds, a=positions, b=st.integers(-5000, 5000))
def test_turning_twice_is_turning_by_the_sum(turn, seed, a, b):
    x = heads(seed, 1, 6)
    assert_close(turn(turn(x, jnp.array([a])), jnp.array([b])), turn(x, jnp.array([a + b])), FORMULA)


@given(seed=seeds, p=positions, theta=st.sampled_from([100.0, 10000.0, 500000.0]))
def test_the_two_layouts_differ_by_the_order_of_entries(seed, p, theta):
    x, position = heads(seed, 3, 2, 6), jnp.array([p, 3])
    order = np.array([0, 3, 1, 4, 2, 5])  # half-layout places m, m + 3 become neighbours
    assert_close(rotary_interleaved(x[..., order], position, theta), rotary(x, position, theta)[..., order], FORMULA)


@given(seed=seeds)
def test_positions_may_be_shared_or_differ_from_row_to_row(seed):
    x = heads(seed, 3, 2, 4)
    position = jnp.array([[0, 5], [9, 2], [4, 4]])
    one_by_one = jnp.stack([rotary(row, p) for row, p in zip(x, position, strict=True)])
    assert_close(rotary(x, position), one_by_one, FORMULA)
    assert_close(rotary(x, position[1]), jnp.stack([rotary(row, position[1]) for row in x]), FORMULA)


@every_layout
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_rotary_keeps_the_dtype_whatever_that_of_the_position(turn, dtype):
    for position in (jnp.arange(2, dtype=jnp.int32), jnp.arange(2), jnp.arange(2.0)):
        x = heads(0, 2, 4).astype(dtype)
        assert turn(x, position).dtype == dtype
        assert jax.grad(lambda x, position=position: turn(x, position).sum())(x).dtype == dtype


@every_layout
def test_angles_are_rounded_as_x_is_whatever_the_dtype_of_the_position(turn):
    x, position = heads(0, 5, 4).astype(jnp.float32), jnp.asarray(np.arange(5) * 1e4 / 3)
    assert position.dtype == jnp.float64
    assert jnp.array_equal(turn(x, position), turn(x, position.astype(jnp.float32)))


@given(p=st.integers(90_000, 100_000), seed=seeds)
def test_float32_angles_at_position_one_hundred_thousand_are_off_by_no_more_than_the_docstring_says(p, seed):
    x, position = heads(seed, 1, 64), jnp.array([p])
    error = rotary(x.astype(jnp.float32), position) - rotary(x, position)
    assert jnp.abs(error).max() <= unit_roundoff(jnp.float32) * p * jnp.abs(x).max() * np.sqrt(2)


@given(p=positions, distance=st.integers(-50, 50))
def test_the_sinusoids_at_p_plus_a_are_those_at_p_turned_by_a(p, distance):
    y = sinusoidal(jnp.array([p, p + distance]), 6, dtype=jnp.float64)
    # (sin, cos) turned by −a is the pair (cos, sin) turned by a, so exchange neighbours before and after.
    exchange = np.array([1, 0, 3, 2, 5, 4])
    turned = rotary_interleaved(y[:1, exchange], jnp.array([distance]))[:, exchange]
    assert_close(y[1:], turned, FORMULA)


def test_sinusoids_are_the_papers():
    y = sinusoidal(jnp.array([3]), 4, dtype=jnp.float64)
    assert_close(y, jnp.array([[np.sin(3), np.cos(3), np.sin(3 / 100), np.cos(3 / 100)]]), FORMULA)
    assert sinusoidal(jnp.arange(3), 4).dtype == jnp.float32


@pytest.mark.parametrize(
    "turn", [lambda: rotary(jnp.ones((1, 3)), jnp.arange(1)), lambda: sinusoidal(jnp.arange(2), 5)]
)
def test_an_odd_width_is_refused_in_a_sentence(turn):
    with pytest.raises(ValueError, match=r"even width was expected, but it is [35]"):
        turn()


def test_there_is_a_frequency_for_each_pair_of_entries():
    with pytest.raises(ValueError, match=r"each pair of 6 entries was expected, but there are 2"):
        rotate(jnp.ones((4, 5, 6)), jnp.arange(5), jnp.ones(2))


@given(key=keys())
def test_padding_reads_position_zero_and_what_lies_beyond_the_table_is_nan(key):
    table = init_learned(key, 4, 3)
    y = learned(table, jnp.array([-1, 2, 4]))
    assert (y[0] == table[0]).all()
    assert (y[1] == table[2]).all()
    assert jnp.isnan(y[2]).all()


@given(x=arrays(2, 4))
def test_jit_sees_one_theta_at_a_time_but_positions_never_retrace(x):
    rotary(jnp.asarray(x), jnp.array([0, 1]))
    count = rotary._cache_size()
    rotary(jnp.asarray(x), jnp.array([77, 5]))
    assert rotary._cache_size() == count


@every_layout
def test_the_slowest_plane_turns_once_in_ten_thousand_unless_told_otherwise(turn):
    x, position = heads(1, 3, 2, 6), jnp.array([5, 900])
    np.testing.assert_array_equal(turn(x, position), turn(x, position, 10000.0))


def test_learned_positions_begin_as_bert_draws_them():
    table = np.asarray(init_learned(jax.random.key(0), 300, 70))
    assert table.shape == (300, 70)
    assert abs(table.std() / 0.02 - 1) < 6 / np.sqrt(2 * table.size)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64], ids=["bf16", "f32", "f64"])
def test_sinusoids_have_the_dtype_that_was_asked_for(dtype):
    assert sinusoidal(jnp.arange(3), 4, dtype=dtype).dtype == dtype
    assert sinusoidal(jnp.arange(3), 4).dtype == jnp.float32
