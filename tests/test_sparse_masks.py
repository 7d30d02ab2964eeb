"""Rules of global tokens and blocks: at which settings they are older rules, what they reach, and what BigBird sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.attention.blockwise import Blockwise
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Causal, Chunked, Everything, Not, Prefix, Rule, SlidingWindow
from minilm.layers.attention.sparse_masks import BlockWindow, Global, RandomBlocks, big_bird_rule
from minilm.reference.attention import masks as reference_masks
from minilm.reference.attention import sparse_masks as reference
from minilm.shapes import Tokens
from tests.strategies import seeds
from tests.test_masks import as_arrays, tokens
from tests.tolerances import FORMULA, assert_close

NUMBERS = st.integers(1, 6)
DRAWN = st.builds(
    lambda seed, size, n: RandomBlocks(size, np.random.default_rng(seed).integers(0, 5, (4, n))),
    seeds, NUMBERS, st.integers(0, 2),
)  # fmt: skip
PLAIN = st.builds(Global, st.integers(0, 9)) | st.builds(BlockWindow, NUMBERS, NUMBERS) | DRAWN


def rules():
    """Any composition of these rules, among them with older ones."""
    older = st.sampled_from([Causal(), SlidingWindow(2), Chunked(3)])
    return (
        PLAIN
        | st.builds(lambda a, b: a & b, PLAIN, PLAIN | older)
        | st.builds(lambda a, b: a | b, PLAIN, PLAIN | older)
    )


def as_reference(rule):
    name = type(rule).__name__
    kind = getattr(reference, name, None) or getattr(reference_masks, name)
    return kind(*(as_reference(field) if isinstance(field, Rule) else field for field in vars(rule).values()))


@settings(max_examples=20)
@given(rules())
def test_rules_equal_their_references_on_all_pairs_of_positions(rule):
    every = Tokens(np.arange(-1, 27), np.zeros(28, int))
    np.testing.assert_array_equal(rule(*map(as_arrays, (every, every))), as_reference(rule)(every, every))


@settings(max_examples=30)
@given(rules(), tokens(3))
def test_reach_never_excludes_an_allowed_key(rule, query):
    key = Tokens(np.arange(-1, 70), np.zeros(71, int))
    first, last = jax.tree.map(lambda x: int(x.min()), query), jax.tree.map(lambda x: int(x.max()), query)
    low, high = rule.reach(first, last)
    allowed = np.asarray(rule(*map(as_arrays, (query, key)))).any(0)
    assert not (
        allowed & ~((np.asarray(low.position) <= key.position) & (key.position <= np.asarray(high.position)))
    ).any()
    limits = np.iinfo(np.int32)
    assert (int(low.document), int(high.document)) == (limits.min, limits.max)


@pytest.mark.parametrize(
    ("rule", "interval"),
    [
        (Global(4), (None, 3)),
        (Global(5), (None, 4)),
        (Global(6), (None, None)),
        (BlockWindow(3, 1), (3, 8)),
        (BlockWindow(3, 2), (0, 11)),
        (Causal() & BlockWindow(3, 2), (0, 8)),
        (RandomBlocks(3, jnp.array([[9], [2], [5], [0]])), (6, 17)),
        (RandomBlocks(6, jnp.array([[3, 1], [7, 2], [0, 0]])), (6, 47)),
        (BlockWindow(4, 1) | Global(4), (None, 11)),
    ],
    ids=str,
)
def test_reach_is_as_narrow_as_the_rule_allows(rule, interval):
    low, high = rule.reach(Tokens(5, 1), Tokens(8, 2))
    limits = np.iinfo(np.int32)
    assert (int(low.position), int(high.position)) == tuple(
        limit if bound is None else bound for bound, limit in zip(interval, (limits.min, limits.max), strict=True)
    )


def test_a_window_of_blocks_reaches_as_far_as_there_are_integers_and_no_less():
    smallest, largest = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    last = largest // 4  # the number of the last block
    for first_b, last_b, n, interval in (
        (last - 1, last - 1, last, (0, largest)),
        (last - 1, last - 1, last + 1, (smallest, largest)),
        (2, 5, last - 5, ((7 - last + 1) * 4, 4 * last - 1)),
        (2, 5, last - 4, ((6 - last + 1) * 4, largest)),
        (2, 5, 3, (0, 31)),
    ):
        low, high = BlockWindow(4, n).reach(Tokens(4 * first_b, 0), Tokens(4 * last_b + 1, 0))
        assert (int(low.position), int(high.position)) == interval


def test_queries_for_which_no_block_was_drawn_reach_none():
    for rule, first in ((RandomBlocks(2, jnp.array([[0], [1]])), 5), (RandomBlocks(2, jnp.zeros((9, 0), int)), 3)):
        low, high = rule.reach(Tokens(first, 0), Tokens(first + 1, 0))
        assert int(low.position) > int(high.position)


@given(size=NUMBERS, n=NUMBERS)
def test_at_their_neutral_settings_they_are_older_rules(size, n):
    every = Tokens.arange(20)
    same = [
        (BlockWindow(size, 1), Chunked(size)),
        (BlockWindow(1, n), SlidingWindow(n)),
        (BlockWindow(size, 0) | Causal(), Causal()),
        (BlockWindow(size, 21), Everything()),
        (SlidingWindow(n) | Global(0), SlidingWindow(n)),
        (Global(20), Everything()),
        (RandomBlocks(size, jnp.arange(20)[:, None]), Chunked(size)),
        (Causal() & Global(n), Causal() & Prefix(n)),
    ]
    for rule, older in same:
        np.testing.assert_array_equal(rule(every, every), older(every, every))


def test_longformer_sees_a_window_and_its_global_tokens_both_ways():
    seen = np.asarray((SlidingWindow(2) | Global(2))(Tokens.arange(9), Tokens.arange(9)))
    assert (seen == seen.T).all()
    assert seen[:2].all()
    assert seen[2:].sum(1).tolist() == [4, 5, 5, 5, 5, 5, 4]


@given(seed=seeds)
def test_random_blocks_are_different_in_each_row_and_of_the_key(seed):
    key = jax.random.key(seed)
    chosen = np.asarray(RandomBlocks.of(key, 4, 7, 3).chosen)
    assert chosen.shape == (7, 3)
    assert all(len({*row}) == 3 and set(row) <= set(range(7)) for row in chosen.tolist())
    np.testing.assert_array_equal(chosen, RandomBlocks.of(key, 4, 7, 3).chosen)
    assert len({tuple(row) for row in chosen.tolist()}) > 1


@pytest.mark.parametrize("n", [-1, 6])
def test_more_blocks_than_there_are_and_less_than_none_are_refused(n):
    with pytest.raises(ValueError, match=f"of 5 blocks {n} were to be drawn: expected 0 to 5"):
        RandomBlocks.of(jax.random.key(0), 4, 5, n)
    assert RandomBlocks.of(jax.random.key(0), 4, 5, 5).chosen.shape == (5, 5)


def test_all_blocks_are_drawn_alike_often():
    counts = np.bincount(np.asarray(RandomBlocks.of(jax.random.key(0), 1, 200, 20).chosen).ravel(), minlength=200)
    assert counts.mean() == 20
    assert abs(counts - 20).max() < 5 * np.sqrt(20)


@given(seed=seeds)
def test_big_bird_sees_its_window_its_global_and_its_random_blocks_and_no_more(seed):
    rule = big_bird_rule(jax.random.key(seed), size=3, n_blocks=8, window=2, n_global=1, n_random=2)
    chosen = np.asarray(rule.right.chosen)
    blocks = np.asarray(rule(Tokens.arange(24), Tokens.arange(24))).reshape(8, 3, 8, 3).swapaxes(1, 2)
    assert (blocks.all((2, 3)) == blocks.any((2, 3))).all()
    for b in range(8):
        near = {c for c in (b - 1, b, b + 1) if 0 <= c < 8}
        expected = near | {0} | set(chosen[b].tolist()) if b else set(range(8))
        assert set(np.flatnonzero(blocks[b, :, 0, 0])) == expected


def test_big_bird_without_lots_and_global_blocks_is_its_window():
    rule = big_bird_rule(jax.random.key(0), size=2, n_blocks=5, n_global=0, n_random=0)
    every = Tokens.arange(10)
    np.testing.assert_array_equal(rule(every, every), BlockWindow(2, 2)(every, every))


def test_big_birds_numbers_are_the_papers_unless_given():
    rule = big_bird_rule(jax.random.key(0), size=64, n_blocks=9)
    assert (rule.left.left, rule.left.right) == (BlockWindow(64, 2), Global(2 * 64))
    assert rule.right.chosen.shape == (9, 3)


@pytest.mark.parametrize("size", [2, 5])
def test_blockwise_attention_by_these_rules_is_dense_attention(size):
    rng = np.random.default_rng(size)
    q, k, v = (jnp.asarray(rng.standard_normal(shape)) for shape in ((2, 3, 17, 4), (2, 17, 4), (2, 17, 5)))
    rule = Causal() & big_bird_rule(jax.random.key(1), size=size, n_blocks=9, window=1, n_global=1, n_random=1)
    every = Tokens.arange(17)
    for one in (rule, rule.right, rule.right.right, Not(rule.right.left.left) & Causal()):
        expected = Dense(one)(q, k, v, every, every)
        assert_close(Blockwise(one, t_block=4, s_block=3)(q, k, v, every, every), expected, FORMULA)


def test_a_rule_with_other_numbers_is_not_compiled_again_and_is_mapped_over():
    @jax.jit
    def count(rule):
        return rule(Tokens.arange(8), Tokens.arange(8)).sum()

    big_birds = [
        big_bird_rule(jax.random.key(i), size=2, n_blocks=4, window=1, n_global=0, n_random=1) for i in range(3)
    ]
    for rule in (*big_birds, big_bird_rule(jax.random.key(0), size=1, n_blocks=4, n_random=1)):
        assert int(count(rule)) == int(rule(Tokens.arange(8), Tokens.arange(8)).sum())
    assert count._cache_size() == 1
    assert jax.vmap(count)(Global(jnp.array([0, 1, 8]))).tolist() == [0, 15, 64]
