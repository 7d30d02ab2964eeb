"""Laws of batch norm beyond the table, and three reasons why texts are not normalised so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm import laws
from minilm.layers.batch_normalization import (
    BatchNormParams,
    BatchNormState,
    batch_norm_inference,
    batch_norm_training,
    init_batch_norm,
    init_batch_norm_state,
)
from minilm.reference import batch_normalization as by_loops
from tests.strategies import seeds
from tests.tolerances import FORMULA, LAYER, SAMPLING, assert_close

PARAMS = BatchNormParams(scale=jnp.array([0.5, -2.0, 3.0]), bias=jnp.array([1.0, -1.0, 0.25]))
STATE = BatchNormState(mean=jnp.array([0.1, 5.0, -3.0]), variance=jnp.array([0.5, 1.0, 4.0]))


def rows(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def normalised(x, mask=True, **options):
    return batch_norm_training(PARAMS, STATE, x, mask, **options)[1]


# ── what it is ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(seed=seeds)
def test_columns_of_the_rows_that_count_have_mean_zero_and_variance_one(seed):
    mask = jnp.arange(12).reshape(4, 3) % 5 != 0
    _, y = batch_norm_training(init_batch_norm(3), init_batch_norm_state(3), rows(seed, 4, 3, 3), mask, eps=0.0)
    counted = y[mask]
    assert_close([counted.mean(0), (counted**2).mean(0)], [jnp.zeros(3), jnp.ones(3)], FORMULA)


@given(seed=seeds, factor=st.sampled_from([1e-3, 7.0, 1e4]), shift=st.integers(-100, 100))
def test_a_stretched_and_shifted_batch_is_normalised_to_the_same(seed, factor, shift):
    x = rows(seed, 6, 3)
    assert_close(normalised(factor * (x + shift), eps=0.0), normalised(x, eps=0.0), FORMULA)


def test_the_momentum_is_the_weight_of_the_new_batch_and_what_is_kept_is_unbiased():
    x = rows(0, 6, 3)
    for m in (0.0, 0.3, 1.0):
        state, _ = batch_norm_training(PARAMS, STATE, x, momentum=m)
        expected = BatchNormState(
            mean=(1 - m) * STATE.mean + m * x.mean(0), variance=(1 - m) * STATE.variance + m * x.var(0, ddof=1)
        )
        assert_close(state, expected, FORMULA)
    assert_close(batch_norm_training(PARAMS, STATE, x, momentum=0.0)[0], STATE, 1)


def test_what_float16_does_not_hold_is_computed_in_float32():
    """Squares of 300, a distance of 80,000 to the mean, and an ε of 1e-10."""
    x, state = jnp.array([[300.0], [-300.0]], jnp.float16), init_batch_norm_state(1)
    assert_close(batch_norm_training(init_batch_norm(1), state, x)[1], np.array([[1.0], [-1.0]]), 1, jnp.float16)
    state = BatchNormState(mean=jnp.array([-4e4], jnp.float16), variance=jnp.array([4e4], jnp.float16))
    y = batch_norm_inference(init_batch_norm(1), state, jnp.array([[4e4]], jnp.float16))
    assert_close(y, np.array([[400.0]]), 1, jnp.float16)
    still = BatchNormState(mean=jnp.zeros(1, jnp.float16), variance=jnp.zeros(1, jnp.float16))
    y = batch_norm_inference(init_batch_norm(1), still, jnp.array([[2.0**-10]], jnp.float16), eps=1e-10)
    assert_close(y, np.array([[2.0**-10 / 1e-5]]), 1, jnp.float16)


def test_two_rows_are_enough_for_an_unbiased_variance_by_hand_too():
    x = rows(0, 2, 3)
    out, pullback = jax.vjp(lambda params, state, x: batch_norm_training(params, state, x), PARAMS, STATE, x)
    assert_close(out[0].variance, 0.9 * STATE.variance + 0.1 * x.var(0, ddof=1), FORMULA)
    by_hand, saved = by_loops.batch_norm_training(*jax.tree.map(np.asarray, (PARAMS, STATE, x)))
    assert_close(out, by_hand, FORMULA)
    d_out = jax.tree.map(jnp.ones_like, out)
    d_by_hand = by_loops.batch_norm_training_backward(saved, jax.tree.map(np.asarray, d_out))
    assert_close(pullback(d_out), d_by_hand[:3], FORMULA)


def test_flax_with_the_complement_of_the_momentum_gives_the_same_and_keeps_a_biased_variance():
    flax = pytest.importorskip("flax.linen")
    x, mask, m = rows(0, 4, 2, 3), rows(1, 4, 2) > -0.5, 0.3
    layer = flax.BatchNorm(use_running_average=False, momentum=1 - m, use_fast_variance=False, param_dtype=x.dtype)
    variables = {"params": PARAMS._asdict(), "batch_stats": {"mean": STATE.mean, "var": STATE.variance}}
    y, kept = layer.apply(variables, x, mask=mask[..., None], mutable=["batch_stats"])
    state, ours = batch_norm_training(PARAMS, STATE, x, mask, momentum=m)
    assert_close(ours, y, FORMULA)
    assert_close(state.mean, kept["batch_stats"]["mean"], FORMULA)
    n = mask.sum()
    moved = (kept["batch_stats"]["var"] - (1 - m) * STATE.variance) * n / (n - 1)
    assert_close(state.variance, (1 - m) * STATE.variance + moved, FORMULA)


def test_after_many_batches_the_state_is_that_of_the_data():
    state = init_batch_norm_state(3)
    for step in range(200):
        state, _ = batch_norm_training(PARAMS, state, 2 + 3 * rows(step, 32, 3), momentum=0.05)
    assert (abs(state.mean - 2) < 3 * 3 * SAMPLING).all()
    assert (abs(state.variance - 9) < 9 * 3 * SAMPLING).all()


@given(seed=seeds)
def test_in_use_it_is_a_linear_map_that_the_layer_before_can_take_up(seed):
    x, w, b = rows(seed, 5, 4), rows(seed + 1, 4, 3), rows(seed + 2, 3)
    stretch = PARAMS.scale / jnp.sqrt(STATE.variance + 1e-5)
    taken_up = x @ (w * stretch) + (b - STATE.mean) * stretch + PARAMS.bias
    assert_close(batch_norm_inference(PARAMS, STATE, x @ w + b), taken_up, FORMULA)


def test_at_first_it_changes_nothing_in_use():
    x = rows(0, 5, 3)
    assert_close(batch_norm_inference(init_batch_norm(3), init_batch_norm_state(3), x, eps=0.0), x, LAYER, jnp.float32)


# ── padding ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(seed=seeds, padding=st.sampled_from([0.0, 1e4, float("nan")]))
def test_masked_padding_changes_no_row_no_statistic_and_no_gradient(seed, padding):
    x = rows(seed, 4, 3)
    padded = jnp.concatenate([x, jnp.full((2, 3), padding)])
    mask = jnp.arange(6) < 4
    (state, y), vjp = jax.vjp(lambda x: batch_norm_training(PARAMS, STATE, x, mask), padded)
    (expected_state, expected_y), expected_vjp = jax.vjp(lambda x: batch_norm_training(PARAMS, STATE, x), x)
    assert_close((state, y[:4]), (expected_state, expected_y), FORMULA)
    if np.isfinite(padding):
        d_y = rows(seed + 1, 4, 3)
        (d_x,) = vjp((STATE, jnp.concatenate([d_y, jnp.zeros((2, 3))])))
        (expected_d_x,) = expected_vjp((STATE, d_y))
        assert_close(d_x[:4], expected_d_x, FORMULA)
        assert (d_x[4:] == 0).all()


def test_first_pitfall_padding_that_is_not_masked_changes_every_row():
    x = 5 + rows(0, 4, 3)
    padded = jnp.concatenate([x, jnp.zeros((4, 3))])
    assert (abs(normalised(padded)[:4] - normalised(x)).max(-1) > 1).all()


def test_where_no_row_counts_the_state_stays_and_all_is_finite():
    x, mask = rows(0, 2, 3, 3).astype(jnp.float32), jnp.zeros((2, 3), bool)
    state, y = batch_norm_training(PARAMS, STATE, x, mask)
    assert_close(state, STATE, 1)
    gradient = jax.grad(lambda x: batch_norm_training(PARAMS, STATE, x, mask)[1].sum())(x)
    assert jnp.isfinite(y).all()
    assert jnp.isfinite(gradient).all()


# ── one row, and the others ──────────────────────────────────────────────────────────────────────────────────────────


@given(seed=seeds)
def test_second_pitfall_a_batch_of_one_row_gives_the_bias_whatever_it_holds(seed):
    x = rows(seed, 1, 3)
    y, vjp = jax.vjp(normalised, x)
    assert (y == PARAMS.bias).all()
    assert (vjp(rows(seed + 1, 1, 3))[0] == 0).all()
    assert abs(batch_norm_inference(PARAMS, STATE, x) - PARAMS.bias).max() > 0


def test_a_row_depends_on_the_others_in_training_and_not_in_use():
    batch, other = rows(0, 5, 3), rows(1, 5, 3).at[0].set(rows(0, 5, 3)[0])
    assert abs(normalised(batch)[0] - normalised(other)[0]).max() > 0.1
    in_use = [batch_norm_inference(PARAMS, STATE, x)[0] for x in (batch, other)]
    assert (in_use[0] == in_use[1]).all()


def test_third_pitfall_in_training_every_position_hears_the_future():
    with pytest.raises(laws.LawBroken, match="causality"):
        laws.causality(normalised, d=3)
    laws.causality(lambda x: batch_norm_inference(PARAMS, STATE, x), d=3)


def test_the_future_tells_a_model_what_comes_next():
    """A text of two kinds of row. The first row's output alone says how often each kind comes later."""
    kinds = jnp.asarray([[1.0, 0, 0], [0, 1, 0]])
    texts = np.array([[0, 0, 0, 0, 1], [0, 1, 1, 1, 1]])
    first = [normalised(kinds[text])[0] for text in texts]
    assert abs(first[0] - first[1]).max() > 0.5
