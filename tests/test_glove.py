"""GloVe: the counts one by one, the paper's objective by hand, and what vectors of known structure give back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.data import cooccurrence
from minilm.data.windows import Text
from minilm.models import glove
from minilm.reference.models import glove as reference
from tests.strategies import seeds
from tests.tolerances import DIFFERENCE, FORMULA, assert_close

N, D, P = 7, 3, 9
CONFIG = glove.Config(vocab_size=N, d_model=D, frequent=5.0, power=0.75, learning_rate=0.3)
value_and_gradient = jax.jit(jax.value_and_grad(glove.loss), static_argnames="config")
adagrad = jax.jit(glove.adagrad, static_argnames="config")
cheap = settings(max_examples=40)  # nothing is compiled


def example(seed):
    """Parameters of which nothing is zero; pairs rare, frequent, repeated, of a word with itself, and none at all."""
    rng = np.random.default_rng(seed)
    params = glove.Params(*(rng.standard_normal(shape) for shape in ((N, D), N, (N, D), N)))
    counts = rng.choice([0.0, 0.3, 1.0, 4.9, 5.0, 70.0], P)
    return params, glove.Batch(rng.integers(0, N, P), rng.integers(0, N, P), counts)


@given(seeds)
def test_all_at_once_equals_pair_by_pair_in_value_and_gradient(seed):
    params, batch = example(seed)
    expected, saved = reference.loss(params, batch, config=CONFIG)
    loss, gradient = value_and_gradient(*jax.tree.map(jnp.asarray, (params, batch)), config=CONFIG)
    assert_close(loss, expected, FORMULA)
    assert_close(gradient, reference.loss_backward(saved)[0], FORMULA)
    assert_close(jax.tree.map(lambda g: 3 * g, gradient), reference.loss_backward(saved, 3.0)[0], FORMULA)


@given(seeds)
def test_the_gradient_by_hand_equals_central_differences(seed):
    params, batch = example(seed)
    gradient, _ = reference.loss_backward(reference.loss(params, batch, config=CONFIG)[1])
    rng, h = np.random.default_rng(seed), 1e-5
    step = glove.Params(*(rng.standard_normal(p.shape) for p in params))

    def moved(by):
        return reference.loss(
            glove.Params(*(p + by * d for p, d in zip(params, step, strict=True))), batch, config=CONFIG
        )[0]

    slope = sum(np.sum(g * d) for g, d in zip(gradient, step, strict=True))
    assert_close(slope, (moved(h) - moved(-h)) / (2 * h), DIFFERENCE)


def test_the_objective_is_the_papers():
    params = glove.Params(np.array([[2.0]]), np.array([0.5]), np.array([[3.0]]), np.array([0.25]))
    for x, f in ((16.0, 0.25298221281347033), (100.0, 1.0), (400.0, 1.0)):  # (16/100)^0.75, and never above 1
        batch = glove.Batch(np.array([0]), np.array([0]), np.array([x]))
        J = glove.loss(*jax.tree.map(jnp.asarray, (params, batch)), config=glove.Config(vocab_size=1))
        assert_close(J, f * (2 * 3 + 0.5 + 0.25 - np.log(x)) ** 2, FORMULA)


@given(seeds)
def test_a_step_in_the_rows_read_is_adagrad_pair_by_pair(seed):
    params, batch = example(seed)
    squares = glove.Params(*(np.random.default_rng(seed).uniform(0.5, 2, p.shape) for p in params))
    state = glove.State(params, squares)
    expected = reference.adagrad(state, batch, config=CONFIG)
    assert_close(adagrad(*jax.tree.map(jnp.asarray, (state, batch)), config=CONFIG), expected, FORMULA)


def test_a_word_and_its_neighbour_are_not_exchanged():
    params, batch = example(3)
    exchanged = glove.Params(*params[2:], *params[:2])
    loss, _ = value_and_gradient(*jax.tree.map(jnp.asarray, (exchanged, batch)), config=CONFIG)
    assert abs(loss - reference.loss(params, batch, config=CONFIG)[0]) > 0.001


texts = st.tuples(seeds, st.integers(1, 30), st.integers(1, 4))


@cheap
@given(texts)
def test_counting_by_sorting_equals_counting_by_walking(drawn):
    seed, length, window = drawn
    rng = np.random.default_rng(seed)
    text = Text(rng.integers(0, N, length), np.sort(rng.integers(0, 3, length)), np.ones(N, int))
    expected = np.zeros((N, N))
    for s in range(length):
        for t in range(length):
            if 0 < abs(s - t) <= window and text.document[s] == text.document[t]:
                expected[text.tokens[s], text.tokens[t]] += 1 / abs(s - t)
    x = cooccurrence.count(text, window)
    dense = np.zeros((N, N))
    dense[x.word, x.other] = x.count
    assert_close(dense, expected, 8, np.float32)
    assert (x.count > 0).all()
    assert (np.diff(x.word.astype(int) * N + x.other) > 0).all()
    assert (dense == dense.T).all()


@cheap
@given(seeds, st.integers(1, 50), st.integers(1, 7))
def test_an_epoch_is_every_pair_once_in_an_order_of_seed_and_epoch(seed, pairs, size):
    x = cooccurrence.Cooccurrence(np.arange(pairs), np.arange(pairs) + 1, np.arange(pairs) + 0.5)

    def epoch(seed, number):
        parts = list(cooccurrence.batches(x, size, seed, number))
        return [np.concatenate([part[name].ravel() for part in parts]) for name in x._fields]

    word, other, count = epoch(seed, 0)
    real = count > 0
    assert sorted(word[real]) == list(range(pairs))
    assert (other == word + 1)[real].all()
    assert (count == word + 0.5)[real].all()
    assert (epoch(seed, 0)[0] == word).all()
    assert pairs < 8 or (epoch(seed, 1)[0] != word).any()


def test_counts_made_from_vectors_give_vectors_of_their_products():
    rng = np.random.default_rng(0)
    v = rng.standard_normal((30, 3))
    log_x = v @ v.T + 2
    word, other = (axis.ravel() for axis in np.indices(log_x.shape))
    x = cooccurrence.Cooccurrence(word, other, np.exp(log_x).ravel().astype(np.float32))
    config = glove.Config(vocab_size=30, d_model=8, epochs=15, learning_rate=0.3, batch_size=4)
    params = glove.train(x, config)
    fitted = params.embedding @ params.other_embedding.T + params.bias[:, None] + params.other_bias
    assert np.corrcoef(np.asarray(fitted).ravel(), log_x.ravel())[0, 1] > 0.97
    assert glove.vectors(params).shape == (30, 8)


def test_the_first_vectors_are_small_and_the_first_squares_one():
    state = glove.init(jax.random.key(0), glove.Config(vocab_size=40, d_model=10))
    assert [p.shape for p in state.params] == [(40, 10), (40,), (40, 10), (40,)]
    for p, squares in zip(*state, strict=True):
        assert 0.04 < abs(p).max() <= 0.05
        assert p.min() < 0 < p.max()
        assert (squares == 1).all()
    assert (state.params.embedding != state.params.other_embedding).all()


def test_training_is_a_function_of_the_seed():
    x = cooccurrence.count(Text(np.arange(40) % N, np.zeros(40, int), np.ones(N, int)), 3)
    first, again, other = (glove.train(x, glove.Config(N, D, epochs=2, batch_size=8), seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first.embedding != other.embedding).any()


def test_a_text_of_one_word_has_no_pairs():
    x = cooccurrence.count(Text(np.array([0]), np.array([0]), np.array([1])))
    assert not x.count.size
    with pytest.raises(ValueError, match="no two words"):
        glove.train(x, glove.Config(1))


def test_a_table_of_other_words_or_of_no_numbers_is_refused():
    x = cooccurrence.Cooccurrence(np.array([0, 5]), np.array([5, 0]), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"words 0 to 2, .* holds words up to 5"):
        glove.train(x, glove.Config(3))
    with pytest.raises(ValueError, match="counts that are not finite"):
        glove.train(x._replace(count=np.array([1.0, np.nan])), glove.Config(6))
    with pytest.raises(ValueError, match="counts of 2 words, but the text's numbers run from 0 to 3"):
        cooccurrence.count(Text(np.array([0, 3, 0]), np.zeros(3, int), np.array([2, 1])))
