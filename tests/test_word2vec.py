"""word2vec: equal to what is done pair by pair, its step to plain gradient descent, and what it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.data import windows
from minilm.models import word2vec
from minilm.reference.models import word2vec as reference
from tests.strategies import seeds
from tests.tolerances import DIFFERENCE, FORMULA, assert_close

N, D, B, T, S, Z = 11, 3, 2, 5, 9, 4
LOSSES = ("skip_gram", "cbow")
each_loss = pytest.mark.parametrize("name", LOSSES)
shapes = st.sampled_from([(1, Z), (6, 0)])  # outputs a word, and noise: negative sampling, hierarchical softmax
value_and_gradient = {n: jax.jit(jax.value_and_grad(getattr(word2vec, n), allow_int=True)) for n in LOSSES}
descend = jax.jit(word2vec.descend, static_argnums=0)


def example(seed, ways=1, noise=Z):
    """Parameters of which nothing is zero; a word without a neighbour, words that come twice, ways that end early."""
    rng = np.random.default_rng(seed)
    params = word2vec.Params(rng.standard_normal((N, D)), rng.standard_normal((N, D)))
    near = rng.random((B, T, S)) < 0.4
    near[0, 1] = False
    sign = rng.choice([-1, 1], (B, T, ways)) * (rng.random((B, T, ways)) < 0.8)
    return params, word2vec.Batch(
        context=rng.integers(0, N, (B, S)),
        near=near,
        output=rng.integers(0, N, (B, T, ways)),
        sign=sign.astype(np.int8),
        noise=rng.integers(0, N, noise),
        noise_weight=np.float64(0.7),
    )


@each_loss
@given(seeds, shapes)
def test_all_at_once_equals_pair_by_pair_in_value_and_gradient(name, seed, shape):
    params, batch = example(seed, *shape)
    expected, saved = getattr(reference, name)(params, batch)
    loss, gradient = value_and_gradient[name](*jax.tree.map(jnp.asarray, (params, batch)))
    assert_close(loss, expected, FORMULA)
    assert_close(gradient, getattr(reference, name + "_backward")(saved)[0], FORMULA)


@each_loss
@given(seeds)
def test_the_gradient_by_hand_equals_central_differences(name, seed):
    params, batch = example(seed, 2)
    forward, backward = getattr(reference, name), getattr(reference, name + "_backward")
    gradient, _ = backward(forward(params, batch)[1])
    rng, h = np.random.default_rng(seed), 1e-5
    step = word2vec.Params(*(rng.standard_normal(p.shape) for p in params))

    def moved(by):
        return forward(word2vec.Params(*(p + by * d for p, d in zip(params, step, strict=True))), batch)[0]

    slope = sum(np.sum(g * d) for g, d in zip(gradient, step, strict=True))
    assert_close(slope, (moved(h) - moved(-h)) / (2 * h), DIFFERENCE)


@each_loss
@given(seeds, shapes)
def test_a_step_in_the_rows_read_is_gradient_descent_in_all_parameters(name, seed, shape):
    params, batch = example(seed, *shape)
    gradient, _ = getattr(reference, name + "_backward")((params, batch))
    expected = word2vec.Params(*(p - 0.3 * g for p, g in zip(params, gradient, strict=True)))
    stepped = descend(getattr(word2vec, name), *jax.tree.map(jnp.asarray, (params, batch)), 0.3)
    assert_close(stepped, expected, FORMULA)


@each_loss
@given(seeds)
def test_who_predicts_and_who_is_predicted_are_not_exchanged(name, seed):
    params, batch = example(seed)
    exchanged = word2vec.Params(params.output, params.embedding)
    expected, _ = getattr(reference, name)(params, batch)
    loss, _ = value_and_gradient[name](*jax.tree.map(jnp.asarray, (exchanged, batch)))
    assert abs(loss - expected) > 0.001


@each_loss
def test_a_batch_without_neighbours_changes_nothing(name):
    params, batch = example(0)
    nobody = batch._replace(near=np.zeros_like(batch.near))
    loss, gradient = value_and_gradient[name](*jax.tree.map(jnp.asarray, (params, nobody)))
    assert loss == 0
    assert all((g == 0).all() for g in gradient)


@given(seeds, st.integers(2, 9))
def test_hierarchical_softmax_sums_to_one_over_the_vocabulary(seed, n):
    rng = np.random.default_rng(seed)
    tree = windows.huffman(rng.integers(1, 50, n))
    params = word2vec.Params(rng.standard_normal((1, D)), rng.standard_normal((n - 1, D)))
    one = {"context": np.zeros((1, 1), int), "near": np.ones((1, 1, 1), bool), "noise": np.zeros(0, int)}
    negative_log_p = [
        reference.skip_gram(
            params,
            word2vec.Batch(output=nodes[None, None], sign=signs[None, None], noise_weight=np.float64(0), **one),
        )[0]
        for nodes, signs in zip(*tree, strict=True)
    ]
    assert_close(np.exp(-np.array(negative_log_p)).sum(), 1.0, FORMULA)


def test_the_first_vectors_are_small_and_the_first_outputs_zero():
    params = word2vec.init(jax.random.key(0), word2vec.Config(vocab_size=50, d_model=10))
    assert params.embedding.shape == params.output.shape == (50, 10)
    assert 0.04 < abs(params.embedding).max() <= 0.05
    assert params.embedding.min() < 0 < params.embedding.max()
    assert not params.output.any()


TWO_WORLDS = windows.Text(
    tokens=np.concatenate([np.random.default_rng(i).integers(0, 6, 20) + 6 * (i % 2) for i in range(200)]),
    document=np.repeat(np.arange(200), 20),
    counts=np.full(12, 333),
)
SMALL = word2vec.Config(vocab_size=12, d_model=8, subsample=1.0, epochs=4, learning_rate=0.02, stretch=16, stretches=2)


@pytest.mark.parametrize("negatives", [0, 5])
@each_loss
def test_words_in_the_same_company_become_alike_and_others_do_not(name, negatives):
    config = word2vec.Config(**{**vars(SMALL), "negatives": negatives})
    v = np.array(word2vec.train(getattr(word2vec, name), TWO_WORLDS, config).embedding)
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    cosine, same = v @ v.T, np.arange(12)[:, None] // 6 == np.arange(12) // 6
    assert cosine[same].min() > cosine[~same].max()


def test_training_is_a_function_of_the_seed():
    config = word2vec.Config(**{**vars(SMALL), "epochs": 1})
    first, again, other = (word2vec.train(word2vec.skip_gram, TWO_WORLDS, config, seed) for seed in (3, 3, 4))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first.embedding != other.embedding).any()


def test_vectors_that_leave_the_numbers_are_told_of():
    config = word2vec.Config(**{**vars(SMALL), "learning_rate": 10.0})
    with pytest.raises(FloatingPointError, match=r"learning_rate below 10.0"):
        word2vec.train(word2vec.skip_gram, TWO_WORLDS, config)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"subsample": 0.0}, "subsample must be above 0"),
        ({"window": 0}, "window must be at least 1, and is 0"),
        ({"shared": 0}, "shared must be at least 1"),
        ({"negatives": -1}, "negatives must be at least 0"),
    ],
)
def test_a_setting_under_which_nothing_is_learnt_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        word2vec.Config(N, **settings)


def test_a_text_of_another_vocabulary_is_refused():
    _, text = windows.number([["a", "b", "c"] * 9], min_count=1)
    with pytest.raises(ValueError, match=r"The text counts 3 words, and config.vocab_size is 2"):
        word2vec.train(word2vec.skip_gram, text, word2vec.Config(2))
