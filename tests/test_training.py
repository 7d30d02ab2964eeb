"""What a training step is: one mathematics, however it is cut into parts, calls and precisions."""

from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import optimizers
from minilm.config import OptimizerConfig
from minilm.layers.linear import matmul
from minilm.optimizers import make_optimizer, schedule
from minilm.reference import optimizers as reference
from minilm.training import EarlyStopping, gradient_of_parts, in_precision, init_state, make_evaluate, make_step
from tests.strategies import seeds
from tests.tolerances import FORMULA, LAYER, MODEL, assert_close

STEPS = 7
CONFIG = OptimizerConfig(warmup_steps=2, learning_rate=0.05)


class Params(NamedTuple):
    """A regression with one parameter of each kind: a weight, a bias, an embedding-like scale."""

    w_out: jax.Array
    b: jax.Array
    embedding: jax.Array


class Batch(NamedTuple):
    x: Any
    y: Any
    weights: Any


class Metrics(NamedTuple):
    loss_sum: jax.Array
    token_count: jax.Array


def loss(params, batch, key=None):
    """A weighted mean of squares; with a key, a tenth of the inputs is dropped."""
    x = batch.x if key is None else batch.x * jax.random.bernoulli(key, 0.9, batch.x.shape)
    error = matmul(x * params.embedding, params.w_out) + params.b - batch.y
    squares = batch.weights * jnp.square(error).sum(-1)
    return squares.sum() / jnp.maximum(batch.weights.sum(), 1), Metrics(squares.sum(), batch.weights.sum())


def without_dropout(params, batch, key=None):
    return loss(params, batch)


def initial(seed, dtype: Any = np.float64):
    rng = np.random.default_rng(seed)
    return Params(*(jnp.asarray(rng.standard_normal(shape), dtype) for shape in [(3, 5), (5,), (3,)]))


def batches(seed, steps, b, dtype: Any = np.float64):
    """`steps` batches of b examples, some of weight zero."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 3, (steps, b)).astype(dtype)
    weights[:, 0] = 1
    return Batch(
        rng.standard_normal((steps, b, 3)).astype(dtype), rng.standard_normal((steps, b, 5)).astype(dtype), weights
    )


def in_parts(batch, k):
    return jax.tree.map(lambda leaf: leaf.reshape(len(leaf), k, -1, *leaf.shape[2:]), batch)


@lru_cache
def machine(loss, seed, config):
    """An optimizer and its step, compiled once for all tests that use them."""
    optimizer = make_optimizer(config, STEPS)
    return optimizer, make_step(loss, optimizer, seed)


def run(loss, params, batch, calls=1, seed=0, config=CONFIG):
    """Train on the batches in so many calls."""
    optimizer, step = machine(loss, seed, config)
    state, found = init_state(jax.tree.map(jnp.copy, params), optimizer), []
    for part in np.array_split(np.arange(len(batch.weights)), calls):
        state, metrics = step(state, jax.tree.map(lambda leaf, part=part: leaf[part], batch))
        found.append(metrics)
    return state, jax.tree.map(lambda *parts: np.concatenate(parts), *found)


@settings(max_examples=4)
@given(seed=seeds, k=st.sampled_from([2, 3]))
def test_a_batch_in_parts_trains_as_the_whole_batch(seed, k):
    batch = batches(seed, STEPS, 6)
    whole, whole_metrics = run(without_dropout, initial(seed), in_parts(batch, 1))
    parts, parts_metrics = run(without_dropout, initial(seed), in_parts(batch, k))
    assert_close(parts.params, whole.params, MODEL)
    assert_close(parts_metrics, whole_metrics, MODEL)


@settings(max_examples=4)
@given(seed=seeds, k=st.just(2))
def test_many_steps_in_a_call_equal_one_step_a_call(seed, k):
    batch = in_parts(batches(seed, STEPS, 6), k)
    together, together_metrics = run(loss, initial(seed), batch)
    one_by_one, one_by_one_metrics = run(loss, initial(seed), batch, calls=STEPS)
    assert_close(together, one_by_one, LAYER)
    assert_close(together_metrics, one_by_one_metrics, LAYER)
    assert int(together.step) == STEPS


def drawn(params, batch, key):
    """A loss that tells its key: a random number times the batch's first target."""
    return jax.random.uniform(key) * batch.y[0, 0], None


def test_every_step_and_every_part_drops_other_units_and_a_later_call_the_same_ones():
    n = 4
    first_part = Batch(np.zeros((n, 2, 1, 3)), np.zeros((n, 2, 1, 5)), np.ones((n, 2, 1)))
    first_part.y[:, 0] = 1
    second_part = first_part._replace(y=1 - first_part.y)
    losses = {
        name: run(drawn, initial(0), batch, calls, seed)[1]["loss"]
        for name, batch, calls, seed in [
            ("first part", first_part, 1, 3), ("second part", second_part, 1, 3), ("in calls", first_part, 2, 3),
            ("another seed", first_part, 1, 4),
        ]
    }  # fmt: skip
    assert (losses.pop("in calls") == losses["first part"]).all()
    assert len({*np.concatenate([*losses.values()])}) == 3 * n


def test_only_fields_named_w_decay():
    still = lambda params, batch, key=None: (0 * jnp.sum(params.w_out), None)  # noqa: E731
    config = replace(CONFIG, schedule="constant", warmup_steps=0, learning_rate=0.5, weight_decay=0.25)
    before = initial(1)
    after = run(still, before, in_parts(batches(1, 1, 2), 1), config=config)[0].params
    assert_close(after.w_out, (1 - 0.5 * 0.25) * before.w_out, LAYER)
    assert (after.b == before.b).all()
    assert (after.embedding == before.embedding).all()


@pytest.mark.parametrize("parts", [1, 3])
def test_parts_of_a_batch_add_up_uncompiled_too(parts):
    """As who looks for a bug runs them."""
    weights = jnp.arange(1.0, 1 + 2 * parts).reshape(parts, 2)
    batch, keys = Batch(weights, weights, weights), jax.random.split(jax.random.key(0), parts)

    def loss(params, batch, key):
        return params * (batch.weights * batch.x).sum() / batch.weights.sum(), None

    slope = (weights**2).sum() / weights.sum()
    with jax.disable_jit():
        found = gradient_of_parts(loss, jnp.array(2.0), batch, keys)
    assert_close(found, (2 * slope, slope), FORMULA)


def test_a_learning_rate_of_zero_keeps_every_bit():
    before = initial(2)
    after = run(loss, before, in_parts(batches(2, 2, 4), 1), config=replace(CONFIG, learning_rate=0.0))[0].params
    assert all((a == b).all() for a, b in zip(after, before, strict=True))


@settings(max_examples=4)
@given(steps=st.integers(60, 500), warmup=st.integers(1, 19), final=st.sampled_from([0.0, 0.1, 0.5]))
@pytest.mark.parametrize("name", ["cosine", "warm_down"])
def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_end(name, steps, warmup, final):
    config = OptimizerConfig(schedule=name, learning_rate=0.3, warmup_steps=warmup, final_share=final)
    rate = np.asarray(schedule(config, steps)(jnp.arange(501)), np.float64)[: steps + 1]
    assert (np.diff(rate[:warmup]) > 0).all()
    assert (np.diff(rate[warmup:]) <= 0).all()
    assert_close(rate[[0, warmup - 1, -1]], np.array([0.3 / warmup, 0.3, 0.3 * final]), LAYER, jnp.float32)


@settings(max_examples=6)
@given(steps=st.integers(60, 500), warmup=st.integers(1, 19), final=st.sampled_from([0.0, 0.1]))
def test_the_learning_rate_is_the_reference_schedule_s_whose_warm_up_begins_one_step_later(steps, warmup, final):
    peak, share, every = 0.3, 0.25, np.arange(501)
    by_hand = {
        "cosine": lambda t: reference.warmup_cosine(t, peak, warmup, steps, final * peak),
        "warm_down": lambda t: reference.warmup_stable_decay(t, peak, warmup, share * steps, steps, final * peak),
        "constant": lambda t: reference.constant(t, peak),
    }
    for name, rate in by_hand.items():
        config = OptimizerConfig(
            schedule=name, learning_rate=peak, warmup_steps=warmup, final_share=final, warmdown_share=share
        )
        expected = [reference.linear_warmup(t + 1, peak, warmup) if t < warmup else rate(t) for t in every]
        assert_close(schedule(config, steps)(every)[: steps + 1], np.array(expected)[: steps + 1], LAYER, jnp.float32)


def test_warm_down_stays_at_the_peak_until_its_share_of_the_steps():
    config = OptimizerConfig(
        schedule="warm_down", learning_rate=1.0, warmup_steps=10, warmdown_share=0.25, final_share=0.0
    )
    rate = schedule(config, 200)(jnp.array([9, 100, 150, 175, 200]))
    assert_close(rate, np.array([1, 1, 1, 0.5, 0]), LAYER, jnp.float32)


@given(seed=seeds, scale=st.sampled_from([1e-6, 1.0, 1e6]))
@settings(max_examples=6)
def test_a_long_gradient_is_shortened_and_a_short_one_kept(seed, scale):
    clipped = pytest.MonkeyPatch()
    clipped.setitem(optimizers.OPTIMIZERS, "descent", lambda config, rate: optax.sgd(1.0))
    optimizer = make_optimizer(replace(CONFIG, optimizer="descent", clip_norm=0.5), STEPS)
    clipped.undo()
    gradient = jax.tree.map(lambda leaf: scale * leaf, initial(seed))
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in gradient))
    update, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    assert_close(update, jax.tree.map(lambda leaf: -leaf * min(1, 0.5 / norm), gradient), LAYER)


def test_an_unknown_optimizer_is_named_beside_those_there_are():
    with pytest.raises(ValueError, match=r"no optimizer 'sgdd'; there are adamw"):
        make_optimizer(replace(CONFIG, optimizer="sgdd"), STEPS)


def test_bf16_products_leave_state_and_gradients_in_f32():
    batch = in_parts(batches(5, STEPS, 4, np.float32), 1)
    exact, exact_metrics = run(without_dropout, initial(5, np.float32), batch)
    rounded, rounded_metrics = run(in_precision(without_dropout, jnp.bfloat16), initial(5, np.float32), batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}
    assert (rounded_metrics["loss"] != exact_metrics["loss"]).any()
    assert_close(rounded_metrics["loss"], exact_metrics["loss"], LAYER, jnp.bfloat16)
    assert_close(rounded.params, exact.params, LAYER, jnp.bfloat16)


def test_the_old_state_is_given_away_for_the_new_one():
    optimizer = make_optimizer(CONFIG, STEPS)
    state = init_state(initial(6), optimizer)
    make_step(loss, optimizer, 0)(state, in_parts(batches(6, 1, 2), 1))
    assert state.params.w_out.is_deleted()


def test_one_batch_can_be_learnt_by_heart():
    batch = jax.tree.map(lambda leaf: np.repeat(leaf, 300, 0), in_parts(batches(7, 1, 3), 1))
    _, metrics = run(without_dropout, initial(7), batch, config=replace(CONFIG, schedule="constant", weight_decay=0.0))
    assert metrics["loss"][-1] < metrics["loss"][0] / 100


@settings(max_examples=4)
@given(seed=seeds)
def test_a_total_does_not_depend_on_how_the_text_is_cut(seed):
    batch, evaluate = batches(seed, 6, 4), make_evaluate(loss)
    one_by_one = evaluate(initial(seed), [jax.tree.map(lambda leaf, i=i: leaf[i], batch) for i in range(6)])
    together = evaluate(initial(seed), [jax.tree.map(np.concatenate, batch)])
    assert_close(one_by_one, together, LAYER)


@given(losses=st.lists(st.integers(0, 5).map(float), min_size=1, max_size=9))
def test_early_stopping_remembers_the_first_of_the_lowest(losses):
    progress = EarlyStopping()
    for step, value in enumerate(losses):
        progress = progress.after(step, value)
    first_of_the_lowest = losses.index(min(losses))
    assert progress == (min(losses), first_of_the_lowest, len(losses) - 1 - first_of_the_lowest)
