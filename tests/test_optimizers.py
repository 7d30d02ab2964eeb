"""The optimizers and schedules by hand, step by step beside Optax's."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.reference import optimizers
from tests.strategies import seeds, weights
from tests.tolerances import FORMULA, LAYER, assert_close

STEPS, SHAPE = 5, (2, 3)
RATE = 0.25

rates = st.sampled_from([0.0, 0.5, 0.9, 0.95])
scales = st.sampled_from([1e-6, 1.0, 1e3])


def gradients(seed, scale, *shapes):
    """STEPS gradients of arrays of these shapes, whose entries differ in size by orders of magnitude."""
    rng = np.random.default_rng(seed)
    return [
        [scale * rng.standard_normal(shape) * 10.0 ** rng.integers(-2, 3, shape) for shape in shapes]
        for _ in range(STEPS)
    ]


def assert_steps_equal(ours, theirs, w, gs):
    """`ours(state, g, w) -> (state, update)` moves w as the Optax transformation `theirs` does, at every step."""
    state, their_state = None, theirs.init(w)
    for g in gs:
        state, update = ours(state, g, w)
        their_update, their_state = theirs.update(g, their_state, w)
        assert_close(update, their_update, FORMULA)
        w = w + update


@given(seed=seeds, scale=scales, w=weights(*SHAPE), beta=rates)
def test_momentum_and_nesterov_equal_optax_and_without_memory_both_are_gradient_descent(seed, scale, w, beta):
    gs = [g for (g,) in gradients(seed, scale, SHAPE)]
    assert_steps_equal(lambda state, g, w: optimizers.sgd(state, g, RATE), optax.sgd(RATE), w, gs)
    for step, nesterov in ((optimizers.momentum, False), (optimizers.nesterov, True)):
        assert_steps_equal(
            lambda state, g, w, step=step: step(state, g, RATE, beta), optax.sgd(RATE, beta, nesterov), w, gs
        )
        assert_steps_equal(lambda state, g, w, step=step: step(state, g, RATE, 0.0), optax.sgd(RATE), w, gs)


@given(seed=seeds, scale=scales, w=weights(*SHAPE), beta=rates, eps=st.sampled_from([1e-8, 0.1]))
def test_rmsprop_equals_optax(seed, scale, w, beta, eps):
    assert_steps_equal(
        lambda state, g, w: optimizers.rmsprop(state, g, RATE, beta, eps),
        optax.rmsprop(RATE, beta, eps, eps_in_sqrt=False),
        w,
        [g for (g,) in gradients(seed, scale, SHAPE)],
    )


@given(seed=seeds, scale=scales, w=weights(*SHAPE), beta_1=rates, beta_2=rates, eps=st.sampled_from([1e-8, 0.1]))
def test_adam_equals_optax(seed, scale, w, beta_1, beta_2, eps):
    assert_steps_equal(
        lambda state, g, w: optimizers.adam(state, g, RATE, beta_1, beta_2, eps),
        optax.adam(RATE, beta_1, beta_2, eps),
        w,
        [g for (g,) in gradients(seed, scale, SHAPE)],
    )


@given(seed=seeds, scale=scales, w=weights(*SHAPE), b=weights(7), decay=st.sampled_from([0.0, 0.1, 2.0]))
def test_adamw_equals_optax_with_decay_on_the_chosen_parameters_only(seed, scale, w, b, decay):
    theirs = optax.adamw(RATE, weight_decay=decay, mask={"w": True, "b": False})
    params, states = {"w": w, "b": b}, dict.fromkeys("wb")
    their_state = theirs.init(params)
    for g_w, g_b in gradients(seed, scale, SHAPE, (7,)):
        states["w"], update_w = optimizers.adamw(states["w"], g_w, RATE, params["w"], decay)
        states["b"], update_b = optimizers.adamw(states["b"], g_b, RATE, params["b"], 0.0)
        updates, their_state = theirs.update({"w": g_w, "b": g_b}, their_state, params)
        assert_close({"w": update_w, "b": update_b}, updates, FORMULA)
        params = {"w": params["w"] + update_w, "b": params["b"] + update_b}


@pytest.mark.slow  # PyTorch's optimizers load its compiler, which takes ten seconds
@given(seed=seeds, scale=scales, w=weights(*SHAPE), decay=st.sampled_from([0.0, 0.1, 2.0]))
def test_adamw_equals_pytorch(seed, scale, w, decay):
    torch = pytest.importorskip("torch")
    theirs = torch.tensor(w.copy())
    optimizer, state = torch.optim.AdamW([theirs], lr=RATE, weight_decay=decay), None
    for (g,) in gradients(seed, scale, SHAPE):
        state, update = optimizers.adamw(state, g, RATE, w, decay)
        w, theirs.grad = w + update, torch.tensor(g)
        optimizer.step()
        assert_close(w, theirs.numpy(), FORMULA)


def test_the_defaults_are_those_of_the_papers_and_of_optax():
    gs = [g for (g,) in gradients(0, 1.0, SHAPE)]
    w = np.ones(SHAPE)
    assert_steps_equal(lambda state, g, w: optimizers.adam(state, g, RATE), optax.adam(RATE), w, gs)
    assert_steps_equal(lambda state, g, w: optimizers.momentum(state, g, RATE), optax.sgd(RATE, 0.9), w, gs)
    assert_steps_equal(
        lambda state, g, w: optimizers.nesterov(state, g, RATE), optax.sgd(RATE, 0.9, nesterov=True), w, gs
    )
    assert_steps_equal(
        lambda state, g, w: optimizers.rmsprop(state, g, RATE), optax.rmsprop(RATE, eps_in_sqrt=False), w, gs
    )


def test_the_first_step_of_adam_is_the_rate_against_the_sign_of_the_gradient():
    g = np.array([3.0, -1e-3, 1e5])
    _, update = optimizers.adam(None, g, RATE, eps=0.0)
    assert_close(update, -RATE * np.sign(g), LAYER)


@given(seed=seeds, scale=scales, largest=st.sampled_from([1e-3, 1.0, 1e9]))
def test_clipping_equals_optax_and_never_leaves_a_longer_gradient(seed, scale, largest):
    gs = gradients(seed, scale, SHAPE, (), (7,))[0]
    clipped = optimizers.clip_by_global_norm(gs, largest)
    theirs, _ = optax.clip_by_global_norm(largest).update(gs, optax.EmptyState())
    assert_close(clipped, theirs, FORMULA)
    norm = np.sqrt(sum((g**2).sum() for g in gs))
    assert_close(np.sqrt(sum((g**2).sum() for g in clipped)), min(norm, largest), LAYER)


@given(
    peak=st.sampled_from([1e-4, 0.3]),
    warmup=st.integers(1, 9),
    decay=st.integers(1, 9),
    steps=st.integers(20, 31),
    final=st.sampled_from([0.0, 2e-5]),
)
def test_schedules_equal_optax_at_every_step(peak, warmup, decay, steps, final):
    warm = optax.linear_schedule(0.0, peak, warmup)
    pairs = (
        (lambda s: optimizers.constant(s, peak), optax.constant_schedule(peak)),
        (lambda s: optimizers.linear_warmup(s, peak, warmup), warm),
        (
            lambda s: optimizers.warmup_cosine(s, peak, warmup, steps, final),
            optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps, final),
        ),
        (
            lambda s: optimizers.inverse_square_root(s, peak, warmup),
            optax.join_schedules([warm, lambda s: peak * jnp.sqrt(warmup / (jnp.maximum(s, 0) + warmup))], [warmup]),
        ),
        (
            lambda s: optimizers.warmup_stable_decay(s, peak, warmup, decay, steps, final),
            optax.join_schedules(
                [warm, optax.constant_schedule(peak), optax.linear_schedule(peak, final, decay)],
                [warmup, steps - decay],
            ),
        ),
    )
    assert optimizers.warmup_cosine(steps, peak, warmup, steps) == 0.0
    assert optimizers.warmup_stable_decay(steps, peak, warmup, decay, steps) == 0.0
    for ours, theirs in pairs:
        every_step = range(steps + 3)
        assert_close([ours(s) for s in every_step], [theirs(s) for s in every_step], FORMULA)
