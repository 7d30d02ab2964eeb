"""What holds of the loop over time, beyond the laws of the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.recurrent.elman import elman_cell
from minilm.layers.recurrent.gru import gru_cell
from minilm.layers.recurrent.lstm import lstm_cell, lstm_cell_peephole
from minilm.layers.recurrent.unroll import (
    Directions,
    _in_pieces,
    bidirectional,
    stacked,
    truncated_unroll,
    unroll,
    unroll_reverse,
)
from tests.cells import BATCH, PARAMS, H, I, T, assert_identical, draw_all, draw_params, draw_state
from tests.strategies import seeds
from tests.tolerances import FORMULA, assert_close

# The loop knows nothing of a cell but the form of its state: one of each suffices for the loop's own laws.
each_form = pytest.mark.parametrize("cell", [gru_cell, lstm_cell_peephole], ids=["array", "tuple"])


@each_form
@settings(max_examples=4)
@given(seed=seeds)
def test_the_scan_equals_the_loop(cell, seed):
    params, state, xs, _ = draw_all(cell, seed)
    after, ys = state, []
    for x in xs:
        after, y = cell(params, after, x)
        ys.append(y)
    assert_close(unroll(cell, params, state, xs), (after, jnp.stack(ys)), FORMULA)


@each_form
def test_unrolling_over_nothing_returns_the_initial_state(cell):
    params, state, xs, _ = draw_all(cell, 0, 2, t=0)
    for layer in (unroll, unroll_reverse):
        after, ys = layer(cell, params, state, xs)
        assert_identical(after, state)
        assert ys.shape == (2, 0, H)


@each_form
@settings(max_examples=4)
@given(seed=seeds, garbage=st.sampled_from([0.0, 1e30, np.inf, np.nan]))
def test_padding_changes_no_bit_and_receives_no_gradient(cell, seed, garbage):
    params, state, xs, rng = draw_all(cell, seed, BATCH)
    length = jnp.asarray(rng.integers(0, T + 1, BATCH))
    inside = jnp.arange(T) < length[:, None]
    padded = jnp.where(inside[..., None], xs, garbage)

    def total(params, state, xs):
        out = unroll(cell, params, state, xs, length)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(out)), out

    gradient = jax.grad(total, argnums=(0, 1, 2), has_aux=True)
    (d, (after, ys)), (d_padded, out_padded) = gradient(params, state, xs), gradient(params, state, padded)
    assert_identical((d, after, ys), (d_padded, out_padded[0], out_padded[1]))
    assert_identical(jnp.where(inside[..., None], 0, ys), jnp.zeros_like(ys))
    assert_identical(jnp.where(inside[..., None], 0, d[2]), jnp.zeros_like(xs))


@each_form
@settings(max_examples=4)
@given(seed=seeds)
def test_a_ragged_batch_equals_each_sequence_alone_without_its_padding(cell, seed):
    params, state, xs, _ = draw_all(cell, seed, 2, 1)
    length = jnp.asarray([[4], [2]])
    for layer in (unroll, unroll_reverse):
        after, ys = layer(cell, params, state, xs, length)
        for n, index in ((4, (0, 0)), (2, (1, 0))):
            own = jax.tree.map(lambda leaf, index=index: leaf[index], state)
            expected = layer(cell, params, own, xs[index][:n])
            got = jax.tree.map(lambda leaf, index=index: leaf[index], after), ys[index][:n]
            assert_close(got, expected, FORMULA)


@each_form
@settings(max_examples=4)
@given(seed=seeds)
def test_the_order_of_a_batch_changes_no_bit(cell, seed):
    params, state, xs, rng = draw_all(cell, seed, BATCH)
    length, order = jnp.asarray(rng.integers(0, T + 1, BATCH)), rng.permutation(BATCH)
    shuffle = lambda tree: jax.tree.map(lambda leaf: leaf[order], tree)  # noqa: E731
    assert_identical(
        unroll(cell, params, shuffle(state), xs[order], length[order]), shuffle(unroll(cell, params, state, xs, length))
    )


@each_form
@settings(max_examples=4)
@given(seed=seeds)
def test_unrolling_in_reverse_is_unrolling_the_reversed(cell, seed):
    params, state, xs, _ = draw_all(cell, seed)
    after, ys = unroll(cell, params, state, xs[::-1])
    assert_identical(unroll_reverse(cell, params, state, xs), (after, ys[::-1]))


@each_form
@settings(max_examples=4)
@given(seed=seeds)
def test_a_sequence_in_two_calls_equals_one(cell, seed):
    params, state, xs, _ = draw_all(cell, seed)
    middle, first = unroll(cell, params, state, xs[:2])
    after, second = unroll(cell, params, middle, xs[2:])
    assert_close((after, jnp.concatenate([first, second])), unroll(cell, params, state, xs), FORMULA)


@each_form
@settings(max_examples=4)
@given(seed=seeds)
def test_truncation_keeps_every_value(cell, seed):
    params, state, xs, _ = draw_all(cell, seed, BATCH)
    assert_identical(truncated_unroll(cell, params, state, xs, segment=4), unroll(cell, params, state, xs))


@each_form
@settings(max_examples=4)
@given(seed=seeds)
def test_truncation_lets_no_gradient_cross_a_border(cell, seed):
    params, state, xs, _ = draw_all(cell, seed)

    def output(state, xs, t):
        return jnp.sum(truncated_unroll(cell, params, state, xs, segment=4)[1][t])

    d_state, d_xs = jax.grad(output, argnums=(0, 1))(state, xs, 3)
    assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(d_state.h if PARAMS[cell][1] == 4 else d_state))
    assert np.any(d_xs[:4] != 0, axis=1).all()
    d_state, d_xs = jax.grad(output, argnums=(0, 1))(state, xs, 5)
    assert_identical((d_state, d_xs[:4]), jax.tree.map(jnp.zeros_like, (state, xs[:4])))
    assert np.any(d_xs[4:] != 0, axis=1).all()


@settings(max_examples=4)
@given(seed=seeds)
def test_a_segment_has_the_gradient_of_a_call_of_its_own(seed):
    params, state, xs, _ = draw_all(gru_cell, seed)
    truncated = jax.grad(lambda p: jnp.sum(truncated_unroll(gru_cell, p, state, xs, segment=2)[1][-2:]))(params)
    carried, _ = unroll(gru_cell, params, state, xs[:-2])
    alone = jax.grad(lambda p: jnp.sum(unroll(gru_cell, p, carried, xs[-2:])[1]))(params)
    assert_close(truncated, alone, FORMULA)


def test_with_segments_of_one_step_an_output_hears_of_its_own_input_alone():
    params, state, xs, _ = draw_all(gru_cell, 0)
    d_xs = jax.grad(lambda xs: truncated_unroll(gru_cell, params, state, xs, segment=1)[1][1].sum())(xs)
    assert np.any(d_xs != 0, axis=1).tolist() == [t == 1 for t in range(T)]


def each_direction(layers):
    """PyTorch's order: layer by layer, forward before backward."""
    return [part for layer in layers for part in (layer.forward, layer.backward)]


def torch_network(torch, kind, params):
    network = getattr(torch.nn, kind)(
        I, H, num_layers=len(params), bidirectional=True, batch_first=True, dtype=torch.float64
    )
    ours = [p for own in each_direction(params) for p in (own.w_x, own.w_h, own.b_x, own.b_h)]
    for theirs, p in zip(network.parameters(), ours, strict=True):
        theirs.data = torch.tensor(np.ascontiguousarray(np.asarray(p).T))
    return network


@pytest.mark.parametrize(
    ("cell", "kind"),
    [(elman_cell, "RNN"), (gru_cell, "GRU"), (lstm_cell, "LSTM")],
    ids=["elman", "gru", "lstm"],
)
@settings(max_examples=2)
@given(seed=seeds)
def test_two_ragged_bidirectional_layers_equal_pytorch_in_value_and_gradient(cell, kind, seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    params = tuple(Directions(*(draw_params(cell, rng, i=i) for _ in "fb")) for i in (I, 2 * H))
    state = tuple(Directions(*(draw_state(cell, rng, BATCH, H) for _ in "fb")) for _ in params)
    xs, length = rng.standard_normal((BATCH, T, I)), np.array([3, 1, T, 4, 2])

    def ours(params, xs):
        after, ys = stacked(cell, params, state, xs, length, layer=bidirectional)
        return jnp.sum(jnp.sin(ys)), (after, ys)

    (d_params, d_xs), (after, ys) = jax.jit(jax.grad(ours, argnums=(0, 1), has_aux=True))(params, xs)

    network, x = torch_network(torch, kind, params), torch.tensor(xs, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, length, batch_first=True, enforce_sorted=False)
    is_lstm = kind == "LSTM"
    parts = zip(*each_direction(state), strict=True) if is_lstm else [each_direction(state)]
    before = tuple(torch.tensor(np.stack(part)) for part in parts)
    out, last = network(packed, before if is_lstm else before[0])
    out, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=T)
    out.sin().sum().backward()

    mine = tuple(zip(*each_direction(after), strict=True)) if is_lstm else (each_direction(after),)
    assert_close(ys, out.detach().numpy(), FORMULA)
    assert_close(
        [jnp.stack(part) for part in mine], [part.detach().numpy() for part in (last if is_lstm else (last,))], FORMULA
    )
    assert x.grad is not None
    assert_close(d_xs, x.grad.numpy(), FORMULA)
    assert_close(jax.tree.leaves(d_params), [p.grad.numpy().T for p in network.parameters()], FORMULA)


def test_unrolling_again_traces_nothing_again():
    traces = []

    def counted(params, state, x):
        traces.append(x.shape)
        return gru_cell(params, state, x)

    for seed in range(3):
        params, state, xs, _ = draw_all(gru_cell, seed, BATCH)
        unroll(counted, params, state, xs)
    assert len(traces) == 1


@pytest.mark.parametrize(("devices", "pieces"), [(1, 2), (8, 1)])
def test_a_matrix_enters_the_loop_in_two_pieces_where_it_is_not_divided_over_devices(devices, pieces, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    assert len(jax.tree.leaves(_in_pieces(jnp.ones((3, 2))))) == pieces
    assert len(jax.tree.leaves(_in_pieces(jnp.ones(3)))) == 1


def test_bad_shapes_are_told_in_a_sentence():
    params, state, xs, _ = draw_all(gru_cell, 0, BATCH)
    with pytest.raises(ValueError, match=r"a state for each sequence, with the leading axes \(5,\) of xs"):
        unroll(gru_cell, params, state[0], xs)
    with pytest.raises(ValueError, match="a length for each sequence"):
        unroll(gru_cell, params, state, xs, length=jnp.asarray([3, 2]))
    with pytest.raises(ValueError, match="a state for each of the 2 layers"):
        stacked(gru_cell, (params, params), (state,), xs)
    with pytest.raises(ValueError, match="a segment of at least 1 step"):
        truncated_unroll(gru_cell, params, state, xs, segment=0)
