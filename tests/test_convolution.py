"""The short convolution: the identity, what padding may not do, and how its weights begin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.linear_attention.convolution import (
    init_identity_short_convolution,
    init_short_convolution,
    short_convolution,
)
from minilm.layers.linear_attention.convolved import convolved_mixer
from minilm.layers.linear_attention.gated import gated_linear_mixer
from minilm.shapes import Tokens
from tests.mixers import assert_a_batch_is_one_by_one, assert_lawful, drawn_params, subject
from tests.strategies import seeds
from tests.tolerances import FORMULA, assert_close

WIDTH, D, T = 4, 3, 11
few = settings(max_examples=6)


def drawn(seed, width=WIDTH):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape)) for shape in ((width, D), (width - 1, D), (T, D))]


@few
@given(seed=seeds)
def test_its_identity_is_the_identity(seed):
    _, state, x = drawn(seed)
    after, y = short_convolution(init_identity_short_convolution(WIDTH, D), state, x, jnp.ones(T, bool))
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(after, x[1 - WIDTH :])


@few
@given(seed=seeds)
def test_a_weight_alone_shifts_by_its_place(seed):
    _, state, x = drawn(seed)
    for m in range(WIDTH):
        w = jnp.zeros((WIDTH, D)).at[m].set(1)
        _, y = short_convolution(w, state, x, jnp.ones(T, bool))
        np.testing.assert_array_equal(y, jnp.concatenate([state, x])[WIDTH - 1 - m :][:T])


@few
@given(seed=seeds, cut=st.sampled_from([0, 2, 7, T]))
def test_what_was_read_in_two_pieces_was_read(seed, cut):
    w, state, x = drawn(seed)
    real = jnp.asarray(np.random.default_rng(seed).random(T) < 0.7)
    middle, first = short_convolution(w, state, x[:cut], real[:cut])
    last, second = short_convolution(w, middle, x[cut:], real[cut:])
    assert_close((last, jnp.concatenate([first, second])), short_convolution(w, state, x, real), FORMULA)


@few
@given(seed=seeds)
def test_padding_is_as_if_it_were_not_there_whatever_it_holds(seed):
    w, state, x = drawn(seed)
    real = np.random.default_rng(seed).random(T) < 0.6
    after, y = short_convolution(w, state, jnp.where(real[:, None], x, jnp.nan), jnp.asarray(real))
    expected_state, expected = short_convolution(w, state, x[real], jnp.ones(real.sum(), bool))
    np.testing.assert_array_equal(after, expected_state)
    np.testing.assert_array_equal(y[real], expected)
    assert not y[~real].any()


def test_a_chunk_of_padding_keeps_the_state_and_gives_zero():
    w, state, x = drawn(0)
    after, y = short_convolution(w, state, x, jnp.zeros(T, bool))
    np.testing.assert_array_equal(after, state)
    assert not y.any()


def test_padding_has_no_gradient():
    w, state, x = drawn(1)
    real = jnp.arange(T) % 3 != 1
    _, pullback = jax.vjp(lambda x: short_convolution(w, state, x, real), x)
    (d_x,) = pullback((jnp.ones_like(state), jnp.ones_like(x)))
    np.testing.assert_array_equal((d_x != 0).any(1), real)


def test_the_state_is_kept_in_its_own_dtype():
    w, state, x = drawn(2)
    for kept, dtype in ((jnp.float32, jnp.bfloat16), (jnp.bfloat16, jnp.float32)):
        after, y = short_convolution(w, state.astype(kept), x.astype(dtype), jnp.ones(T, bool))
        assert (after.dtype, y.dtype) == (kept, dtype)


@pytest.mark.parametrize("width", [1, 4])
def test_initial_weights_keep_the_variance_of_what_they_read(width):
    w = init_short_convolution(jax.random.key(0), width, 5000)
    assert w.shape == (width, 5000)
    assert abs(w.std() * np.sqrt(width) - 1) < 0.05


def test_a_mixer_behind_it_keeps_what_mixers_promise():
    mixer = convolved_mixer(gated_linear_mixer(g=2, k=3, v=4), width=3)
    assert_lawful(mixer, 5, documents=False)
    assert not mixer.init_state(drawn_params(mixer, 5), T).inputs.any(), "before the first token there are zeros"
    for shared in (True, False):
        assert_a_batch_is_one_by_one(subject(mixer, 5), 0, shared=shared)


def test_a_mixer_behind_its_identity_is_the_mixer_and_behind_it_is_not():
    inner, x = gated_linear_mixer(g=2, k=3, v=4), jnp.asarray(np.random.default_rng(0).standard_normal((2, T, 5)))
    params = drawn_params(inner, 5)
    for initial, same in (("identity", True), ("random", False)):
        mixer = convolved_mixer(inner, width=3, initial=initial)
        convolved = mixer.init(jax.random.key(0), 5)._replace(mixer=params)
        difference = mixer.apply(convolved, x, Tokens.arange(T)) - inner.apply(params, x, Tokens.arange(T))
        assert (jnp.abs(difference).max() == 0) == same


@pytest.mark.parametrize(("width", "initial"), [(0, "random"), (3, "zero")])
def test_a_convolution_that_cannot_be_is_refused_in_a_sentence(width, initial):
    with pytest.raises(ValueError, match=f"at least 1 wide and begins random or identity; told: {width}, "):
        convolved_mixer(gated_linear_mixer(g=2, k=3, v=4), width=width, initial=initial)
