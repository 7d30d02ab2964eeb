"""Laws of dropout: the identity without chance, the expected value with it, and errors that are sentences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.layers.dropout import dropout
from tests.strategies import arrays, keys
from tests.tolerances import FORMULA, assert_close

rates = st.sampled_from([0.1, 0.5, 0.9])


@given(x=arrays(3, 5), key=keys(), rate=rates)
def test_dropout_without_a_key_or_at_rate_zero_is_the_identity_bitwise(x, key, rate):
    x = jnp.asarray(x)
    assert (dropout(x, rate) == x).all()
    assert (dropout(x, 0.0, key) == x).all()


@given(key=keys(), rate=rates)
def test_entries_are_kept_as_often_as_the_rate_says_and_the_mean_stays(key, rate):
    n = 20_000
    y = dropout(jnp.ones((n // 4, 4)), rate, key)
    kept = int((y != 0).sum())
    assert abs(kept - n * (1 - rate)) < 6 * np.sqrt(n * rate * (1 - rate))  # six standard deviations: once in 5e8
    assert len(np.unique(y)) == 2
    assert abs(float(y.mean()) - 1) < 6 * np.sqrt(rate / (1 - rate) / n)


@given(key=keys(), rate=rates, x=arrays(2, 6))
def test_which_entries_are_kept_depends_on_the_key_and_not_on_the_values(key, rate, x):
    kept = dropout(jnp.ones((2, 6)), rate, key) != 0
    x = jnp.asarray(x)
    assert (dropout(x, rate, key) == jnp.where(kept, x / (1 - rate), 0)).all()


@given(key=keys(), rate=rates, x=arrays(4, 6))
def test_what_is_kept_is_what_pytorch_makes_of_it(key, rate, x):
    torch = pytest.importorskip("torch")
    ours, theirs = dropout(jnp.asarray(x), rate, key), torch.nn.functional.dropout(torch.tensor(x), rate).numpy()
    kept = (ours != 0) & (theirs != 0)
    assert_close(ours[kept], theirs[kept], FORMULA)


def test_another_key_keeps_other_entries_and_the_same_key_the_same():
    x, key = jnp.ones(64), jax.random.key(3)
    assert (dropout(x, 0.5, key) == dropout(x, 0.5, key)).all()
    assert (dropout(x, 0.5, key) != dropout(x, 0.5, jax.random.key(4))).any()


@given(key=keys())
def test_the_draw_is_the_same_in_every_dtype(key):
    kept = [dropout(jnp.ones(50, dtype), 0.3, key) != 0 for dtype in (jnp.bfloat16, jnp.float32, jnp.float64)]
    assert (kept[0] == kept[1]).all()
    assert (kept[1] == kept[2]).all()


@given(key=keys(), rate=rates)
def test_a_dropped_entry_is_zero_even_where_it_was_not_a_number_and_hears_no_gradient(key, rate):
    kept = dropout(jnp.ones(40), rate, key) != 0
    x = jnp.where(kept, 1.0, jnp.nan)
    y, vjp = jax.vjp(lambda x: dropout(x, rate, key), x)
    (gradient,) = vjp(jnp.ones(40))
    assert jnp.isfinite(y).all()
    assert (gradient[~kept] == 0).all()


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
@pytest.mark.parametrize("key", [None, jax.random.key(0)])
def test_a_rate_outside_the_half_open_interval_is_refused_in_a_sentence(rate, key):
    with pytest.raises(ValueError, match=r"A dropout rate in \[0, 1\) was expected, but it is"):
        dropout(jnp.ones(3), rate, key)
