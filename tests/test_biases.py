"""What a query adds to its scores for where a key stands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.layers.attention import biases
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Causal
from minilm.reference.attention import biases as reference
from minilm.shapes import Tokens
from tests.tolerances import FORMULA, REDUCTION, assert_close


def test_alibi_has_slopes_for_any_number_of_heads():
    for n_heads in range(1, 81):
        slopes = biases.alibi_slopes(n_heads)
        assert_close(np.array(slopes), np.array(reference.alibi_slopes(n_heads)), REDUCTION)
        assert len(set(slopes)) == n_heads
        assert all(0 < slope < 1 for slope in slopes)


def test_alibi_has_the_slopes_of_its_paper():
    assert biases.alibi_slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert biases.alibi_slopes(16)[:2] == [2**-0.5, 2**-1.0]
    assert biases.alibi_slopes(12)[8:] == [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]


def test_alibi_orders_its_slopes_by_group_then_query_head():
    assert biases.Alibi.of(2, 4).slopes.tolist() == [biases.alibi_slopes(8)[:4], biases.alibi_slopes(8)[4:]]
    assert biases.Alibi.of(3).slopes.shape == (3, 1)


@pytest.mark.parametrize("bias", [biases.Alibi.of(2, 3), biases.T5Relative(jnp.arange(32.0 * 6).reshape(32, 2, 3))])
@given(start=st.integers(1, 500))
def test_a_bias_depends_only_on_the_distance(bias, start):
    here, there = Tokens.arange(4), Tokens.arange(4, start=start)
    np.testing.assert_array_equal(bias(here, here), bias(there, there))


@pytest.mark.parametrize("options", [(), (False, 9)], ids=["encoder", "decoder"])
@pytest.mark.parametrize("name", ["Alibi", "T5Relative"])
def test_a_bias_and_its_gradient_equal_those_by_hand(name, options):
    rng, query, key = np.random.default_rng(0), Tokens.arange(4, start=3), Tokens.arange(12)
    array = rng.standard_normal((2, 3) if name == "Alibi" else (8, 2, 3))
    options = options if name == "T5Relative" else ()
    bias, by_hand = getattr(biases, name)(jnp.asarray(array), *options), getattr(reference, name)(array, *options)
    b, pullback = jax.vjp(lambda bias: bias(query, key), bias)
    expected, saved = by_hand(query, key)
    d_b = rng.standard_normal(expected.shape)
    gradient = by_hand.backward(saved, d_b)
    assert_close(b, expected, FORMULA)
    assert_close(jax.tree.leaves(pullback(jnp.asarray(d_b))[0])[0], next(iter(vars(gradient).values())), FORMULA)
    assert list(vars(gradient).values())[1:] == list(vars(by_hand).values())[1:]


def test_without_slope_alibi_is_no_bias():
    q, k, v = jnp.ones((2, 3, 4, 5)), jnp.ones((2, 4, 5)), jnp.arange(8.0).reshape(2, 4, 1)
    where = Tokens.arange(4)
    flat = Dense(Causal(), biases.Alibi(jnp.zeros((2, 3))))(q, k, v, where, where)
    np.testing.assert_array_equal(flat, Dense(Causal())(q, k, v, where, where))


# The distances at which T5 of Hugging Face's transformers 5.23 enters bucket 1, 2, ..., with 32 buckets up to 128.
ENCODER = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91)
DECODER = (*range(1, 17), 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113)


def test_t5_has_the_buckets_of_its_authors():
    behind = jnp.arange(401)
    encoder, decoder = ((behind[:, None] >= jnp.array(bounds)).sum(1) for bounds in (ENCODER, DECODER))
    np.testing.assert_array_equal(biases.t5_bucket(-behind), encoder)
    np.testing.assert_array_equal(biases.t5_bucket(behind[1:]), 16 + encoder[1:])
    np.testing.assert_array_equal(biases.t5_bucket(-behind, bidirectional=False), decoder)
    np.testing.assert_array_equal(biases.t5_bucket(behind, bidirectional=False), 0 * behind)


def test_t5_buckets_widen_with_the_distance():
    found = np.asarray(biases.t5_bucket(-jnp.arange(300), bidirectional=False))
    steps, sizes = np.diff(found), np.bincount(found)
    assert set(steps) == {0, 1}
    assert (sizes[:16] == 1).all()
    assert (sizes[16:] > 1).all()
    assert sizes[-1] > sizes[-2] > sizes[16]


def test_t5_relative_gives_each_head_its_column():
    table = jnp.arange(32.0 * 6).reshape(32, 2, 3)
    bias = biases.T5Relative(table, bidirectional=False)(Tokens.arange(1, start=3), Tokens.arange(4))
    assert_close(bias[:, :, 0, 0], table[3], FORMULA)
    assert_close(bias[:, :, 0, 3], table[0], FORMULA)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_begins_with_a_table_for_the_authors_buckets(bidirectional):
    key, where = jax.random.key(3), Tokens.arange(200)
    bias = biases.T5Relative.init(key, 2, 3, bidirectional=bidirectional)
    assert bias.table.shape == (32, 2, 3)
    assert 0.7 < bias.table.std() < 1.3
    bucket = biases.t5_bucket(where.position - where.position[:, None], bidirectional=bidirectional)
    np.testing.assert_array_equal(bias(where, where), jnp.moveaxis(bias.table[bucket], (0, 1), (2, 3)))
    assert (biases.t5_relative(bias.table, where, where) == bias(where, where)).all() == bidirectional


def test_t5_is_bidirectional_with_one_query_head_for_each_group_unless_told_otherwise():
    bias = biases.T5Relative.init(jax.random.key(0), 5, p=8)
    assert (bias.table.shape, bias.bidirectional, bias.max_distance) == ((8, 5, 1), True, 128)


def test_more_buckets_of_one_distance_than_there_are_distances_are_refused():
    bias = biases.T5Relative.init(jax.random.key(0), 1, p=512, bidirectional=False)
    with pytest.raises(ValueError, match="of the 512 buckets of a direction 256 are of one distance each: expected at"):
        bias(Tokens.arange(3), Tokens.arange(3))
    half = biases.T5Relative.init(jax.random.key(0), 1, p=256, bidirectional=False)
    assert half(Tokens.arange(3), Tokens.arange(3)).shape == (1, 1, 3, 3)
