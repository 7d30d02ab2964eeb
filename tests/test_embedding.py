"""Laws of the embedding: gradients of repeated and of untouched rows, and what an id out of range does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.layers.embedding import embed, init_embedding, unembed
from tests.strategies import keys, normal, seeds
from tests.tolerances import FORMULA, REDUCTION, SAMPLING, assert_close


@given(seed=seeds)
def test_rows_read_twice_hear_twice_and_unread_rows_hear_exactly_nothing(seed):
    table = jnp.asarray(np.random.default_rng(seed).standard_normal((5, 3)))
    d_y = jnp.asarray(np.random.default_rng(seed + 1).standard_normal((2, 2, 3)))
    _, vjp = jax.vjp(lambda table: embed(table, jnp.array([[4, 1], [4, 2]])), table)
    (gradient,) = vjp(d_y)
    assert (gradient[jnp.array([0, 3])] == 0).all()
    assert_close(gradient[4], d_y[0, 0] + d_y[1, 0], FORMULA)
    assert_close(gradient[jnp.array([1, 2])], d_y[:, 1], FORMULA)


@pytest.mark.parametrize("token", [-1, 5, 2**31 - 1])
def test_an_id_out_of_range_shows_itself_as_nan_and_teaches_no_row(token):
    table = jnp.ones((5, 3))
    y, vjp = jax.vjp(lambda table: embed(table, jnp.array([token, 2])), table)
    assert jnp.isnan(y[0]).all()
    assert (y[1] == 1).all()
    assert (vjp(jnp.ones_like(y))[0].sum(-1) == jnp.array([0, 0, 3, 0, 0])).all()


@given(key=keys())
def test_unembedding_orthonormal_rows_finds_the_token_again(key):
    table = jnp.linalg.qr(normal(key, (5, 4)))[0].T  # 4 orthonormal rows of width 5
    assert_close(unembed(table, embed(table, jnp.arange(4))), jnp.eye(4), FORMULA)


@given(seed=seeds)
def test_logits_come_in_the_dtype_of_the_activations_even_with_a_bfloat16_table(seed):
    rng = np.random.default_rng(seed)
    table, x = (
        jnp.asarray(rng.standard_normal((7, 16)), jnp.bfloat16),
        jnp.asarray(rng.standard_normal((2, 16)), jnp.float32),
    )
    y, vjp = jax.vjp(unembed, table, x)
    d_table, d_x = vjp(y)
    assert (y.dtype, d_table.dtype, d_x.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    exact = np.asarray(x.astype(jnp.bfloat16), np.float64) @ np.asarray(table, np.float64).T
    assert_close(y, exact, REDUCTION, jnp.float32)


@given(key=keys(), deviation=st.sampled_from([0.02, 1.0]))
def test_the_initial_table_has_the_deviation_asked_for(key, deviation):
    table = init_embedding(key, 500, 40, deviation=deviation)
    assert table.dtype == jnp.float32
    assert abs(table.std() / deviation - 1) < 6 / np.sqrt(2 * table.size)


def test_an_initial_embedding_has_the_deviation_of_gpt_2_unless_told_otherwise():
    for told, deviation in (({}, 0.02), ({"deviation": 0.5}, 0.5)):
        embedding = init_embedding(jax.random.key(0), 300, 40, **told)
        assert abs(embedding.std() / deviation - 1) < SAMPLING
