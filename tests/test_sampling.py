"""What a sampler may do to a distribution, and what it draws from it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minilm import sampling
from minilm.sampling import EVERY, GREEDY, Sampler, check_sampler
from tests import tolerances
from tests.strategies import keys, normal, seeds

N = 11
logits = st.builds(
    lambda seed, spread: spread * np.random.default_rng(seed).standard_normal(N),
    seeds,
    st.sampled_from([0.1, 1.0, 5.0]),
)
tied_logits = st.lists(st.integers(-2, 2), min_size=N, max_size=N).map(lambda z: np.array(z, np.float64))
any_logits = logits | tied_logits
masks = st.lists(st.booleans(), min_size=N, max_size=N).map(np.array)
fractions = st.floats(0.01, 0.99)
samplers = st.builds(
    Sampler, st.floats(0.2, 3.0), st.integers(1, N + 2), st.floats(0.05, 1.0), st.floats(0.0, 0.9), st.floats(0.5, 2.0)
)
UNSEEN = np.zeros(N, bool)


def ranked(z):
    """The tokens, likeliest first, of equals the smaller id first."""
    return sorted(range(len(z)), key=lambda j: (-z[j], j))


def softmax(z):
    exponentials = [math.exp(x - max(z)) for x in z]
    return [x / sum(exponentials) for x in exponentials]


def kept(z):
    return {j for j in range(len(z)) if z[j] > -math.inf}


@given(any_logits, masks)
def test_neutral_settings_change_nothing_bitwise(z, seen):
    np.testing.assert_array_equal(sampling.constrain(z, seen, Sampler()), z)
    np.testing.assert_array_equal(sampling.repetition_penalty(z, seen, 1.0), z)
    np.testing.assert_array_equal(sampling.temperature(z, 1.0), z)
    np.testing.assert_array_equal(sampling.top_k(z, EVERY), z)
    np.testing.assert_array_equal(sampling.top_p(z, 1.0), z)
    np.testing.assert_array_equal(sampling.min_p(z, 0.0), z)


@given(any_logits, masks, st.floats(0.1, 5.0))
def test_repetition_penalty_touches_only_what_was_seen(z, seen, penalty):
    expected = [(x / penalty if x > 0 else x * penalty) if s else x for x, s in zip(z, seen, strict=True)]
    tolerances.assert_close(sampling.repetition_penalty(z, seen, penalty), np.array(expected), tolerances.FORMULA)


@given(logits, st.floats(0.1, 5.0))
def test_temperature_divides_the_logits(z, temperature):
    tolerances.assert_close(sampling.temperature(z, temperature), z / temperature, tolerances.FORMULA)


@given(any_logits, keys())
def test_temperature_zero_is_the_argmax_for_every_key(z, key):
    assert sampling.sample(key, z, UNSEEN, GREEDY) == np.argmax(z) == sampling.greedy(z)
    assert kept(sampling.temperature(z, 0.0)) == {int(np.argmax(z))}


@given(logits, keys(), st.floats(0.0, 1e-3))
def test_a_falling_temperature_reaches_the_argmax(z, key, temperature):
    second, first = sorted(z)[-2:]
    assume(first - second > 0.1)
    assert sampling.sample(key, z, UNSEEN, Sampler(temperature=temperature)) == np.argmax(z)


@given(any_logits, st.integers(1, N + 3))
def test_top_k_keeps_the_k_largest_and_no_more(z, k):
    result = np.asarray(sampling.top_k(z, k))
    assert kept(result) == set(ranked(z)[:k])
    np.testing.assert_array_equal(result[list(kept(result))], z[list(kept(result))])


@given(any_logits, fractions)
def test_top_p_keeps_the_smallest_prefix_that_holds_p(z, p):
    probability, order, expected, mass = softmax(z), ranked(z), [], 0.0
    assume(all(abs(sum(probability[j] for j in order[:m]) - p) > 1e-9 for m in range(N)))
    while mass < p:
        expected.append(order[len(expected)])
        mass += probability[expected[-1]]
    assert kept(np.asarray(sampling.top_p(z, p))) == set(expected)


@given(any_logits, st.floats(1e-12, 1e-3))
def test_top_p_always_keeps_one(z, p):
    assert kept(np.asarray(sampling.top_p(10 * z, p))) >= {ranked(z)[0]}


@given(any_logits, fractions)
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(z, p):
    probability = softmax(z)
    assume(all(abs(x - p * max(probability)) > 1e-9 for x in probability))
    assert kept(np.asarray(sampling.min_p(z, p))) == {j for j in range(N) if probability[j] >= p * max(probability)}


@given(any_logits, masks, samplers)
def test_one_sort_gives_what_the_five_functions_give_in_order(z, seen, sampler):
    step_by_step = sampling.repetition_penalty(z, seen, sampler.repetition_penalty)
    step_by_step = sampling.temperature(step_by_step, sampler.temperature)
    step_by_step = sampling.top_k(step_by_step, sampler.top_k)
    step_by_step = sampling.top_p(step_by_step, sampler.top_p)
    step_by_step = sampling.min_p(step_by_step, sampler.min_p)
    np.testing.assert_array_equal(sampling.constrain(z, seen, sampler), step_by_step)


@pytest.mark.parametrize(("setting", "value"), [("top_k", 3), ("top_p", 0.5), ("min_p", 0.5)])
@given(z=logits)
def test_a_setting_is_obeyed_where_all_others_are_neutral(setting, value, z):
    alone = getattr(sampling, setting)(z, value)
    np.testing.assert_array_equal(sampling.constrain(z, UNSEEN, Sampler(**{setting: value})), alone)


def test_a_nucleus_ends_with_the_token_that_reaches_p_and_a_min_p_of_one_keeps_the_likeliest():
    assert kept(sampling.top_p(np.zeros(2), 0.5)) == {0}
    assert kept(sampling.min_p(np.array([1.0, 3.0, 3.0]), 1.0)) == {1, 2}


def test_a_top_p_of_one_keeps_all_of_a_large_vocabulary_though_their_sum_is_rounded():
    for seed in range(5):
        z = 5 * normal(jax.random.key(seed), (1000,), jnp.float32)
        assert jnp.isfinite(sampling.top_p(z, 1.0)).all()


def test_the_order_of_composition_matters_and_is_hugging_faces():
    # Of (.4, .3, .3) the two largest hold (4/7, 3/7): top-p .5 then keeps one, before top-k it would keep two.
    z = np.log([0.4, 0.3, 0.3])
    unseen = np.zeros(3, bool)
    assert kept(sampling.constrain(z, unseen, Sampler(top_k=2, top_p=0.5))) == {0}
    assert kept(sampling.top_k(sampling.top_p(z, 0.5), 2)) == {0, 1}
    # The temperature comes before the nucleus: flattened, the nucleus is wider.
    assert kept(sampling.constrain(z, unseen, Sampler(temperature=0.1, top_p=0.8))) == {0}


@given(any_logits, masks, samplers, keys())
def test_what_is_drawn_was_kept_and_the_same_key_draws_it_again(z, seen, sampler, key):
    token = int(sampling.sample(key, z, seen, sampler))
    assert token in kept(np.asarray(sampling.constrain(z, seen, sampler)))
    assert token == int(sampling.sample(key, z, seen, sampler))


@pytest.mark.parametrize("sampler", [Sampler(), Sampler(0.7, np.int32(5), 0.9, 0.05, 1.3)], ids=["neutral", "all five"])
def test_draws_follow_the_distribution_by_chi_square(sampler):
    z, seen = np.linspace(-1.0, 1.5, N), np.arange(N) % 3 == 0
    draws = 20_000
    sample = jax.vmap(sampling.sample, in_axes=(0, None, None, None))
    counts = np.bincount(sample(jax.random.split(jax.random.key(7), draws), z, seen, sampler), minlength=N)
    expected = draws * np.array(softmax(np.asarray(sampling.constrain(z, seen, sampler))))
    support = expected > 0
    assert counts[~support].sum() == 0
    statistic = ((counts - expected)[support] ** 2 / expected[support]).sum()
    assert statistic < tolerances.CHI_SQUARE * support.sum()


@given(st.lists(any_logits, min_size=3, max_size=3), samplers, keys())
def test_a_row_of_a_batch_is_drawn_as_if_alone(rows, sampler, key):
    row_keys = jax.random.split(key, 3)
    batched = jax.vmap(sampling.sample, in_axes=(0, 0, None, None))(row_keys, np.stack(rows), UNSEEN, sampler)
    assert batched.tolist() == [
        int(sampling.sample(k, z, UNSEEN, sampler)) for k, z in zip(row_keys, rows, strict=True)
    ]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_function_keeps_the_dtype(dtype):
    constrain = jax.eval_shape(sampling.constrain, jnp.ones(N, dtype), UNSEEN, check_sampler(Sampler(0.7, 3, 0.9)))
    assert constrain.dtype == dtype


def test_a_token_is_an_int32():
    z, key = jnp.zeros(N), jax.random.key(0)
    assert sampling.greedy(z).dtype == sampling.sample(key, z, UNSEEN, Sampler()).dtype == jnp.int32


def test_a_sensible_setting_is_returned_in_the_precision_that_compiles_once():
    settings = Sampler(0.5, 1, 0.75, 1.0, 1.5)
    checked = check_sampler(settings)
    assert checked == settings
    assert [field.dtype for field in checked] == ["float32", "int32", "float32", "float32", "float32"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"temperature": -0.5}, r"temperature must be 0 .* or more, and is -0.5"),
        ({"temperature": float("nan")}, r"temperature must be .*, and is nan"),
        ({"top_k": 0}, r"top_k must be a whole number, 1 or more, and is 0"),
        ({"top_k": 2.5}, r"top_k must be a whole number"),
        ({"top_p": 0.0}, r"top_p must be above 0 and at most 1 .*, and is 0"),
        ({"top_p": 1.5}, r"top_p must be above 0 and at most 1 .*, and is 1.5"),
        ({"min_p": -0.5}, r"min_p must be between 0 .* and 1, and is -0.5"),
        ({"min_p": 2.0}, r"min_p must be between 0 .* and 1, and is 2"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty must be above 0 .*, and is 0"),
    ],
)
def test_a_senseless_setting_is_refused_in_a_sentence(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_sampler(Sampler(**settings))
