"""Recurrences of inputs in sixteen bits: states and sums are in float32, and only what is read out is rounded."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minilm.layers.linear_attention import decay, delta, gated, linear, rwkv
from minilm.layers.linear_attention.feature_maps import random_features, taylor_features
from tests.tolerances import LAYER, assert_close

G, T, K, V = 2, 5, 3, 4
BY_HEAD, BY_KEY = (G, T), (G, T, K)
# What each takes behind q, k and v: a log-decay is negative, β between 0 and 1, and RWKV's bonus has no tokens.
FORMS = {
    "decay": (decay, {"log_decay": BY_HEAD}, {"chunk": 2}),
    "gated": (gated, {"log_decay": BY_KEY}, {"chunk": 2}),
    "delta": (delta, {"beta": BY_HEAD, "log_decay": BY_HEAD}, {"chunk": 2}),
    "rwkv6": (rwkv, {"log_decay": BY_KEY, "u": (G, K)}, {"chunk": 2}),
}


def inputs(more):
    """Inputs that have sixteen bits, and a state that has 32."""
    rng = np.random.default_rng(0)
    drawn = [rng.standard_normal(shape) for shape in ((G, T, K), (G, T, K), (G, T, V))]
    special = {"log_decay": lambda x: -np.exp(x), "beta": lambda x: 1 / (1 + np.exp(-x)), "u": lambda x: x}
    drawn += [special[name](rng.standard_normal(shape)) for name, shape in more.items()]
    state = jnp.asarray(rng.standard_normal((G, K, V)), jnp.float32)
    return state, [jnp.asarray(x, jnp.bfloat16) for x in drawn]


def assert_only_the_output_is_rounded(function, state, given):
    wide = [x.astype(jnp.float32) for x in given]
    states, outputs = zip(*(function(*state, *each) for each in (given, wide)), strict=True)
    assert outputs[0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(outputs[0], outputs[1].astype(jnp.bfloat16))
    assert {after.dtype for after in jax.tree.leaves(states)} <= {jnp.dtype(jnp.float32)}
    assert_close(states[0], states[1], LAYER, jnp.float32)


def alone(function):
    """A form without a state, as one that has none to give back."""
    return lambda *given: ((), function(*given))


@pytest.mark.parametrize("name", FORMS)
def test_states_and_sums_are_in_float32(name):
    module, more, chunk = FORMS[name]
    step, parallel, chunked = (getattr(module, f"{name}_{form}") for form in ("step", "parallel", "chunked"))
    state, given = inputs(more)
    first = [x[:, 0] if x.shape[:2] == (G, T) else x for x in given]
    assert_only_the_output_is_rounded(step, [state], first)
    assert_only_the_output_is_rounded(alone(parallel), [], given)
    assert_only_the_output_is_rounded(lambda *each: chunked(*each, **chunk), [state], given)


@pytest.mark.parametrize("name", ["gated", "rwkv6"])  # the others ask for a state in float32 or wider
def test_a_state_in_sixteen_bits_is_rounded_at_the_end_alone(name):
    module, more, chunk = FORMS[name]
    state, given = inputs(more)
    narrow, given = state.astype(jnp.bfloat16), [x.astype(jnp.float32) for x in given]
    first = [x[:, 0] if x.shape[:2] == (G, T) else x for x in given]
    step, chunked = getattr(module, f"{name}_step"), partial(getattr(module, f"{name}_chunked"), **chunk)
    for form, each in ((step, first), (chunked, given)):
        after, o = form(narrow, *each)
        expected, expected_o = form(narrow.astype(jnp.float32), *each)
        assert (after.dtype, o.dtype) == (jnp.bfloat16, jnp.float32)
        np.testing.assert_array_equal(after, expected.astype(jnp.bfloat16))
        np.testing.assert_array_equal(o, expected_o)


def test_features_are_computed_in_float32():
    x, projection = inputs({})[1][0], jnp.asarray(np.random.default_rng(1).standard_normal((7, K)), jnp.float32)
    for feature_map in (taylor_features, partial(random_features, projection)):
        rounded, wide = feature_map(x), feature_map(x.astype(jnp.float32))
        assert (rounded.dtype, wide.dtype) == (jnp.bfloat16, jnp.float32)
        np.testing.assert_array_equal(rounded, wide.astype(jnp.bfloat16))


def test_a_normaliser_is_summed_in_float32_too():
    state, (q, k, v) = inputs({})
    state = jnp.abs(jnp.concatenate([state, state[..., :1]], -1))
    given = jnp.abs(q), jnp.abs(k), v
    assert_only_the_output_is_rounded(lambda *each: linear.linear_attention(*each, chunk=2), [state], given)
