"""What beam search promises: greedy at one end, the best of all at the other, and honest scores between."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import generation
from minilm.beam import beam_search
from tests import tolerances, toy_model
from tests.strategies import seeds

CONFIG = toy_model.Config(vocab_size=4, context_length=9)
N, END = CONFIG.vocab_size, 2
models = st.builds(toy_model.init, seeds, st.just(CONFIG))
prompts = st.lists(st.integers(0, N - 1), min_size=1, max_size=5)
penalties = st.sampled_from([0.0, 0.7, 1.0, 2.0])


def search(params, prompt, beams, n, **options):
    return beam_search(toy_model, params, CONFIG, prompt, beams=beams, max_new_tokens=n, **options)


def log_p(params, prompt, continuation):
    """By the definition: the sum over tokens, each after everything before it."""
    total, tokens = 0.0, list(prompt)
    for token in continuation:
        z = toy_model.next_logits(params, tokens)
        total += z[token] - z.max() - np.log(np.exp(z - z.max()).sum())
        tokens.append(token)
    return total


def continuations(n):
    """All that can be written in n tokens: those that end, and those that reach n without an end."""
    for length in range(1, n + 1):
        for body in itertools.product([token for token in range(N) if token != END], repeat=length - 1):
            yield (*body, END)
    yield from itertools.product([token for token in range(N) if token != END], repeat=n)


@given(models, prompts, st.integers(1, 6), penalties)
def test_one_beam_is_greedy(params, prompt, n, penalty):
    [found] = search(params, prompt, 1, n, length_penalty=penalty, end_token=END)
    options = {"max_new_tokens": n, "end_token": END}
    [greedy] = generation.generate(toy_model, params, CONFIG, [prompt], **options)
    assert found.tokens.tolist() == greedy.tolist()


@settings(max_examples=10)
@given(models, prompts, st.integers(1, 3), penalties)
def test_a_beam_as_wide_as_everything_finds_everything_in_order(params, prompt, n, penalty):
    expected = {c: log_p(params, prompt, c) / len(c) ** penalty for c in continuations(n)}
    found = search(params, prompt, 64, n, length_penalty=penalty, end_token=END)
    assert len(found) == len(expected)
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    scores = np.array([h.score for h in found])
    tolerances.assert_close(scores, np.array(sorted(expected.values(), reverse=True)), tolerances.FORMULA)
    best = max(expected, key=expected.__getitem__)
    assert found[0].tokens.tolist() == [token for token in best if token != END]


@given(models, prompts, st.integers(2, 4), penalties)
def test_every_score_is_that_of_its_own_tokens(params, prompt, beams, penalty):
    found = search(params, prompt, beams, 4, length_penalty=penalty)
    assert len(found) == beams
    assert len({tuple(h.tokens.tolist()) for h in found}) == beams
    rescored = [log_p(params, prompt, h.tokens) / len(h.tokens) ** penalty for h in found]
    tolerances.assert_close(np.array([h.score for h in found]), np.array(rescored), tolerances.FORMULA)


@given(models, prompts)
def test_hypotheses_stay_within_the_context(params, prompt):
    for hypothesis in search(params, prompt, 3, 99):
        assert len(hypothesis.tokens) == CONFIG.context_length - len(prompt)


@given(models, prompts, st.integers(1, 3))
def test_a_narrow_beam_never_beats_the_best_of_all(params, prompt, beams):
    best = max(log_p(params, prompt, c) for c in continuations(3))
    found = search(params, prompt, beams, 3, end_token=END)[0].score
    # Rounded it may lie above the best by a rounding, never by more.
    assert found <= best + tolerances.FORMULA * tolerances.unit_roundoff(np.float64) * abs(best)


def test_a_length_penalty_favours_longer_texts():
    lengths = []
    for seed in range(8):
        params = toy_model.init(seed, CONFIG, scale=0.3)
        lengths.append([len(search(params, [1], 9, 6, length_penalty=a, end_token=END)[0].tokens) for a in (0.0, 2.0)])
    short, long = np.array(lengths).T
    assert (short <= long).all()
    assert (short < long).any()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"beams": 0}, "beams must be at least 1, and is 0"),
        ({"beams": 1 << 40}, "beams must be at most 536870911 with a vocabulary of 4 tokens, and is 1099511627776"),
        ({"n": 0}, "max_new_tokens must be at least 1, and is 0"),
        ({"length_penalty": -1.0}, r"length_penalty must be 0 \(none\) or more, and is -1"),
        ({"prompt": [1] * 9}, r"has 9 tokens, and the model's context of 9"),
        ({"prompt": []}, r"has no tokens"),
    ],
)
def test_a_senseless_search_is_refused_in_a_sentence(change, sentence):
    arguments = {"prompt": [1], "beams": 2, "n": 3} | change
    with pytest.raises(ValueError, match=sentence):
        search(toy_model.init(0, CONFIG), **arguments)
