"""Variants of softmax attention as a block takes them: what they read in pieces is what they read at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import laws
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Causal, SlidingWindow
from minilm.layers.attention.multi_head import multi_head
from minilm.layers.attention.qk_norm import cosine_mixer, init_qk_norm, init_temperature, qk_norm_mixer
from minilm.layers.attention.sigmoid import init_shift, sigmoid_attention, sigmoid_mixer
from minilm.layers.attention.sinks import init_sink, sink_mixer
from minilm.layers.attention.soft_cap import soft_cap_mixer, soft_capped_attention
from minilm.layers.attention.talking_heads import init_talking_heads, talking_heads_mixer
from minilm.layers.attention.top_k import top_k_attention, top_k_mixer
from minilm.shapes import Tokens
from tests.strategies import keys
from tests.tolerances import FORMULA, assert_close

D, T, SIZE = 4, 5, 8
SIZES = {"g": 2, "r": 3, "k": 2, "v": 5}
MIXERS = {
    "soft cap": soft_cap_mixer(**SIZES, cap=0.5),
    "sink": sink_mixer(**SIZES),
    "sigmoid": sigmoid_mixer(**SIZES, length=3),
    "top k": top_k_mixer(**SIZES, n=2),
    "talking heads": talking_heads_mixer(**SIZES),
    "norms": qk_norm_mixer(**SIZES),
    "cosine": cosine_mixer(**SIZES, length=3),
}
BUILDERS = (soft_cap_mixer, sink_mixer, sigmoid_mixer, top_k_mixer, talking_heads_mixer, qk_norm_mixer, cosine_mixer)
each_mixer = pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS)


def trained(mixer):
    """Parameters that have left where they began."""
    leaves, structure = jax.tree.flatten(mixer.init(jax.random.key(0), D))
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(structure, [w.astype(float) + 0.3 * rng.standard_normal(w.shape) for w in leaves])


def places(position):
    return Tokens(jnp.asarray(position, jnp.int32), jnp.zeros(len(position), jnp.int32))


@each_mixer
def test_a_mixer_obeys_the_laws(mixer):
    params, apply, read = trained(mixer), jax.jit(mixer.apply), jax.jit(mixer.step)

    def padded(x, real):
        return apply(params, jnp.asarray(x), places(np.where(real, np.cumsum(real) - 1, -1)))

    def mix(x):
        return padded(x, np.ones(len(x), bool))

    def step(state, x):
        position, cache = state
        cache, y = read(params, cache, jnp.asarray(x), Tokens.arange(len(x), position))
        return (position + len(x), cache), y

    laws.check(
        mix,
        d=D,
        causal=True,
        step=step,
        init_state=lambda: (0, mixer.init_state(params, SIZE, jnp.float64)),
        padded=padded,
        # Who is among the best few may turn on a difference's step.
        grad=None if mixer is MIXERS["top k"] else lambda x, d_y: jax.vjp(mix, jnp.asarray(x))[1](jnp.asarray(d_y))[0],
        search=laws.Search(lengths=(2, 5), examples=5),
    ).raise_if_broken()


@each_mixer
@settings(max_examples=5)
@given(key=keys(), real=st.sets(st.integers(0, T), min_size=2, max_size=2))
def test_padding_anywhere_in_a_chunk_changes_neither_state_nor_outputs(mixer, key, real):
    params, read, real = trained(mixer), jax.jit(mixer.step), jnp.array(sorted(real))
    x = jax.random.normal(key, (4, D), jnp.float64)
    before, _ = read(params, mixer.init_state(params, SIZE, jnp.float64), x[:2], Tokens.arange(2))
    expected = read(params, before, x[2:], Tokens.arange(2, start=2))
    position = jnp.full(T + 1, -1).at[real].set(jnp.array([2, 3]))
    state, y = read(params, before, jnp.full((T + 1, D), 1e3).at[real].set(x[2:]), places(position))
    assert_close((state, y[real]), expected, FORMULA)


@pytest.mark.parametrize("name", ["sink", "sigmoid", "talking heads", "norms", "cosine"])
def test_what_an_attention_has_of_its_own_is_learned(name):
    params, x = trained(MIXERS[name]), jnp.asarray(np.random.default_rng(1).standard_normal((2, T, D)))
    gradient = jax.grad(lambda params: (MIXERS[name].apply(params, x, Tokens.arange(T)) ** 2).sum())(params)
    for leaf in jax.tree.leaves(gradient.attend):
        assert np.isfinite(leaf).all()
        assert leaf.all()


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_mixer_sees_what_its_rule_shows_and_by_default_no_future(builder):
    x = jnp.asarray(np.random.default_rng(1).standard_normal((T, D)))
    for rule, mixer in ((Causal(), builder(**SIZES)), (SlidingWindow(2), builder(**SIZES, rule=SlidingWindow(2)))):
        params = trained(mixer)
        jacobian = jax.jacobian(lambda x, mixer=mixer, params=params: mixer.apply(params, x, Tokens.arange(T)).sum(-1))(
            x
        )
        seen = rule(Tokens.arange(T), Tokens.arange(T))
        assert not jnp.where(seen, 0, jnp.abs(jacobian).max(-1)).any()
        assert jnp.where(seen, jnp.abs(jacobian).max(-1), 1).all()


def test_an_attend_that_holds_its_number_goes_through_jit():
    mixer = MIXERS["top k"]
    params, x, where = trained(mixer), jnp.ones((T, D), jnp.float64), Tokens.arange(T)
    for attention, same in (
        (jax.tree_util.Partial(partial(top_k_attention, n=2)), mixer),
        (jax.tree_util.Partial(soft_capped_attention, 0.5), MIXERS["soft cap"]),
    ):
        out = jax.jit(multi_head)(params, x, where, Dense(Causal(), attention=attention))
        assert_close(out, same.apply(params, x, where), FORMULA)


def test_what_is_learned_begins_where_it_should():
    assert not init_sink(2, 3).any()
    identity = init_talking_heads(2, 3)
    for w in identity:
        np.testing.assert_array_equal(w.reshape(6, 6), np.eye(6))
    for norm in init_qk_norm(5):
        np.testing.assert_array_equal(norm.scale, np.ones(5))
    np.testing.assert_array_equal(init_temperature(2, 3, 2), np.ones((2, 3)))
    v = jnp.ones((2, 10**4, 1))
    summed = sigmoid_attention(init_shift(2, 3, 10**4), jnp.zeros((2, 3, 1, 4)), jnp.zeros((2, 10**4, 4)), v)
    assert abs(summed - 1).max() < 1e-3
    for mixer, expected in ((MIXERS["sigmoid"], init_shift(2, 3, 3)), (MIXERS["cosine"], init_temperature(2, 3, 3))):
        np.testing.assert_array_equal(mixer.init(jax.random.key(0), D).attend, expected)
