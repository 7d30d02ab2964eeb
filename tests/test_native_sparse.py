"""Native sparse attention: which older attention each branch is, what is selected, and what the whole may see."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.attention.core import Dense, dot_product_attention
from minilm.layers.attention.masks import Causal, SlidingWindow
from minilm.layers.attention.native_sparse import (
    compress,
    init_compress,
    init_native_sparse,
    native_sparse_attention,
    native_sparse_mixer,
    selected_blocks,
)
from minilm.reference.attention import native_sparse as reference
from minilm.shapes import Tokens
from tests.mixers import assert_lawful, assert_one_mixer, drawn_params
from tests.strategies import seeds
from tests.tolerances import DIFFERENCE, FORMULA, assert_close
from tests.torch_oracle import assert_same_mixer

G, R, T, K, V, LENGTH = 2, 3, 19, 5, 4, 4
STRIDE, SIZE, N, WIDTH = 2, 4, 4, 3  # of five blocks the last queries choose one beside the fixed three
SIZES = {"stride": STRIDE, "size": SIZE, "n": N, "width": WIDTH}
D, L, LONG = 7, 6, 22  # of the mixer: its compressed blocks overlap twice, and its last queries have six blocks
MIXER = native_sparse_mixer(g=G, r=R, k=K, v=V, length=L, **SIZES)
few = settings(max_examples=3)


def draw(seed, t=T):
    rng = np.random.default_rng(seed)
    shapes = (3, G, R, t), (G, R, t, K), (3, G, t, K), (3, G, t, V)
    phi = (init_compress(jax.random.key(seed + i), LENGTH, width, dtype=jnp.float64) for i, width in enumerate((K, V)))
    phi = [params._replace(b_up=params.b_up + 0.3, b_down=params.b_down - 0.2) for params in phi]
    return [*phi, *(jnp.asarray(rng.standard_normal(shape)) for shape in shapes), jnp.arange(t)]


def gated(gates, arguments):
    """The arguments, the gates of the three branches the same for all heads and queries."""
    return [*arguments[:2], jnp.broadcast_to(jnp.array(gates)[:, None, None, None], arguments[2].shape), *arguments[3:]]


@few
@given(seed=seeds, size=st.sampled_from([2, 4, 6]))
def test_with_all_blocks_selected_the_second_branch_is_causal_attention(seed, size):
    arguments = gated((0.0, 1.0, 0.0), draw(seed))
    q, k, v = arguments[3:6]
    out = native_sparse_attention(*arguments, stride=2, size=size, n=10, width=1)
    assert_close(out, Dense(Causal())(q, k[1], v[1], Tokens.arange(T), Tokens.arange(T)), FORMULA)


@few
@given(seed=seeds, width=st.sampled_from([1, 3, 30]))
def test_the_third_branch_is_attention_to_a_sliding_window(seed, width):
    arguments = gated((0.0, 0.0, 1.0), draw(seed))
    q, k, v = arguments[3:6]
    out = native_sparse_attention(*arguments, **{**SIZES, "width": width})
    expected = Dense(Causal() & SlidingWindow(width))(q, k[2], v[2], Tokens.arange(T), Tokens.arange(T))
    assert_close(out, expected, FORMULA)


@few
@given(seed=seeds)
def test_the_first_branch_is_attention_to_what_is_compressed_and_sees_whole_blocks_alone(seed):
    arguments = gated((1.0, 0.0, 0.0), draw(seed))
    phi_k, phi_v, _, q, k, v, position = arguments
    k, v = compress(phi_k, k[0], stride=2), compress(phi_v, v[0], stride=2)
    ends = 2 * np.arange(k.shape[1]) + LENGTH - 1
    expected = dot_product_attention(q, k, v, ends <= position[:, None])
    out = native_sparse_attention(*arguments, **SIZES)
    assert_close(out, expected, FORMULA)
    assert not out[:, :, : LENGTH - 1].any()


@few
@given(seed=seeds)
def test_branches_add_up_and_a_closed_gate_closes_them(seed):
    arguments = draw(seed)
    singly = [native_sparse_attention(*gated(row, arguments), **SIZES) for row in np.eye(3)]
    gates = arguments[2]
    expected = sum(g[..., None] * o for g, o in zip(gates, singly, strict=True))
    assert_close(native_sparse_attention(*arguments, **SIZES), expected, FORMULA)
    assert not native_sparse_attention(*gated((0.0, 0.0, 0.0), arguments), **SIZES).any()


@few
@given(seed=seeds)
def test_compressing_blocks_that_do_not_overlap_is_the_network_on_each_of_them(seed):
    params, x = draw(seed)[0], draw(seed, 12)[4][0]
    y = compress(params, x, stride=LENGTH)
    for b in range(3):
        alone = compress(params, x[:, b * LENGTH : (b + 1) * LENGTH], stride=LENGTH)
        assert_close(y[:, b : b + 1], alone, FORMULA)


def test_the_order_inside_a_block_counts():
    params, x = draw(0)[0], draw(0, LENGTH)[4][0]
    assert abs(compress(params, x, stride=LENGTH) - compress(params, x[:, ::-1], stride=LENGTH)).max() > 0.01
    constant = jnp.ones_like(x)
    moved = params._replace(e=params.e + jnp.arange(4.0)[:, None])
    assert (
        abs(compress(moved, constant, stride=4) - compress(moved._replace(e=moved.e[::-1]), constant, stride=4)).max()
        > 0.01
    )


@few
@given(seed=seeds, n=st.sampled_from([3, 5, 20]))
def test_n_blocks_of_the_past_are_selected_with_the_first_and_the_last_two(seed, n):
    weights = jnp.asarray(np.random.default_rng(seed).random((G, T, -(-T // 2))))
    chosen = np.asarray(selected_blocks(weights, jnp.arange(T), length=4, stride=2, size=4, n=n))
    for t in range(T):
        own = t // 4
        assert (chosen[:, t].sum(-1) == min(n, own + 1)).all()
        assert chosen[:, t, [0, max(own - 1, 0), own]].all()
        assert not chosen[:, t, own + 1 :].any()


def test_a_compressed_block_counts_for_each_block_as_often_as_they_share_a_stride():
    """Length 4, stride 2, blocks of 4: compressed block 3 stands on 6 to 9, half in block 1 and half in block 2."""

    def chosen(weights, n=4):
        weights = jnp.zeros((1, 1, 12)).at[0, 0, jnp.array(list(weights))].set(jnp.array(list(weights.values())))
        seen = selected_blocks(weights, jnp.array([23]), length=4, stride=2, size=4, n=n)[0, 0]
        return set(np.flatnonzero(seen)) - {0, 4, 5}

    assert chosen({3: 1.0}, n=5) == {1, 2}
    assert chosen({3: 1.0}) == {1}  # the earlier of equals
    assert chosen({3: 1.0, 5: 0.5}) == {2}
    assert chosen({4: 0.6, 2: 0.5}) == {2}
    assert chosen({6: 0.5, 3: 0.9}) == {3}


def test_less_than_the_blocks_that_are_always_selected_is_refused():
    with pytest.raises(ValueError, match="at least 3, got 2"):
        selected_blocks(jnp.ones((1, 1, 4)), jnp.array([3]), length=2, stride=2, size=2, n=2)


@few
@given(seed=seeds)
def test_no_output_depends_on_the_future_to_the_last_bit(seed):
    *phi, gates, q, k, v, position = draw(seed)
    loud = [k.at[:, :, 10:].multiply(-1e4), v.at[:, :, 10:].multiply(-1e4)]
    before, after = (
        native_sparse_attention(*phi, gates, q, *kv, position, **SIZES)[:, :, :10] for kv in ((k, v), loud)
    )
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_hand_derived_gradient_equals_differences_while_the_choice_stands(seed):
    *floats, position = jax.tree.map(np.asarray, draw(seed))
    leaves, structure = jax.tree.flatten(floats)
    rng, step = np.random.default_rng(seed), 1e-5
    direction = [rng.standard_normal(leaf.shape) for leaf in leaves]

    def along(h):
        moved = jax.tree.unflatten(structure, [x + h * d for x, d in zip(leaves, direction, strict=True)])
        out, saved = reference.native_sparse_attention(*moved, position, **SIZES)
        return out, saved, saved[1][1][1][3] > 0

    (out, saved, chosen), (plus, _, chosen_plus), (minus, _, chosen_minus) = along(0), along(step), along(-step)
    assert (chosen == chosen_plus).all()
    assert (chosen == chosen_minus).all()
    d_out = rng.standard_normal(out.shape)
    gradients = jax.tree.leaves(reference.native_sparse_attention_backward(saved, d_out)[:-1])
    slope = sum(np.vdot(a, b) for a, b in zip(gradients, direction, strict=True))
    assert_close(slope, np.vdot(d_out, plus - minus) / (2 * step), DIFFERENCE)


def test_the_first_tokens_and_padding_have_finite_gradients_and_padding_gives_nothing():
    *floats, _ = draw(3, 3)
    position = jnp.array([0, -1, 2])

    def total(floats):
        out = native_sparse_attention(*floats, position, **SIZES)
        return out.sum(), out

    gradients, out = jax.grad(total, has_aux=True)([*floats[:3], 100 * floats[3], *floats[4:]])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert not out[:, :, 1].any()
    one = native_sparse_attention(*gated((0.0, 0.25, 0.5), draw(3, 1)), **SIZES)
    v = draw(3, 1)[5]
    assert_close(one, jnp.broadcast_to((0.25 * v[1] + 0.5 * v[2])[:, None], one.shape), FORMULA)


def torch_selected(paid, t):
    """Equations 9 to 12: the tokens that a group reads at t, from what its heads pay to each compressed block."""

    def worth(j):
        shared = (SIZE // STRIDE * j + m - n for m in range(SIZE // STRIDE) for n in range(L // STRIDE))
        return sum(paid[i] for i in shared if 0 <= i < len(paid))

    own = t // SIZE
    always = {0, max(own - 1, 0), own}
    best = sorted(set(range(own)) - always, key=worth)[3 - N :]
    return [s for j in always | {*best} for s in range(SIZE * j, SIZE * (j + 1)) if s <= t]


def torch_mixer(params, x):
    """Section 3 of the paper, group by group and token by token: three softmaxes of the keys that each may read."""
    import torch
    from torch.nn.functional import gelu, linear

    def compressed(phi, x):
        blocks = torch.stack([(x[s : s + L] + phi.e).flatten() for s in range(0, len(x) - L + 1, STRIDE)])
        hidden = gelu(linear(blocks, phi.w_up.T, phi.b_up), approximate="tanh")
        return linear(hidden, phi.w_down.T, phi.b_down)

    p, y = params.heads, torch.zeros_like(x) + params.heads.b_o
    for g in range(G):
        k = [x @ p.w_k[:, i] + p.b_k[i] for i in (g, G + g, 2 * G + g)]
        v = [x @ p.w_v[:, i] + p.b_v[i] for i in (g, G + g, 2 * G + g)]
        k[0], v[0] = compressed(params.compress_k, k[0]), compressed(params.compress_v, v[0])
        for t in range(len(x)):
            q = torch.einsum("d,drk->rk", x[t], p.w_q[:, g]) + p.b_q[g]
            gates = torch.sigmoid(x[t] @ params.gate.w + params.gate.b).view(3, G, R)[:, g]
            scores = [q @ keys.T / K**0.5 for keys in k]
            whole, near = range(0, t + 2 - L, STRIDE), range(max(t + 1 - WIDTH, 0), t + 1)
            paid = torch.softmax(scores[0][:, : len(whole)], -1).sum(0).tolist()
            for branch, read in enumerate((range(len(whole)), torch_selected(paid, t), near)):
                o = torch.softmax(scores[branch][:, read], -1) @ v[branch][read]
                y[t] += torch.einsum("r,rv,rvd->d", gates[branch], o, p.w_o[g])
    return y


@few
@given(seed=seeds)
def test_the_mixer_and_its_gradients_are_pytorchs_written_out(seed):
    x = np.random.default_rng(seed).standard_normal((LONG, D))
    assert_same_mixer(MIXER, torch_mixer, drawn_params(MIXER, D, seed), x, seed)


def test_projections_have_biases_unless_told():
    sizes = {"g": 2, "r": 3, "k": 5, "v": 4, "length": 4}
    begun = init_native_sparse(jax.random.key(0), 8, **sizes)
    assert (begun.heads.b_q.shape, begun.heads.b_k.shape) == ((2, 3, 5), (6, 5))
    assert init_native_sparse(jax.random.key(0), 8, **sizes, bias=False).heads.b_q is None
    sizes |= SIZES
    assert_one_mixer(native_sparse_mixer(**sizes), native_sparse_mixer(**sizes, bias=True), D)
    begun = native_sparse_mixer(**sizes, bias=False).init(jax.random.key(0), D).heads
    assert (begun.b_q, begun.b_k, begun.b_v) == (None, None, None)


def test_the_initial_network_that_compresses_keeps_the_variance_of_a_block():
    begun = init_compress(jax.random.key(0), 8, 16)
    for w in (begun.w_up, begun.w_down):
        assert 0.9 < w.std() * 128**0.5 < 1.1


def test_a_result_has_the_dtype_of_the_values():
    *others, v, position = draw(0)
    assert native_sparse_attention(*others, v.astype(jnp.bfloat16), position, **SIZES).dtype == jnp.bfloat16


def test_few_bits_of_weights_make_no_ties_of_their_sums():
    weights = jnp.array([0, 0, 1, 0.001, 1, 0.002, 0, 0, 0, 0, 0, 0], jnp.bfloat16)[None, None]
    chosen = selected_blocks(weights, jnp.array([11]), length=1, stride=1, size=2, n=4)
    assert chosen[0, 0].tolist() == [True, False, True, False, True, True]


def test_what_is_compressed_keeps_its_dtype():
    assert (
        compress(init_compress(jax.random.key(0), 4, 5), jnp.ones((2, 9, 5), jnp.bfloat16), stride=2).dtype
        == "bfloat16"
    )


@pytest.mark.parametrize("sizes", [{"stride": 3}, {"size": 3}, {"length": 5}, {"stride": 0}], ids=str)
def test_a_stride_that_does_not_divide_is_refused(sizes):
    assert native_sparse_mixer(g=G, r=R, k=K, v=V, **{"length": 4, **SIZES, "stride": 1})
    with pytest.raises(ValueError, match=r"A stride of \d must divide the length of blocks, \d, and their size, \d\."):
        native_sparse_mixer(g=G, r=R, k=K, v=V, **{"length": 4, **SIZES, **sizes})


def test_a_state_has_room_for_as_many_compressed_blocks_as_may_begin_in_it():
    mixer = native_sparse_mixer(g=G, r=R, k=K, v=V, length=6, **SIZES | {"stride": 3, "size": 6})
    state = mixer.init_state(drawn_params(mixer, D), 20)
    assert (state.k.shape, state.v.shape) == ((G, 7, K), (G, 7, V))


def test_the_mixer_keeps_what_mixers_promise_with_sizes_that_all_differ():
    sizes = {"g": 2, "r": 3, "k": 5, "v": 4, "length": 4, "stride": 2, "size": 2, "n": 4, "width": 3}
    assert_lawful(native_sparse_mixer(**sizes), 8, documents=False)


@few
@given(seed=seeds, cuts=st.sets(st.integers(1, LONG - 1)))
def test_in_pieces_as_at_once_every_block_is_compressed_when_its_last_token_is_read(seed, cuts):
    params, x = drawn_params(MIXER, D, seed), jnp.asarray(np.random.default_rng(seed).standard_normal((LONG, D)))
    state = MIXER.init_state(params, LONG)
    for first, last in pairwise([0, *sorted(cuts), LONG]):
        state, _ = MIXER.step(params, state, x[first:last], Tokens.arange(last - first, first))
        whole = max((last - L) // STRIDE + 1, 0)
        for phi, held, raw in (
            (params.compress_k, state.k, state.cache.k),
            (params.compress_v, state.v, state.cache.v),
        ):
            assert_close(held[:, :whole], compress(phi, raw[:G, :last], stride=STRIDE)[:, :whole], FORMULA)


@pytest.mark.parametrize(("first", "t"), [(0, 1), (4, 1), (5, 1), (6, 1), (7, 1), (7, 4), (2, 9), (18, 4)])
def test_a_step_computes_as_many_blocks_as_may_end_in_it_from_the_first_that_does(first, t):
    """Of t tokens ⌈t / 2⌉ blocks, from that on which ends with the first of them or behind it."""
    params = drawn_params(MIXER, D, 0)
    state = MIXER.init_state(params, LONG)
    state = state._replace(k=state.k + 1e3, v=state.v + 1e3)
    state, _ = MIXER.step(params, state, jnp.ones((t, D)), Tokens.arange(t, first))
    start = max(-((L - 1 - first) // STRIDE), 0)
    for held in (state.k, state.v):
        written = set(np.flatnonzero((np.asarray(held) != 1e3).any((0, 2))))
        assert written == set(range(start, min(start + -(-t // STRIDE), held.shape[1])))


def test_padding_changes_no_block_that_can_be_seen():
    params, whole = drawn_params(MIXER, D, 0), (LONG - L) // STRIDE + 1
    state, _ = MIXER.step(params, MIXER.init_state(params, LONG), jnp.ones((LONG, D)), Tokens.arange(LONG))
    padding = Tokens(jnp.full(3, -1), jnp.zeros(3, int))
    after, _ = MIXER.step(params, state, 2 * jnp.ones((3, D)), padding)
    for x, y in ((after.k, state.k), (after.v, state.v), (after.cache.k, state.cache.k)):
        np.testing.assert_array_equal(x[:, :whole], y[:, :whole])
