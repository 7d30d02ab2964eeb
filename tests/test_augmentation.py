"""Augmentation: the same for the same (seed, step), nothing at rate 0, as often as the rate says; labels go along."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minilm.data.augmentation import deletion, replacement, swaps, unigram_replacement
from tests.strategies import seeds
from tests.tolerances import CHI_SQUARE

COUNTS = np.array([0, 5, 0, 3, 2])
KINDS = {
    "deletion": lambda length, rate, seed, step: deletion(length, rate, seed, step),
    "swaps": lambda length, rate, seed, step: swaps(length, rate, seed, step),
    "replacement": lambda length, rate, seed, step: replacement(np.arange(length), rate, 99, seed, step),
    "unigram": lambda length, rate, seed, step: unigram_replacement(np.arange(length), rate, COUNTS, seed, step),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
lengths, rates, steps = st.integers(0, 40), st.floats(0, 1), st.integers(0, 2**40)
N = 20_000


def near(found, expected, n=N):
    """Within six standard deviations of a binomial count: exceeded once in 5e8."""
    return abs(found - n * expected) <= 6 * np.sqrt(n * expected * (1 - expected)) + 1


@every_kind
@given(length=lengths, rate=rates, seed=seeds, step=steps)
def test_a_draw_is_a_function_of_seed_and_step(kind, length, rate, seed, step):
    augment = KINDS[kind]
    assert (augment(length, rate, seed, step) == augment(length, rate, seed, step)).all()
    assert augment(length, 0.0, seed, step).tolist() == list(range(length))


@every_kind
def test_another_seed_or_step_or_kind_draws_something_else(kind):
    draws = [tuple(KINDS[kind](200, 0.5, seed, step)) for seed, step in [(0, 0), (0, 1), (1, 0), (1, 1), (256, 0)]]
    assert len(set(draws)) == len(draws)
    left_out = np.isin(np.arange(N), deletion(N, 0.5, 3, 7), invert=True)
    replaced = replacement(np.zeros(N, int), 0.5, 1, 3, 7) == 1
    assert near((left_out & replaced).sum(), 0.25)


@given(length=lengths, rate=rates, seed=seeds, step=steps)
@example(length=5, rate=1.0, seed=0, step=0)
@example(length=0, rate=1.0, seed=0, step=0)
def test_what_is_kept_stays_in_order_and_is_never_nothing(length, rate, seed, step):
    kept = deletion(length, rate, seed, step)
    assert (np.diff(kept) > 0).all()
    assert np.isin(kept, np.arange(length)).all()
    assert len(kept) >= min(1, length)
    if rate == 1:
        assert len(kept) == min(1, length)


@given(length=lengths, rate=rates, seed=seeds, step=steps)
@example(length=1, rate=1.0, seed=0, step=0)
def test_swaps_are_a_permutation_of_at_most_twice_so_many_places(length, rate, seed, step):
    places = swaps(length, rate, seed, step)
    assert sorted(places) == list(range(length))
    moved = (places != np.arange(length)).sum()
    assert moved <= 2 * round(rate * length)
    if round(rate * length) == 1 and length > 1:
        assert moved == 2


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_it_happens_as_often_as_the_rate_says(rate):
    assert near(N - len(deletion(N, rate, 0, 0)), rate)
    assert near((replacement(np.zeros(N, int), rate, 1, 0, 0) == 1).sum(), rate)
    assert near((unigram_replacement(np.full(N, 9), rate, COUNTS, 0, 0) != 9).sum(), rate)


def test_the_one_that_stays_is_any_of_them():
    last = np.bincount([deletion(4, 1.0, 5, step)[0] for step in range(2000)], minlength=4)
    assert ((last - 500) ** 2 / 500).sum() / 4 < CHI_SQUARE


def test_every_pair_is_as_likely_to_be_exchanged():
    pairs = np.zeros((4, 4))
    for step in range(2400):
        i, j = np.flatnonzero(swaps(4, 0.25, 2, step) != np.arange(4))
        pairs[i, j] += 1
    drawn = pairs[np.triu_indices(4, 1)]
    assert ((drawn - 400) ** 2 / 400).sum() / 6 < CHI_SQUARE


def test_unigram_noise_draws_tokens_as_often_as_they_occur():
    drawn = np.bincount(unigram_replacement(np.full(N, 2), 1.0, COUNTS, 4, 0), minlength=5)
    assert drawn[COUNTS == 0].tolist() == [0, 0]
    expected = N * COUNTS / COUNTS.sum()
    assert ((drawn - expected) ** 2)[COUNTS > 0] @ (1 / expected[COUNTS > 0]) / 3 < CHI_SQUARE


@given(length=lengths, rate=rates, seed=seeds)
def test_labels_go_with_their_tokens_and_the_text_itself_stays(length, rate, seed):
    tokens = np.arange(length, dtype=np.int32)
    tags = tokens * 7
    for places in (deletion(length, rate, seed, 1), swaps(length, rate, seed, 1)):
        assert (tags[places] == tokens[places] * 7).all()
    for noisy in (replacement(tokens, rate, 3, seed, 1), unigram_replacement(tokens, rate, COUNTS, seed, 1)):
        assert noisy.dtype == tokens.dtype
        assert noisy.shape == tokens.shape
    assert tokens.tolist() == list(range(length))


@every_kind
def test_what_cannot_be_drawn_is_refused_in_a_sentence(kind):
    for rate in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"A rate from 0 to 1 was expected, .* but it is"):
            KINDS[kind](5, rate, 0, 0)
    for seed, step in [(-1, 0), (0, -1)]:
        with pytest.raises(ValueError, match="A seed and a step are whole numbers from 0 on"):
            KINDS[kind](5, 0.5, seed, step)
    for counts in ([], [0, 0], [3, -1]):
        with pytest.raises(ValueError, match="counts must be given that are none below 0, one above"):
            unigram_replacement(np.arange(3), 0.5, np.array(counts), 0, 0)
