"""Counted operations are those of the closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minilm.flops import executed_flops
from minilm.layers.attention.blockwise import Blockwise
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Causal, Everything, SlidingWindow
from minilm.layers.attention.ring import Ring
from minilm.layers.linear_attention.decay import decay_chunked, decay_parallel, decay_step
from minilm.layers.linear_attention.loop import loop
from minilm.parallel import make_mesh, over_sequence
from minilm.shapes import Tokens

G, R, T, K, V = 2, 3, 16, 4, 5


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


QKV = shaped(G, R, T, K), shaped(G, T, K), shaped(G, T, V)
STATE = shaped(G, K, V), shaped(G, T, K), shaped(G, T, K), shaped(G, T, V), shaped(G, T)


def of(attend):
    where = Tokens.arange(T)
    return lambda q, k, v: attend(q, k, v, where, where)


def test_dense_attention_multiplies_every_pair_twice_and_backwards_four_times_more():
    pairs = 2 * G * R * T * T * (K + V)
    dense = of(Dense(Causal()))
    assert executed_flops(dense, *QKV) == pairs

    def gradient(q, k, v):
        return jax.grad(lambda *qkv: dense(*qkv).sum(), argnums=(0, 1, 2))(q, k, v)

    assert executed_flops(gradient, *QKV) == 3 * pairs


@pytest.mark.parametrize(
    ("rule", "tiles"), [(Causal(), 1 + 2 + 3 + 4), (Causal() & SlidingWindow(3), 1 + 2 + 2 + 2), (Everything(), 16)]
)
def test_blockwise_attention_multiplies_the_pairs_of_the_tiles_that_it_visits(rule, tiles):
    blockwise = of(Blockwise(rule, None, 4, 4))
    pairs = G * R * tiles * 4 * 4
    assert executed_flops(blockwise, *QKV) == 2 * pairs * (K + V)
    assert executed_flops(jax.vmap(blockwise), *(shaped(7, *x.shape) for x in QKV)) == 7 * 2 * pairs * (K + V)

    def gradient(q, k, v):
        return jax.grad(lambda *qkv: blockwise(*qkv).sum(), argnums=(0, 1, 2))(q, k, v)

    shift = 2 * G * R * T * V  # d_o · o
    assert executed_flops(gradient, *QKV) == 2 * pairs * (K + V) + 2 * pairs * (3 * K + 2 * V) + shift


def test_where_arguments_say_when_a_loop_ends_it_turns_as_often_as_is_told():
    def at(position, *qkv):
        where = Tokens(position, jnp.zeros_like(position))
        return Blockwise(Causal(), None, 4, 4)(*qkv, where, where)

    position, tiles = jax.ShapeDtypeStruct((T,), jnp.int32), [1, 2, 3, 4]
    with pytest.raises(ValueError, match="give `turns`"):
        executed_flops(at, position, *QKV)
    visited = executed_flops(at, position, *QKV, turns=sum(tiles) / len(tiles))
    assert visited == 2 * G * R * sum(tiles) * 4 * 4 * (K + V)


def test_a_loop_in_a_scan_turns_as_often_as_each_row_says():
    """Over rows of a known table, last first, each squared as often as the number before it says."""

    def powers(x):
        def row(before, now):
            return now, jax.lax.fori_loop(1, before, lambda _, x: x @ x, x)

        return jax.lax.scan(row, 0, jnp.array([5, 2, 1]), reverse=True)

    assert executed_flops(powers, shaped(10, 10)) == (0 + 0 + 1) * 2 * 10**3


@pytest.mark.parametrize("end", [lambda: 3, lambda: jnp.arange(4)[3]], ids=["literal", "constant"])
def test_a_loop_that_counts_to_what_its_condition_holds_turns_as_often(end):
    def powers(x):
        n = end()
        return jax.lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] @ c[1]), (jnp.arange(2)[1], x))

    assert executed_flops(powers, shaped(10, 10)) == 2 * 2 * 10**3


@pytest.mark.parametrize(
    ("begin", "end", "turns"), [(np.uint32(5), 3, 0), (np.uint8(5), 3, 0), (np.int8(-100), 100, 200)]
)
def test_of_numbers_that_hold_no_difference_the_difference_is_taken(begin, end, turns):
    def powers(x):
        start, stop = jnp.full(2, begin)[1], begin.dtype.type(end)
        return jax.lax.while_loop(lambda c: c[0] < stop, lambda c: (c[0] + 1, c[1] @ c[1]), (start, x))

    assert executed_flops(powers, shaped(10, 10)) == turns * 2 * 10**3


def test_loops_of_a_batch_turn_as_often_as_the_longest():
    def powers(x):
        return jax.vmap(lambda n: jax.lax.fori_loop(0, n, lambda _, x: x @ x, x))(jnp.array([1, 4, 2]))

    assert executed_flops(powers, shaped(10, 10)) == 4 * 3 * 2 * 10**3


@pytest.mark.parametrize(
    ("goes_on", "products"),
    [(lambda i, n, x: i <= n, 1), (lambda i, n, x: x[0, 0] < n, 1), (lambda i, n, x: (x @ x)[0, 0] < n, 2)],
)
def test_a_loop_that_does_not_count_to_a_known_number_turns_as_often_as_is_told(goes_on, products):
    def loop(x):
        return jax.lax.while_loop(lambda c: goes_on(*c), lambda c: (c[0] + 1, c[1], c[2] @ c[2]), (0, 3, x))

    with pytest.raises(ValueError, match="give `turns`"):
        executed_flops(loop, shaped(10, 10))
    assert executed_flops(loop, shaped(10, 10), turns=4) == 4 * products * 2 * 10**3


@pytest.mark.parametrize("step", [(1.0, 0, 0.0), (2, 0, 0), (1, 1, 0)], ids=["float", "by two", "to a moving end"])
def test_a_loop_that_counts_otherwise_turns_as_often_as_is_told(step):
    by, moves, first = step

    def loop(x):
        go = lambda c: (c[0] + by, c[1] + moves, c[2] @ c[2])  # noqa: E731
        return jax.lax.while_loop(lambda c: c[0] < c[1], go, (first, 3 + 0 * first, x))

    with pytest.raises(ValueError, match="give `turns`"):
        executed_flops(loop, shaped(10, 10))


def test_what_is_known_stays_known_behind_a_barrier():
    def loop(x):
        n, x = jax.lax.optimization_barrier((jnp.arange(4)[3], x))
        return jax.lax.fori_loop(0, n, lambda _, x: x @ x, x)

    assert executed_flops(loop, shaped(10, 10)) == 3 * 2 * 10**3


def test_what_is_recomputed_counts_again():
    blockwise = of(Blockwise(Causal(), None, 4, 4))

    def gradient(attend):
        return lambda q, k, v: jax.grad(lambda *qkv: attend(*qkv).sum(), argnums=(0, 1, 2))(q, k, v)

    forward, both = executed_flops(blockwise, *QKV), executed_flops(gradient(blockwise), *QKV)
    assert executed_flops(gradient(jax.checkpoint(blockwise)), *QKV) == forward + both


def test_a_device_does_not_know_where_its_tokens_stand():
    ring = of(over_sequence(Ring(Causal()), make_mesh("sequence=1")))
    with pytest.raises(ValueError, match="give `turns`"):
        executed_flops(ring, *QKV)
    assert executed_flops(ring, *QKV, turns=1) == executed_flops(of(Dense(Causal())), *QKV)


def test_a_recurrence_counts_every_token():
    def looped(*arguments):
        return loop(decay_step, *arguments)

    assert executed_flops(looped, *STATE) == T * 2 * G * K * V
    assert executed_flops(decay_parallel, *STATE[1:]) == 2 * G * T * T * (K + V)


@pytest.mark.parametrize("chunk", [4, 8])
def test_chunks_cost_their_pairs_and_two_products_with_the_state(chunk):
    inside, with_state = 2 * G * T * chunk * (K + V), 2 * 2 * G * T * K * V
    assert executed_flops(lambda *a: decay_chunked(*a, chunk=chunk), *STATE) == inside + with_state


def test_of_two_branches_the_dearer_counts_and_a_loop_without_products_nothing():
    def branching(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x @ x @ x, x)

    assert executed_flops(branching, shaped(10, 10)) == 4000
    assert executed_flops(lambda x: jax.lax.while_loop(lambda x: x < 5, lambda x: x + 1, x), shaped()) == 0


def test_a_triangular_solve_counts_half_of_a_product():
    def solve(a, b):
        return jax.scipy.linalg.solve_triangular(a, b, lower=True)

    assert executed_flops(solve, shaped(10, 10), shaped(10, 3)) == 300


def test_a_kernel_counts_once_for_every_cell_of_its_grid():
    from jax.experimental import pallas as pl

    def square(x, y):
        y[...] = x[...] @ x[...]

    block = pl.BlockSpec((4, 4), lambda i: (i, 0))
    kernel = pl.pallas_call(
        square, out_shape=shaped(12, 4), grid=(3,), in_specs=[block], out_specs=block, interpret=True
    )
    assert executed_flops(kernel, shaped(12, 4)) == 3 * 2 * 4**3


def test_a_loop_to_the_number_of_a_cell_turns_as_often_as_is_told():
    from jax.experimental import pallas as pl

    def power(x, y):
        y[...] = jax.lax.fori_loop(0, pl.program_id(0) + 1, lambda _, y: y @ y, x[...])

    block = pl.BlockSpec((4, 4), lambda i: (i, 0))
    kernel = pl.pallas_call(
        power, out_shape=shaped(12, 4), grid=(3,), in_specs=[block], out_specs=block, interpret=True
    )
    with pytest.raises(ValueError, match="give `turns`"):
        executed_flops(kernel, shaped(12, 4))
    assert executed_flops(kernel, shaped(12, 4), turns=2) == 3 * 2 * 2 * 4**3
