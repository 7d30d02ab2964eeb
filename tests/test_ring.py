"""Eight devices give what one does, whoever holds which token; in zigzag they have the same work."""

import json
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.layers.attention.biases import Alibi
from minilm.layers.attention.blockwise import Blockwise, blockwise_attention, blockwise_gradients
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Causal, Rule
from minilm.layers.attention.ring import OwnHeads, Ring, Ulysses, merge, zigzag
from minilm.parallel import make_mesh, over_sequence
from minilm.pytrees import register
from minilm.reference.attention import ring as by_hand
from minilm.shapes import Tokens
from tests.strategies import seeds
from tests.test_parallel import on_eight_devices
from tests.tolerances import FORMULA, LAYER, SHARDED, assert_close

G, R, T, S, K, V = 3, 2, 6, 9, 4, 5
PROGRAM = "import runpy; runpy.run_module('tests.ring_on_devices', run_name='__main__')"


def found(*what):
    return json.loads(on_eight_devices(PROGRAM, *what))


def assert_equal_to_one_device(rows):
    for row in rows:
        assert row["attention"] <= SHARDED, row
        assert row["bias"] <= LAYER, row  # a sum over all pairs, of both signs
        assert row["zeros"], row
    assert {"plain", "zigzag", "shuffled"} <= {row["order"] for row in rows}
    assert any(0 < row["unseen"] < row["queries"] for row in rows)
    assert any(row["unseen"] == row["queries"] for row in rows)


def test_eight_devices_attend_as_one_does_in_single_precision_and_refuse_in_sentences():
    rows = found("float32", "refusals")
    assert_equal_to_one_device(rows["float32"])
    assert rows["refusals"] == [
        "12 queries don't divide over sequence=8: pad them to 16 (at position −1 none sees them), or choose a size of "
        "sequence that divides 12.",
        "20 keys don't divide over sequence=8: pad them to 24 (at position −1 none sees them), or choose a size of "
        "sequence that divides 20.",
        "12 positions don't divide over sequence=8: pad them to 16 (at position −1 none sees them), or choose a size "
        "of sequence that divides 12.",
        "6 key/value heads can't be dealt out to 8 devices: choose a number of devices that divides 6, or let keys "
        "travel instead of heads: `Ring` takes any number of heads.",
        "The attention was asked for 1 of 8 key/value heads and answered for 8. A bias with heads must take its own "
        "part of them: OwnHeads(bias, 'sequence').",
    ]


@pytest.mark.slow
def test_eight_devices_attend_as_one_does_in_double_precision_under_any_rule_and_in_a_whole_mixer():
    rows = found("float64", "drawn", "mixers", "memory")
    assert_equal_to_one_device(rows["float64"])
    assert_equal_to_one_device(rows["drawn"])
    for row in rows["mixers"]:
        assert row["distance"] <= SHARDED, row
        assert row["piece"] == [1, 4, 6], row  # of two sequences of 16, for each of 2 × 4 devices
    needed = {row["attention"]: row["bytes"] for row in rows["memory"]}
    assert 3 * needed["ring"] < needed["one"]
    assert 4 * needed["ulysses"] < needed["one"]


def drawn(seed, dtype=jnp.float64):
    """Queries, keys, values, gradients of output and lse, and places of which some are empty."""
    rng = np.random.default_rng(seed)
    shapes = (G, R, T, K), (G, S, K), (G, S, V), (G, R, T, V), (G, R, T)
    arrays = [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]
    query, key = (jnp.asarray(rng.integers(-1, 8, length), jnp.int32) for length in (T, S))
    return *arrays, Tokens(query, jnp.zeros_like(query)), Tokens(key, jnp.zeros_like(key))


def parts(seed, key):
    """The places of some keys, and of the others: where a key isn't, its slot is empty."""
    here = np.random.default_rng(seed).random(S) < 0.5
    return (Tokens(jnp.where(part, key.position, -1), key.document) for part in (here, ~here))


@given(seed=seeds)
def test_merged_attentions_are_attention_to_the_keys_of_both(seed):
    q, k, v, d_o, d_lse, query, key = drawn(seed)
    seen = np.asarray(Causal()(query, key) & (key.position >= 0)).any(1)

    def whole(q, k, v):
        return attended(q, k, v, query, key)

    def merged(q, k, v):
        here, there = (attended(q, k, v, query, part) for part in parts(seed, key))
        return merge(*here, *there)

    (o, lse), pullback = jax.vjp(whole, q, k, v)
    (o_merged, lse_merged), pullback_merged = jax.vjp(merged, q, k, v)
    assert_close((o_merged, lse_merged[:, :, seen]), (o, lse[:, :, seen]), FORMULA)
    assert np.isneginf(lse_merged[:, :, ~seen]).all()
    assert_close(pullback_merged((d_o, d_lse)), pullback((d_o, d_lse)), FORMULA)


@given(seed=seeds)
def test_the_gradient_is_the_sum_of_what_the_parts_contribute(seed):
    q, k, v, d_o, d_lse, query, key = drawn(seed)
    out, pullback = jax.vjp(lambda q, k, v: attended(q, k, v, query, key), q, k, v)
    here, there = (
        blockwise_gradients(q, k, v, query, part, Causal(), None, *out, d_o, d_lse, t_block=2, s_block=3)
        for part in parts(seed, key)
    )
    assert_close(jax.tree.map(jnp.add, here[:3], there[:3]), pullback((d_o, d_lse)), FORMULA)


def attended(q, k, v, query, key):
    return blockwise_attention(q, k, v, query, key, Causal(), t_block=2, s_block=3)


@given(seed=seeds)
def test_merging_is_commutative_and_associative_and_what_saw_nothing_is_neutral(seed):
    rng = np.random.default_rng(seed)
    a, b, c = (
        (jnp.asarray(rng.standard_normal((G, R, T, V))), jnp.asarray(rng.standard_normal((G, R, T)))) for _ in "abc"
    )
    nothing = jnp.zeros((G, R, T, V)), jnp.full((G, R, T), -jnp.inf)
    assert_close(merge(*a, *b), merge(*b, *a), FORMULA)
    assert_close(merge(*merge(*a, *b), *c), merge(*a, *merge(*b, *c)), FORMULA)
    for merged in (merge(*a, *nothing), merge(*nothing, *a)):
        jax.tree.map(np.testing.assert_array_equal, merged, a)
    jax.tree.map(np.testing.assert_array_equal, merge(*nothing, *nothing), nothing)


def test_what_is_merged_has_the_precision_of_the_first():
    (o, lse), (o_2, lse_2) = ((jnp.ones((1, 1, 1, 1), t), jnp.ones((1, 1, 1), t)) for t in (jnp.float32, jnp.float64))
    assert [x.dtype for x in merge(o, lse, o_2, lse_2)] == [jnp.float32] * 2


def test_where_neither_part_sees_anything_their_sum_sees_nothing_by_hand_too():
    nothing = np.zeros((G, R, T, V)), np.full((G, R, T), -np.inf)
    for o, lse in (merge(*map(jnp.asarray, (*nothing, *nothing))), by_hand.merge(*nothing, *nothing)[0]):
        assert not np.any(o)
        assert np.isneginf(lse).all()


def test_merging_of_large_sums_of_either_sign_neither_overflows_nor_forgets():
    o, o_2 = jnp.full((1, 1, 1, 1), 4.0), jnp.full((1, 1, 1, 1), 8.0)
    for far in (1e4, -1e4):
        lse = jnp.full((1, 1, 1), far)
        (mixed, lse_mixed), pullback = jax.vjp(merge, o, lse, o_2, lse + jnp.log(3))
        assert_close((mixed.item(), lse_mixed.item()), (7.0, far + np.log(4)), FORMULA)
        assert all(np.isfinite(leaf).all() for leaf in pullback((o, lse)))


def test_two_that_saw_nothing_pass_no_gradient():
    nothing = jnp.zeros((1, 1, 1, 2)), jnp.full((1, 1, 1), -jnp.inf)
    _, pullback = jax.vjp(merge, *nothing, *nothing)
    assert not any(np.asarray(leaf).any() for leaf in pullback((jnp.ones((1, 1, 1, 2)), jnp.ones((1, 1, 1)))))


def output_and_gradients(attend_of, q, k, v, d_o, query, key, slopes):
    o, pullback = jax.vjp(lambda q, k, v, slopes: attend_of(Alibi(slopes))(q, k, v, query, key), q, k, v, slopes)
    return o, *pullback(d_o)


whole = jax.jit(partial(output_and_gradients, lambda bias: Dense(Causal(), bias)))
ATTENDS = {
    "ring": lambda bias: Ring(Causal(), bias, t_block=3, s_block=2),
    "ulysses": lambda bias: Ulysses(Dense(Causal(), OwnHeads(bias))),
}


@partial(jax.jit, static_argnums=0, static_argnames="devices")
def in_pieces(name, q, k, v, d_o, query, key, slopes, devices=3):
    """The same on one device: an axis that `vmap` names stands for the mesh's."""

    def cut(axis, *arrays):
        return (jnp.stack(jnp.split(x, devices, axis)) for x in arrays)

    def joined(axis, pieces):
        return jnp.concatenate(list(pieces), axis)

    (q, d_o), (k, v) = cut(2, q, d_o), cut(1, k, v)
    mapped = jax.vmap(partial(output_and_gradients, ATTENDS[name]), (*[0] * 6, None), axis_name="sequence")
    o, d_q, d_k, d_v, d_slopes = mapped(q, k, v, d_o, Tokens(*cut(0, *query)), Tokens(*cut(0, *key)), slopes)
    return joined(2, o), joined(2, d_q), joined(1, d_k), joined(1, d_v), d_slopes.sum(0)


@pytest.mark.parametrize("name", ATTENDS)
@given(seed=seeds)
def test_pieces_of_a_sequence_attend_as_the_whole_does(name, seed):
    q, k, v, d_o, _, query, key = drawn(seed)
    arguments = q, k, v, d_o, query, key, jnp.asarray(np.random.default_rng(seed).random((G, R)))
    assert_close(in_pieces(name, *arguments), whole(*arguments), FORMULA)


def test_keys_visit_every_device_of_a_pair_too():
    q, k, v, d_o, _, query, key = drawn(3)
    k, v, key = k[:, :8], v[:, :8], jax.tree.map(lambda x: x[:8], key)
    arguments = q, k, v, d_o, query, key, jnp.ones((G, R))
    assert_close(in_pieces("ring", *arguments, devices=2), whole(*arguments), FORMULA)


def test_a_device_takes_its_own_part_of_a_bias_for_all_heads():
    bias, (*_, query, key) = Alibi(jnp.arange(1.0, 13.0).reshape(6, 2)), drawn(0)
    parts = jax.vmap(lambda _: OwnHeads(bias)(query, key), axis_name="sequence")(jnp.arange(3))
    np.testing.assert_array_equal(parts.reshape(6, 2, T, S), bias(query, key))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=["bf16", "f32"])
@pytest.mark.parametrize("attend", [Ring(Causal()), Ulysses(Blockwise(Causal()))], ids=["ring", "ulysses"])
def test_with_one_device_both_are_blockwise_attention_bit_for_bit(attend, dtype):
    q, k, v, d_o, _, query, key = drawn(1, dtype)
    (o, gradients), expected = (
        (out, pullback(d_o))
        for out, pullback in (
            jax.vjp(lambda q, k, v, attend=attend: attend(q, k, v, query, key), q, k, v)
            for attend in (over_sequence(attend, make_mesh("sequence=1")), Blockwise(Causal()))
        )
    )
    jax.tree.map(np.testing.assert_array_equal, (o, gradients), expected)
    assert {leaf.dtype for leaf in jax.tree.leaves((o, gradients))} == {jnp.dtype(dtype)}


def test_a_mesh_that_divides_no_sequence_is_explained():
    with pytest.raises(ValueError, match="The mesh data=1 has no axis that divides a sequence: add sequence=2"):
        over_sequence(Ring(Causal()), make_mesh("data=1"))


@given(devices=st.integers(1, 9), size=st.integers(1, 4))
def test_in_zigzag_each_device_holds_a_chunk_and_its_mirror_image_and_argsort_is_the_way_back(devices, size):
    t = 2 * devices * size
    order = zigzag(t, devices)
    np.testing.assert_array_equal(order, by_hand.zigzag(t, devices))
    np.testing.assert_array_equal(np.arange(t)[order][np.argsort(order)], np.arange(t))
    assert len(set(order.reshape(devices, -1).sum(1))) == 1  # of mirror images


def test_zigzag_of_an_odd_number_of_chunks_is_refused():
    with pytest.raises(
        ValueError, match="Two chunks for each of 4 devices need a multiple of 8 tokens, and there are 12"
    ):
        zigzag(12, 4)


VISITED = []


@register
@dataclass(frozen=True)
class Counted(Rule):
    """A rule that notes each time it is asked about a tile."""

    rule: Rule

    def __call__(self, query, key):
        jax.debug.callback(lambda: VISITED.append(1))
        return self.rule(query, key)

    def reach(self, first, last):
        return self.rule.reach(first, last)


def longest(order, devices):
    """How long a causal ring takes over how long it would if all devices did the same, counted in visited tiles.

    In every step of the ring all wait for the slowest.
    """
    t = len(order)
    x = jnp.ones((1, 1, t // devices, 1))
    pieces = [Tokens(jnp.asarray(piece), jnp.zeros_like(piece)) for piece in order.reshape(devices, -1)]
    work = np.zeros((devices, devices))
    for r, query in enumerate(pieces):
        for j, key in enumerate(pieces):
            VISITED.clear()
            blockwise_attention(x, x[0], x[0], query, key, Counted(Causal()), t_block=4, s_block=4)
            jax.effects_barrier()
            work[r, (r - j) % devices] = len(VISITED)
    return work.max(0).sum() / work.sum(1).mean()


def test_zigzag_makes_the_work_of_a_causal_ring_even_to_the_tile():
    assert longest(zigzag(128, 8), 8) == 1
    assert 1.8 < longest(np.arange(128), 8) < 2
