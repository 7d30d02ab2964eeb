"""Laws of the conditional random field beyond the table: what it sums, and what it chooses, of all paths there are."""

import math
from itertools import pairwise, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.crf import (
    CRFParams,
    crf_log_likelihood,
    crf_log_normalizer,
    crf_marginals,
    crf_score,
    init_crf,
    viterbi,
)
from minilm.reference import crf as reference
from tests.strategies import seeds
from tests.tolerances import FORMULA, LAYER, REDUCTION, assert_close, unit_roundoff

T, C = 5, 3
PATHS = list(product(range(C), repeat=T))
LIKELIHOOD_AND_GRADIENT = jax.jit(jax.value_and_grad(crf_log_likelihood, argnums=(0, 1)))
lengths = st.integers(0, T)
forbidden = st.sets(st.tuples(st.integers(0, C - 1), st.integers(0, C - 1)), max_size=4)


def field(seed, t=T, c=C, scale=1.0):
    rng = np.random.default_rng(seed)
    params = CRFParams(rng.standard_normal((c, c)), rng.standard_normal(c), rng.standard_normal(c))
    return jax.tree.map(jnp.asarray, params), jnp.asarray(scale * rng.standard_normal((t, c)))


def forbid(params, pairs):
    transitions = np.array(params.transitions)
    for pair in pairs:
        transitions[pair] = -np.inf
    return params._replace(transitions=jnp.asarray(transitions))


def counts(path):
    """How often a path uses each number of the parameters and of the emissions."""
    params = CRFParams(np.zeros((C, C)), np.zeros(C), np.zeros(C))
    emissions = np.zeros((len(path), C))
    for t, y in enumerate(path):
        emissions[t, y] += 1
    for before, after in pairwise(path):
        params.transitions[before, after] += 1
    params.start[path[0]] += 1
    params.end[path[-1]] += 1
    return params, emissions


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


USES = np.array([flat(counts(path)) for path in PATHS])


def every_path(params, emissions):
    """The scores of all paths, and their probabilities. A path that does not take a forbidden step has a score."""
    numbers = flat((params, emissions))
    is_forbidden = np.isinf(numbers)
    scores = np.where(USES @ is_forbidden > 0, -np.inf, USES @ np.where(is_forbidden, 0, numbers))
    e = np.exp(scores - scores.max())
    return scores, e / e.sum()


@given(seeds, forbidden)
def test_the_normalizer_is_the_sum_over_all_paths_and_its_gradient_what_they_use_on_average(seed, pairs):
    params, emissions = field(seed)
    params = forbid(params, pairs - {(0, 0)})  # a path that stays at 0 is always left
    scores, p = every_path(params, emissions)
    log_Z, gradient = jax.value_and_grad(crf_log_normalizer, argnums=(0, 1))(params, emissions)
    assert_close(log_Z, scores.max() + np.log(np.exp(scores - scores.max()).sum()), FORMULA)
    assert_close(flat(gradient), p @ USES, FORMULA)
    assert_close(crf_marginals(params, emissions).ravel(), (p @ USES)[-T * C :], FORMULA)


@given(seeds, st.integers(1, T))
def test_likelihood_gradient_and_best_path_are_those_of_the_crf_that_pytorch_users_take(seed, n):
    torch, torchcrf = pytest.importorskip("torch"), pytest.importorskip("torchcrf")
    params, emissions = field(seed)
    tags = np.random.default_rng(seed).integers(0, C, T)
    (log_p, gradient), path = LIKELIHOOD_AND_GRADIENT(params, emissions, tags, n), viterbi(params, emissions, n)[0]
    theirs, e = torchcrf.CRF(C, batch_first=True), torch.tensor(np.asarray(emissions)[None], requires_grad=True)
    learned = theirs.transitions, theirs.start_transitions, theirs.end_transitions
    for parameter, value in zip(learned, params, strict=True):
        parameter.data = torch.tensor(np.asarray(value))
    mask = torch.arange(T)[None] < n
    expected = theirs(e, torch.tensor(tags[None]), mask=mask)
    expected.backward()
    assert_close(log_p, expected.item(), FORMULA)
    assert_close(gradient, (CRFParams(*(p.grad.numpy() for p in learned)), e.grad[0].numpy()), FORMULA)
    assert path[:n].tolist() == theirs.decode(e, mask=mask)[0]


@given(seeds, forbidden)
def test_probabilities_of_all_paths_are_those_of_their_scores_and_add_up_to_one(seed, pairs):
    params, emissions = field(seed)
    params = forbid(params, pairs - {(0, 0)})
    scores, p = every_path(params, emissions)
    paths = jnp.array(PATHS)
    assert_close(jnp.exp(jax.vmap(crf_log_likelihood, (None, None, 0))(params, emissions, paths)), p, FORMULA)
    allowed = scores > -np.inf
    assert_close(jax.vmap(crf_score, (None, None, 0))(params, emissions, paths)[allowed], scores[allowed], FORMULA)


@given(seeds, forbidden, st.booleans())
def test_viterbi_finds_the_best_of_all_paths_and_of_equals_the_first_from_the_end(seed, pairs, even):
    params, emissions = field(seed)
    if even:  # small integers, so that many paths are equally good
        params, emissions = jax.tree.map(jnp.round, (params, emissions))
    params = forbid(params, pairs - {(0, 0)})
    scores, _ = every_path(params, emissions)
    tags, score = viterbi(params, emissions)
    assert_close(score, scores.max(), FORMULA)
    if even:
        best = [path for path, s in zip(PATHS, scores, strict=True) if s == scores.max()]
        assert tuple(tags.tolist()) == min(best, key=lambda path: path[::-1])
        expected, _ = reference.viterbi(params, np.asarray(emissions))
        assert tags.tolist() == expected[0].tolist()
    else:
        assert tuple(tags.tolist()) == PATHS[scores.argmax()]
    gradient = jax.grad(lambda *scores: viterbi(*scores)[1], argnums=(0, 1))(params, emissions)
    assert_close(flat(gradient), flat(counts(tags.tolist())), FORMULA)


@given(seeds)
def test_without_transitions_it_is_a_softmax_at_each_position(seed):
    _, emissions = field(seed)
    params = init_crf(C, dtype=jnp.float64)
    tags = jnp.array([2, 0, 1, 1, 0])
    log_p = jax.nn.log_softmax(emissions)
    assert_close(crf_log_likelihood(params, emissions, tags), log_p[jnp.arange(T), tags].sum(), FORMULA)
    assert_close(crf_marginals(params, emissions), jnp.exp(log_p), FORMULA)
    assert viterbi(params, emissions)[0].tolist() == emissions.argmax(-1).tolist()
    assert init_crf(C).transitions.dtype == jnp.float32


def test_a_single_position_is_a_softmax_that_begins_and_ends():
    params, emissions = field(0, 1)
    log_p = jax.nn.log_softmax(params.start + emissions[0] + params.end)
    likelihood, (d_params, _) = LIKELIHOOD_AND_GRADIENT(params, emissions, jnp.array([2]))
    assert_close(likelihood, log_p[2], FORMULA)
    assert not d_params.transitions.any()
    assert viterbi(params, emissions)[0].tolist() == [log_p.argmax()]


@settings(max_examples=6)
@given(seeds, lengths, st.sampled_from([np.nan, np.inf, 1e30]))
def test_padding_changes_nothing_whatever_stands_there_and_receives_no_gradient(seed, n, junk):
    params, emissions = field(seed)
    tags = jnp.array([2, 0, 1, 1, 0])

    def everything(emissions, tags):
        likelihood, gradient = LIKELIHOOD_AND_GRADIENT(params, emissions, tags, n)
        return likelihood, gradient, crf_marginals(params, emissions, n), viterbi(params, emissions, n)

    found = everything(emissions.at[n:].set(junk), tags.at[n:].set(99))
    jax.tree.map(np.testing.assert_array_equal, found, everything(emissions, tags))
    likelihood, (_, d_emissions), marginals, (best, score) = found
    assert not d_emissions[n:].any()
    assert_close(marginals.sum(-1), jnp.arange(T) < n, FORMULA)
    assert ((best == -1) == (jnp.arange(T) >= n)).all()
    assert n or likelihood == score == 0  # an empty sequence has one path, which is certain


@given(seeds)
def test_a_batch_of_sequences_equals_one_by_one(seed):
    params, emissions = field(seed)
    batch, lengths = jnp.stack([emissions, -emissions, 2 * emissions]), [T, 2, 0]
    tags = jnp.array([[0, 1, 2, 0, 1], [2, 2, -1, -1, -1], [-1] * T])
    together = jax.vmap(crf_log_likelihood, (None, 0, 0, 0))(params, batch, tags, jnp.array(lengths))
    singly = [LIKELIHOOD_AND_GRADIENT(params, *row)[0] for row in zip(batch, tags, lengths, strict=True)]
    assert_close(together, jnp.stack(singly), FORMULA)
    best, _ = jax.vmap(viterbi, (None, 0, 0))(params, batch, jnp.array(lengths))
    assert best.tolist() == [viterbi(params, *row)[0].tolist() for row in zip(batch, lengths, strict=True)]


def bmes(params):
    """B, M, E, S: within a word only what may follow; it begins with B or S, and ends with E or S."""
    may_follow = np.array([[0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1]], bool)
    return CRFParams(
        transitions=jnp.where(may_follow, params.transitions, -jnp.inf),
        start=jnp.where(jnp.array([1, 0, 0, 1], bool), params.start, -jnp.inf),
        end=jnp.where(jnp.array([0, 0, 1, 1], bool), params.end, -jnp.inf),
    )


@given(seeds)
def test_forbidden_steps_are_never_taken_and_leave_every_gradient_finite(seed):
    free, emissions = field(seed, 6, 4)
    params = bmes(free)
    tags, score = viterbi(params, emissions)
    word = "".join("BMES"[y] for y in tags)
    assert all(pair not in word for pair in ("BB", "BS", "MB", "MS", "EM", "EE", "SM", "SE"))
    assert word[0] in "BS"
    assert word[-1] in "ES"
    assert math.isfinite(score)
    value, gradient = LIKELIHOOD_AND_GRADIENT(params, emissions, tags)
    assert math.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert not gradient[0].transitions[jnp.isinf(params.transitions)].any()
    never = tags.at[0].set(2)  # a word's end where it would begin
    value, gradient = LIKELIHOOD_AND_GRADIENT(params, emissions, never)
    assert value == -jnp.inf
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_where_no_path_is_left_the_sum_is_empty_and_has_no_gradient():
    params, emissions = field(0)
    params = params._replace(start=jnp.full(C, -jnp.inf))
    log_Z, gradient = jax.value_and_grad(crf_log_normalizer, argnums=(0, 1))(params, emissions)
    assert log_Z == -jnp.inf
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))
    expected, saved = reference.crf_log_normalizer(params, np.asarray(emissions))
    assert expected == -math.inf
    assert not any(leaf.any() for leaf in jax.tree.leaves(reference.crf_log_normalizer_backward(saved, 1.0)[:2]))
    p, saved = reference.crf_marginals(params, np.asarray(emissions))
    assert not p.any()
    by_hand = reference.crf_marginals_backward(saved, np.ones((T, C)))[:2]
    assert all(np.isfinite(leaf).all() and not leaf.any() for leaf in jax.tree.leaves(by_hand))


@given(seeds, forbidden)
def test_marginals_and_their_gradient_by_hand_are_right_where_steps_are_forbidden(seed, pairs):
    params, emissions = field(seed)
    params, d_p = forbid(params, pairs - {(0, 0)}), np.random.default_rng(seed).standard_normal((T, C))
    p, pullback = jax.vjp(crf_marginals, params, emissions)
    by_hand, saved = reference.crf_marginals(*jax.tree.map(np.asarray, (params, emissions)))
    assert_close(p, by_hand, FORMULA)
    assert_close(pullback(jnp.asarray(d_p)), reference.crf_marginals_backward(saved, d_p)[:2], FORMULA)


def test_a_long_sequence_overflows_nowhere_and_a_likely_path_keeps_its_digits():
    n = 1000
    params, emissions = field(0, n, C, scale=0.1)
    tags = jnp.asarray(np.random.default_rng(1).integers(0, C, n))
    emissions = emissions.at[jnp.arange(n), tags].add(12.0)  # |s| is 12,000, of which float32 keeps 0.001
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, emissions))
    exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), rounded)
    expected, (_, (_, _, _, log_Z)) = reference.crf_log_likelihood(*jax.tree.map(np.asarray, exact), np.asarray(tags))
    assert -0.1 < expected < -0.005
    likelihood, gradient = LIKELIHOOD_AND_GRADIENT(*exact, tags)
    assert_close([likelihood, log_Z], [expected, log_Z], FORMULA)
    rounded_likelihood, rounded_gradient = LIKELIHOOD_AND_GRADIENT(*rounded, tags)
    assert abs(rounded_likelihood - expected) < 0.01 * -expected
    assert_close([flat(rounded_gradient), n], [flat(gradient), n], LAYER, jnp.float32)  # what n steps took, less n
    assert viterbi(*rounded)[0].tolist() == tags.tolist()


def test_a_path_that_is_nearly_certain_has_a_likelihood_near_zero_however_large_its_score():
    params, emissions = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), field(0, 100, C))
    tags = jnp.asarray(np.random.default_rng(1).integers(0, C, 100))
    for lead in (30.0, 1e5):
        likelihood = crf_log_likelihood(params, emissions.at[jnp.arange(100), tags].add(lead), tags)
        assert abs(likelihood) < REDUCTION * unit_roundoff(jnp.float32)


@pytest.mark.parametrize("tag", [-1, C, 99])
def test_a_tag_that_does_not_exist_has_no_likelihood(tag):
    params, emissions = field(0)
    for place in (0, 2, T - 1):
        assert jnp.isnan(crf_log_likelihood(params, emissions, jnp.zeros(T, int).at[place].set(tag)))


@pytest.mark.parametrize("call", [crf_log_normalizer, crf_marginals, viterbi])
def test_emissions_without_a_position_are_refused_in_a_sentence(call):
    with pytest.raises(ValueError, match="at least one position, got none: pad them, and give length=0"):
        call(init_crf(C), jnp.zeros((0, C)))
