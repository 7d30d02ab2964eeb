"""Rules of who may see whom."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.attention import masks
from minilm.layers.attention.blockwise import Blockwise
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import (
    Causal,
    Chunked,
    Dilated,
    Everything,
    Padding,
    Prefix,
    SameDocument,
    SlidingWindow,
)
from minilm.layers.attention.sparse_masks import BlockWindow
from minilm.reference.attention import masks as reference
from minilm.shapes import Tokens
from tests.strategies import seeds
from tests.tolerances import FORMULA, assert_close

NUMBERS = st.integers(1, 9)
ENDLESS = np.iinfo(np.int32).max


def rules():
    """Any composition of any rules."""
    plain = st.sampled_from([Causal(), Everything(), SameDocument()])
    sized = st.builds(
        lambda kind, n: kind(n), st.sampled_from([SlidingWindow, Prefix, Padding, Dilated, Chunked]), NUMBERS
    )
    return st.recursive(
        plain | sized,
        lambda rule: (
            st.builds(lambda a, b: a & b, rule, rule)
            | st.builds(lambda a, b: a | b, rule, rule)
            | rule.map(lambda a: ~a)
        ),
        max_leaves=4,
    )


@st.composite
def tokens(draw, length):
    """Tokens in any order, of several documents, padding among them."""
    rng = np.random.default_rng(draw(seeds))
    return Tokens(rng.integers(-1, draw(st.sampled_from([5, 30])), length), rng.integers(0, 3, length))


def as_reference(rule):
    """The same rule in plain Python."""
    kind, fields = getattr(reference, type(rule).__name__), vars(rule).values()
    return kind(*(as_reference(field) if isinstance(field, masks.Rule) else field for field in fields))


SIZED = [SlidingWindow, Prefix, Padding, Dilated, Chunked]
CONNECTED = [Causal() & Chunked(4), Prefix(4) | Causal(), ~SlidingWindow(2), Dilated(3) & ~SameDocument()]


@pytest.mark.parametrize(
    "rule", [Causal(), Everything(), SameDocument(), *(kind(n) for kind in SIZED for n in (1, 3)), *CONNECTED], ids=str
)
def test_every_rule_equals_its_reference_on_all_pairs_of_tokens(rule):
    every = Tokens(*np.mgrid[-1:9, 0:2].reshape(2, -1))
    np.testing.assert_array_equal(rule(*map(as_arrays, (every, every))), as_reference(rule)(every, every))


@settings(max_examples=40)
@given(rules(), tokens(6), tokens(7))
def test_rules_equal_their_references(rule, query, key):
    np.testing.assert_array_equal(rule(*map(as_arrays, (query, key))), as_reference(rule)(query, key))


@settings(max_examples=40)
@given(rules(), tokens(3))
def test_reach_never_excludes_an_allowed_key(rule, query):
    key = Tokens(*np.mgrid[-1:40, 0:3].reshape(2, -1))  # every key there is
    first, last = jax.tree.map(lambda x: int(x.min()), query), jax.tree.map(lambda x: int(x.max()), query)
    low, high = rule.reach(first, last)
    inside = [(np.asarray(a) <= x) & (x <= np.asarray(b)) for x, a, b in zip(key, low, high, strict=True)]
    allowed = np.asarray(rule(*map(as_arrays, (query, key)))).any(0)
    assert not (allowed & ~np.logical_and.reduce(inside)).any()


@pytest.mark.parametrize(
    ("rule", "interval"),
    [
        (Causal(), (None, 8)),
        (SlidingWindow(3), (3, 10)),
        (Causal() & SlidingWindow(3), (3, 8)),
        (Causal() & SlidingWindow(3) | Prefix(2), (None, 8)),
        (Prefix(2) | Causal() & SlidingWindow(3), (None, 8)),
        (Prefix(4), (None, 3)),
        (Padding(7), (None, 6)),
        (Chunked(4), (4, 11)),
        (Causal() & Chunked(4), (4, 8)),
        (~Causal(), (None, None)),
        (Dilated(2), (None, None)),
    ],
    ids=str,
)
def test_reach_is_as_narrow_as_the_rule_allows(rule, interval):
    low, high = rule.reach(Tokens(5, 1), Tokens(8, 2))
    limits = np.iinfo(np.int32)
    assert (int(low.position), int(high.position)) == tuple(
        limit if bound is None else bound for bound, limit in zip(interval, (limits.min, limits.max), strict=True)
    )


@pytest.mark.parametrize(
    "rule", [SlidingWindow(ENDLESS), BlockWindow(1, ENDLESS), BlockWindow(4, ENDLESS // 4 + 1)], ids=str
)
def test_a_window_without_a_bound_reaches_all(rule):
    q, k, v = (jnp.asarray(np.random.default_rng(i).standard_normal((1, 1, 9, 2))) for i in range(3))
    for query in (5, 2**30 + 100, ENDLESS):
        low, high = rule.reach(Tokens(query, 1), Tokens(query, 2))
        assert int(low.position) <= 1
        assert int(high.position) == ENDLESS
    where = Tokens.arange(9, start=4)
    tiled = Blockwise(Causal() & rule, t_block=2, s_block=2)(q, k[0], v[0], where, where)
    assert_close(tiled, Dense(Causal())(q, k[0], v[0], where, where), FORMULA)


def test_queries_that_are_all_padding_reach_no_key():
    for length in (4, 5):
        _, high = Padding(length).reach(Tokens(5, 1), Tokens(8, 2))
        assert int(high.position) == np.iinfo(np.int32).min


def test_reach_of_packed_documents_is_their_own():
    low, high = (Causal() & SameDocument()).reach(Tokens(5, 1), Tokens(8, 2))
    assert (int(low.document), int(high.document), int(high.position)) == (1, 2, 8)


def test_a_window_counts_the_token_itself():
    seen = (Causal() & SlidingWindow(4))(Tokens.arange(9), Tokens.arange(9))
    assert seen.sum(1).tolist() == [1, 2, 3, 4, 4, 4, 4, 4, 4]
    assert SlidingWindow(4)(Tokens.arange(1, start=20), Tokens.arange(40)).sum() == 2 * 4 - 1
    assert (SlidingWindow(1)(Tokens.arange(5), Tokens.arange(5)) == jnp.eye(5, dtype=bool)).all()


def test_a_rule_with_other_numbers_is_not_compiled_again():
    @jax.jit
    def count(rule):
        return rule(Tokens.arange(7), Tokens.arange(7)).sum()

    counts = [int(count(Causal() & SlidingWindow(width) | Prefix(jnp.array(width)))) for width in (1, 2, 5)]
    assert counts == sorted(set(counts))
    assert count._cache_size() == 1


def test_rules_of_the_same_fields_are_of_different_structure():
    """Or `jax.jit` may run the program of one for another."""
    every = [*(kind(3) for kind in SIZED), Causal() & Everything(), Causal() | Everything(), Causal(), Everything()]
    for one, other in itertools.combinations(map(jax.tree.structure, every), 2):
        assert one != other
    assert jax.tree.structure(SlidingWindow(3)) == jax.tree.structure(SlidingWindow(4))


def test_rules_that_hold_arrays_are_mapped_over_a_batch():
    lengths = jnp.array([0, 3, 5])
    seen = jax.vmap(lambda rule: rule(Tokens.arange(5), Tokens.arange(5)).sum())(Padding(lengths))
    assert seen.tolist() == [0, 9, 25]


def test_pictures_show_what_is_allowed():
    query, key = Tokens.arange(2, start=1), Tokens.arange(4)
    assert (Causal() & ~Dilated(2)).picture(query, key) == "■···\n·■··"
    axes = Causal().plot(query, Tokens.arange(4, start=7))
    np.testing.assert_array_equal(axes.images[0].get_array(), np.zeros((2, 4)))
    assert axes.images[0].get_clim() == (0, 1)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "2"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["7", "8", "9", "10"]
    assert axes.get_xticks().tolist() == [0, 1, 2, 3]


def as_arrays(tokens):
    return jax.tree.map(jnp.asarray, tokens)


@pytest.mark.parametrize(
    ("rule", "first", "last", "interval"),
    [
        (Chunked(ENDLESS // 2 + 9), ENDLESS - 5, ENDLESS - 3, (ENDLESS // 2 + 9, ENDLESS)),
        (Chunked(ENDLESS), 5, 7, (0, ENDLESS - 1)),
        (Chunked(4), -1, 6, (-4, 7)),
        (Chunked(4), -1, -1, (-4, -1)),
        (SlidingWindow(4), ENDLESS - 5, ENDLESS - 1, (ENDLESS - 8, ENDLESS)),
    ],
)
def test_chunks_and_windows_reach_as_far_as_there_are_integers_and_no_less(rule, first, last, interval):
    low, high = rule.reach(*(Tokens(jnp.int32(place), jnp.int32(0)) for place in (first, last)))
    assert (int(low.position), int(high.position)) == interval
