"""Rotary attention: equal to its reference, to turning by hand, and blind to everything but distances."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.attention import rotary as layers
from minilm.layers.attention.blockwise import Blockwise
from minilm.layers.attention.cache import KVCache, append_and_attend
from minilm.layers.attention.core import Dense, dot_product_attention
from minilm.layers.attention.masks import Causal, SlidingWindow
from minilm.layers.attention.rotary import Rotary, ScaledRotary
from minilm.layers.position import rotary
from minilm.layers.rotary_scaling import linear_frequencies, rotary_frequencies, yarn_frequencies
from minilm.pytrees import register
from minilm.reference.attention import core as reference_core
from minilm.reference.attention import masks as reference_masks
from minilm.reference.attention import rotary as reference
from minilm.shapes import Tokens
from tests.strategies import seeds
from tests.tolerances import FORMULA, assert_close

G, R, T, S, K, V = 2, 3, 4, 5, 6, 1
few = settings(max_examples=8)
SCALED = yarn_frequencies(K, 100.0, factor=3.0, trained_length=64)


def heads(seed, t=T, s=S):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in ((G, R, t, K), (G, s, K), (G, s, V))]


def somewhere(seed):
    """Queries among and after the keys, one of them padding, and one empty slot."""
    rng = np.random.default_rng(seed)
    query, key = rng.integers(0, 40, T), rng.integers(0, 40, S)
    query[1], key[2] = -1, -1
    return [Tokens(p.astype(np.int32), np.zeros(len(p), np.int32)) for p in (query, key)]


def pair(name, *options):
    """The layer and its reference, over causal attention."""
    by_hand = reference_core.Dense(reference_masks.Causal())
    return getattr(layers, name)(Dense(Causal()), *options), getattr(reference, name)(by_hand, *options)


@pytest.mark.parametrize(("name", "options"), [("Rotary", (100.0,)), ("ScaledRotary", SCALED)])
@few
@given(seed=seeds)
def test_value_and_gradient_are_those_by_hand(name, options, seed):
    attend, by_hand = pair(name, *options)
    arrays, where = heads(seed), somewhere(seed)
    expected, saved = by_hand(*arrays, *where)
    d_o = np.random.default_rng(seed).standard_normal(expected.shape)
    where = jax.tree.map(jnp.asarray, where)
    actual, pullback = jax.vjp(lambda q, k, v: attend(q, k, v, *where), *map(jnp.asarray, arrays))
    assert_close(actual, expected, FORMULA)
    assert_close(pullback(jnp.asarray(d_o)), by_hand.backward(saved, d_o), FORMULA)


@few
@given(seed=seeds)
def test_it_is_dot_product_attention_of_turned_queries_and_keys(seed):
    q, k, v = map(jnp.asarray, heads(seed))
    query, key = Tokens.arange(T, 3), Tokens.arange(S, 2)
    expected = dot_product_attention(
        rotary(q, query.position, 50.0), rotary(k, key.position, 50.0), v, Causal()(query, key)
    )
    assert_close(Rotary(Dense(Causal()), 50.0)(q, k, v, query, key), expected, FORMULA)


@few
@given(seed=seeds)
def test_where_all_stand_at_one_place_it_is_attention_without_positions(seed):
    q, k, v = map(jnp.asarray, heads(seed))
    query, key = (Tokens(jnp.full(n, 77), jnp.zeros(n, int)) for n in (T, S))
    assert_close(Rotary(Dense(Causal()))(q, k, v, query, key), dot_product_attention(q, k, v), FORMULA)


@few
@given(seed=seeds, shift=st.integers(1, 5000))
def test_only_distances_count(seed, shift):
    q, k, v = map(jnp.asarray, heads(seed))
    near = Rotary(Dense(Causal()))(q, k, v, Tokens.arange(T, 2), Tokens.arange(S))
    far = Rotary(Dense(Causal()))(q, k, v, Tokens.arange(T, 2 + shift), Tokens.arange(S, shift))
    assert_close(far, near, FORMULA)


@few
@given(seed=seeds)
def test_by_the_plain_frequencies_it_is_rotary(seed):
    q, k, v = map(jnp.asarray, heads(seed))
    query, key = Tokens.arange(T, 2), Tokens.arange(S)
    scaled = ScaledRotary(Dense(Causal()), rotary_frequencies(K, 100.0))
    expected = Rotary(Dense(Causal()), 100.0)(q, k, v, query, key)
    assert_close(scaled(q, k, v, query, key), expected, FORMULA)


@few
@given(seed=seeds)
def test_a_magnitude_multiplies_the_scores_by_its_square(seed):
    q, k, v = map(jnp.asarray, heads(seed))
    query, key, frequencies = Tokens.arange(T, 2), Tokens.arange(S), linear_frequencies(K, factor=2.0)
    scaled = ScaledRotary(Dense(Causal()), frequencies, 1.5)(q, k, v, query, key)
    expected = ScaledRotary(Dense(Causal()), frequencies)(1.5**2 * q, k, v, query, key)
    assert_close(scaled, expected, FORMULA)


@few
@given(seed=seeds)
def test_it_turns_for_any_attention_that_it_holds(seed):
    q, k, v = map(jnp.asarray, heads(seed))
    query, key, rule = Tokens.arange(T, 1), Tokens.arange(S), Causal() & SlidingWindow(3)
    blockwise = Rotary(Blockwise(rule, t_block=2, s_block=2))(q, k, v, query, key)
    assert_close(blockwise, Rotary(Dense(rule))(q, k, v, query, key), FORMULA)


def test_other_frequencies_need_no_new_compilation_but_another_theta_does():
    attend = jax.jit(lambda attend, *arguments: attend(*arguments))
    arguments = (*map(jnp.asarray, heads(0)), Tokens.arange(T), Tokens.arange(S))
    for factor in (1.0, 2.0):
        attend(ScaledRotary(Dense(Causal()), linear_frequencies(K, factor=factor), factor), *arguments)
    assert attend._cache_size() == 1
    for theta in (100.0, 200.0):
        attend(Rotary(Dense(Causal()), theta), *arguments)
    assert attend._cache_size() == 3


def held(size):
    nothing = Tokens(np.full(size, -1, np.int32), np.zeros(size, np.int32))
    return KVCache(k=jnp.zeros((G, size, K)), v=jnp.zeros((G, size, V)), tokens=nothing)


def test_a_cache_holds_turned_keys_and_a_function_around_the_attend_has_them_unturned_for_frequencies_of_the_moment():
    q, k, v = map(jnp.asarray, heads(0, t=S))
    where = Tokens.arange(S, 3)
    turned, _ = append_and_attend(held(S + 3), q, k, v, where, Rotary(Dense(Causal()), 50.0))
    assert_close(turned.k[:, 3:], rotary(k, where.position, 50.0), FORMULA)
    cache = held(S)
    for first, last in ((0, 2), (2, S)):
        attend = ScaledRotary(Dense(Causal()), linear_frequencies(K, factor=float(last)))
        chunk = Tokens.arange(last - first, first)
        new = slice(first, last)
        cache, o = append_and_attend(cache, q[:, :, new], k[:, new], v[:, new], chunk, lambda *a, by=attend: by(*a))
    everywhere = Tokens.arange(S)  # the second chunk's frequencies turn all, the first chunk's keys too
    assert_close(cache.k, k, FORMULA)
    assert_close(o, attend(q, k, v, everywhere, everywhere)[:, :, 2:], FORMULA)


@register
@dataclass(frozen=True)
class Doubled(Rotary):
    """An heir whose whole is not `prepare` and `attend`."""

    def __call__(self, *arguments):
        return 2 * super().__call__(*arguments)


def test_an_heir_with_a_call_of_its_own_is_asked_whole_of_keys_as_they_were():
    q, k, v = map(jnp.asarray, heads(1, t=S))
    where, attend = Tokens.arange(S), Doubled(Dense(Causal()))
    cache, o = append_and_attend(held(S), q, k, v, where, attend)
    assert_close((cache.k, o), (k, attend(q, k, v, where, where)), FORMULA)
