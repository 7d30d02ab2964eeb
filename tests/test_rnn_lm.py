"""The recurrent language model: equal to the whole by hand and to PyTorch's, and what carrying a state promises."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import generation
from minilm.data.batching import Batch
from minilm.layers.recurrent.lstm import LSTMState
from minilm.layers.recurrent.unroll import stacked, truncated_unroll
from minilm.models import rnn_lm
from minilm.models.cells import CELLS
from minilm.reference.models import rnn_lm as reference
from tests.strategies import seeds, shaken
from tests.tolerances import DIFFERENCE, FORMULA, SAMPLING, assert_close

B, T = 3, 5
apply, step, read = jax.jit(rnn_lm.apply), jax.jit(rnn_lm.step), jax.jit(rnn_lm.read)
gradient_of_loss = jax.jit(jax.value_and_grad(rnn_lm.carried_loss, argnums=(0, 1), has_aux=True))
CONFIG = rnn_lm.Config(vocab_size=11, context_length=7, n_layers=2, cell="gru", d_model=4, d_hidden=6, dropout=0.5)
PLAIN = replace(CONFIG, cell="lstm", n_layers=1, dropout=0.0)
KINDS = {"elman": "RNN", "gru": "GRU", "lstm": "LSTM"}
each_cell = pytest.mark.parametrize("cell", CELLS)


def example(config, seed=0):
    """Float64 parameters and states of which nothing is zero, and a batch with an ignored position."""
    rng = np.random.default_rng(seed)
    params = shaken(jax.jit(rnn_lm.init)(jax.random.key(seed), config), rng)
    state = shaken(rnn_lm.initial_state(params, B), rng)
    tokens = rng.integers(0, config.vocab_size, (B, T + 1)).astype(np.int32)
    weights = np.ones((B, T))
    weights[0, -1] = 0
    return params, state, Batch._make(map(jnp.asarray, (tokens[:, :-1], tokens[:, 1:], weights)))


def untied(params):
    return params._replace(unembedding=2 * params.embedding[::-1])


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


@pytest.mark.parametrize(
    ("config", "tie"),
    [
        (replace(CONFIG, cell="elman"), untied),
        (CONFIG, lambda params: params),
        (replace(CONFIG, cell="lstm", d_model=6), lambda params: params),
    ],
    ids=["elman, untied", "gru, tied", "lstm, tied, without projection"],
)
def test_the_gradient_of_every_parameter_and_state_equals_the_one_by_hand_under_variational_dropout(config, tie):
    key = jax.random.key(5)
    params, state, batch = example(config)
    params = tie(params)
    assert (params.projection is None) == (config.d_model == config.d_hidden)
    masks = rnn_lm.draw_masks(key, params, config.dropout, (B,))
    (value, (after, metrics)), gradient = gradient_of_loss(params, state, batch, config=config, key=key)
    params, state, batch, masks = as_numpy((params, state, batch, masks))
    out, saved = reference.loss(params, state, batch, config.cell, masks)
    expected = reference.loss_backward(saved)
    assert_close((value, (after, metrics)), out, FORMULA)
    assert jax.tree.structure(expected) == jax.tree.structure(gradient)
    assert_close(gradient, expected, FORMULA)


def test_the_gradient_by_hand_equals_central_differences():
    params, state, batch = map(as_numpy, example(CONFIG, seed=1))
    masks = as_numpy(rnn_lm.draw_masks(jax.random.key(1), params, 0.5, (B,)))
    _, saved = reference.loss(params, state, batch, CONFIG.cell, masks)
    rng, h = np.random.default_rng(1), 1e-5
    direction = jax.tree.map(lambda p: rng.standard_normal(p.shape), (params, state))

    def along(h):
        p, s = jax.tree.map(lambda p, v: p + h * v, (params, state), direction)
        return reference.loss(p, s, batch, CONFIG.cell, masks)[0][0]

    gradient = jax.tree.leaves(reference.loss_backward(saved))
    slope = sum(np.vdot(*pair) for pair in zip(gradient, jax.tree.leaves(direction), strict=True))
    assert_close((along(h) - along(-h)) / (2 * h), slope, DIFFERENCE)


def torch_model(torch, kind, params):
    """Embedding, network, projection and output of PyTorch's own, with our weights; tied as PyTorch users tie."""
    d, (n, h) = params.embedding.shape[1], (len(params.embedding), len(params.layers[0].w_h))
    embedding, network = torch.nn.Embedding(n, d), getattr(torch.nn, kind)(d, h, len(params.layers), batch_first=True)
    projection, output = torch.nn.Linear(h, d), torch.nn.Linear(d, n, bias=False)
    model = torch.nn.ModuleList([embedding, network, projection, output]).double()
    output.weight = embedding.weight
    recurrent = [p for layer in params.layers for p in (layer.w_x, layer.w_h, layer.b_x, layer.b_h)]
    ours = [params.embedding.T, *recurrent, params.projection.w, params.projection.b]
    for theirs, p in zip(model.parameters(), ours, strict=True):
        theirs.data = torch.tensor(np.ascontiguousarray(np.asarray(p).T))
    return model


@each_cell
def test_the_loss_and_its_gradient_equal_those_of_pytorchs_model(cell):
    torch = pytest.importorskip("torch")
    config = replace(CONFIG, cell=cell, dropout=0.0)
    params, state, batch = example(config, seed=1)
    (value, _), (gradient, _) = gradient_of_loss(params, state, batch, config=config)

    embedding, network, projection, output = model = torch_model(torch, KINDS[cell], params)
    parts = zip(*state, strict=True) if cell == "lstm" else [state]
    before = [torch.tensor(np.stack(part)) for part in parts]
    tokens, targets = (torch.tensor(np.asarray(x, np.int64)) for x in (batch.tokens, batch.targets))
    logits = output(projection(network(embedding(tokens), tuple(before) if cell == "lstm" else before[0])[0]))
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    weights = torch.tensor(np.asarray(batch.weights)).flatten()
    expected = (losses * weights).sum() / weights.sum()
    expected.backward()

    assert_close(value, expected.item(), FORMULA)
    recurrent = [g for layer in gradient.layers for g in (layer.w_x, layer.w_h, layer.b_x, layer.b_h)]
    ours = [gradient.embedding.T, *recurrent, gradient.projection.w, gradient.projection.b]
    assert_close(ours, [p.grad.numpy().T for p in model.parameters()], FORMULA)


@settings(max_examples=4)
@given(seed=seeds, cuts=st.sets(st.integers(1, T - 1)))
def test_decoding_in_any_split_equals_apply(seed, cuts):
    params, _, batch = example(PLAIN, seed % 5)
    tokens = batch.tokens[seed % B]
    state, logits = rnn_lm.init_state(params, PLAIN.context_length, config=PLAIN), []
    for chunk in np.split(np.arange(T), sorted(cuts)):
        state, out = step(params, state, tokens[chunk], jnp.asarray(chunk, jnp.int32), config=PLAIN)
        logits.append(out)
    assert_close(jnp.concatenate(logits), apply(params, tokens, config=PLAIN), FORMULA)


@settings(max_examples=4)
@given(seed=seeds, place=st.integers(0, 3))
def test_padding_anywhere_in_a_chunk_leaves_the_state_and_the_other_logits_alone(seed, place):
    params, state, batch = example(PLAIN, seed % 5)
    state = jax.tree.map(lambda leaf: leaf[0], state)
    tokens, position = batch.tokens[0, :3], jnp.arange(3, dtype=jnp.int32)
    padded = jnp.insert(tokens, place, seed % 11), jnp.insert(position, place, -1)
    alone = step(params, state, tokens, position, config=PLAIN)
    after, logits = step(params, state, *padded, config=PLAIN)
    assert_close((after, jnp.delete(logits, place, axis=0)), alone, FORMULA)


def test_nothing_but_padding_leaves_every_bit_of_the_state():
    params, state, batch = example(PLAIN)
    state = jax.tree.map(lambda leaf: leaf[0], state)
    after, _ = step(params, state, batch.tokens[0, :3], jnp.full(3, -1, jnp.int32), config=PLAIN)
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_windows_with_a_carried_state_equal_the_whole_text():
    params, state, batch = example(PLAIN)
    whole = read(params, state, batch.tokens, config=PLAIN)
    middle, first = read(params, state, batch.tokens[:, :2], config=PLAIN)
    after, second = read(params, middle, batch.tokens[:, 2:], config=PLAIN)
    assert_close((after, jnp.concatenate([first, second], axis=1)), whole, FORMULA)


def test_a_window_from_a_state_of_zeros_is_a_text_of_its_own():
    params, _, batch = example(PLAIN)
    value, (_, metrics) = rnn_lm.carried_loss(params, rnn_lm.initial_state(params, B), batch, config=PLAIN)
    assert (value, metrics) == rnn_lm.loss(params, batch, config=PLAIN)


def test_two_windows_have_the_gradient_of_the_whole_text_truncated_at_their_border():
    params, state, batch = example(PLAIN)

    def window(params, state, tokens):
        state, logits = rnn_lm.read(params, state, tokens, config=PLAIN)
        return jnp.sin(logits).sum(), state

    gradient = jax.jit(jax.grad(window, has_aux=True))
    first, middle = gradient(params, state, batch.tokens[:, :2])
    second, after = gradient(params, middle, batch.tokens[:, 2:4])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rnn_lm, "stacked", partial(stacked, layer=partial(truncated_unroll, segment=2)))
        truncated = gradient(params, state, batch.tokens[:, :4])
    assert_close((jax.tree.map(jnp.add, first, second), after), truncated, FORMULA)


def test_tied_weights_are_untied_ones_that_are_equal():
    params, state, batch = example(CONFIG)
    (value, _), (tied, _) = gradient_of_loss(params, state, batch, config=CONFIG)
    apart = params._replace(unembedding=params.embedding)
    (same, _), (gradient, _) = gradient_of_loss(apart, state, batch, config=CONFIG)
    assert_close(same, value, FORMULA)
    assert_close(gradient.embedding + gradient.unembedding, tied.embedding, FORMULA)
    assert_close((gradient.layers, gradient.projection), (tied.layers, tied.projection), FORMULA)


@settings(max_examples=6)
@given(seed=seeds, place=st.integers(1, T - 1))
def test_no_logit_depends_on_a_later_token(seed, place):
    params, _, batch = example(PLAIN, seed % 5)
    future = np.random.default_rng(seed).integers(0, PLAIN.vocab_size, (B, T)).astype(np.int32)
    other = jnp.where(jnp.arange(T) < place, batch.tokens, future)
    before, after = (apply(params, tokens, config=PLAIN)[:, :place] for tokens in (batch.tokens, other))
    np.testing.assert_array_equal(before, after)


def test_leading_axes_are_sequences_of_their_own():
    params, _, batch = example(PLAIN)
    twice = jnp.stack([batch.tokens, batch.tokens[::-1]])
    one_by_one = jnp.stack([jnp.stack([apply(params, row, config=PLAIN) for row in rows]) for rows in twice])
    assert_close(apply(params, twice, config=PLAIN), one_by_one, FORMULA)


# ── variational dropout ──────────────────────────────────────────────────────────────────────────────────────────────


@each_cell
def test_a_mask_of_ones_is_no_mask(cell):
    params, state, _ = example(replace(CONFIG, cell=cell))
    layer, s = params.layers[0], jax.tree.map(lambda leaf: leaf[0], state[0])
    x, bare = params.embedding[3], CELLS[cell].step
    (after, mask), y = rnn_lm.variational(bare)(layer, (s, jnp.ones(6)), x)
    assert_close((after, y), bare(layer, s, x), FORMULA)
    np.testing.assert_array_equal(mask, np.ones(6))


def test_a_mask_is_the_same_at_every_step_and_differs_between_sequences():
    """Through a cell that adds what it reads to what its weight makes of ones, the masks themselves come out."""

    def cell(params, state, x):
        return state, x + jnp.ones_like(state) @ params.w_h

    config, key = replace(CONFIG, d_model=6, n_layers=1), jax.random.key(1)
    params, state, _ = example(config)
    identity = params.layers[0]._replace(w_h=jnp.eye(6))
    params = params._replace(embedding=jnp.ones((11, 6)), layers=(identity,), unembedding=jnp.eye(6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CELLS, "gru", CELLS["gru"]._replace(step=cell))
        _, out = rnn_lm.read(params, state, jnp.zeros((B, T), jnp.int32), config=config, key=key)
    masks = rnn_lm.draw_masks(key, params, 0.5, (B,))
    expected = (masks.types[:, :1] * masks.inputs[0] + masks.states[0]) * masks.output
    assert_close(out, jnp.broadcast_to(expected[:, None], (B, T, 6)), FORMULA)
    for mask in jax.tree.leaves(masks):
        assert all((mask[a] != mask[b]).any() for a, b in ((0, 1), (0, 2), (1, 2)))


def test_masks_keep_a_share_and_the_mean_and_no_two_are_alike():
    params = rnn_lm.init(jax.random.key(0), replace(CONFIG, vocab_size=40, d_model=40, d_hidden=40))
    masks = jax.tree.leaves(rnn_lm.draw_masks(jax.random.key(2), params, 0.25, (500,)))
    assert len(masks) == 6
    for mask in masks:
        assert set(np.unique(mask)) == {0, np.float32(1 / 0.75)}
        assert abs(np.mean(mask) - 1) < SAMPLING
    assert len({np.asarray(mask).tobytes() for mask in masks}) == 6


def test_a_dropped_word_is_dropped_wherever_it_stands_in_its_sequence():
    params, state, batch = example(CONFIG)
    key = jax.random.key(3)
    masks = rnn_lm.draw_masks(key, params, CONFIG.dropout, (B,))
    dropped = int(np.argmax(masks.types[0] == 0))
    params, tokens = untied(params), batch.tokens.at[0, 1::2].set(dropped)
    moved = params._replace(embedding=params.embedding.at[dropped].add(1))
    (_, logits), (_, same) = (read(p, state, tokens, config=CONFIG, key=key) for p in (params, moved))
    np.testing.assert_array_equal(same[0], logits[0])


def test_dropout_acts_only_with_a_key_and_is_a_function_of_it():
    params, _, batch = example(CONFIG)
    plain, one, same, other = (
        apply(params, batch.tokens, config=CONFIG, key=key)
        for key in (None, *(jax.random.key(seed) for seed in (1, 1, 2)))
    )
    assert_close(plain, apply(params, batch.tokens, config=replace(CONFIG, dropout=0.0), key=None), FORMULA)
    np.testing.assert_array_equal(one, same)
    assert (one != other).any(axis=-1).all()
    assert (one != plain).any(axis=-1).all()


# ── as a model among models ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_recurrent_model_begins_near_ln_n_and_learns_one_batch_by_heart():
    config = rnn_lm.Config(vocab_size=503, n_layers=1, d_model=24, d_hidden=32)
    tokens = jax.random.randint(jax.random.key(1), (4, 9), 0, config.vocab_size)
    batch = Batch._make((tokens[:, :-1], tokens[:, 1:], jnp.ones((4, 8))))
    params, optimizer = jax.jit(rnn_lm.init)(jax.random.key(0), config), optax.adam(0.02)

    def update(carry, _):
        params, state = carry
        (value, _), gradient = jax.value_and_grad(rnn_lm.loss, has_aux=True)(params, batch, config=config)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    _, losses = jax.jit(lambda carry: jax.lax.scan(update, carry, length=150))((params, optimizer.init(params)))
    assert abs(losses[0] / np.log(503) - 1) < 0.05
    assert losses[-1] < 0.05


def test_what_is_generated_greedily_is_the_likeliest_token_of_the_whole_text():
    config = replace(PLAIN, context_length=8)
    params, _, batch = example(config)
    prompts = [np.asarray(batch.tokens[0, :2]), np.asarray(batch.tokens[1, :4])]
    for prompt, new in zip(
        prompts, generation.generate(rnn_lm, params, config, prompts, max_new_tokens=4), strict=True
    ):
        text = np.concatenate([prompt, new])
        likeliest = np.argmax(apply(params, jnp.asarray(text), config=config), axis=-1)
        np.testing.assert_array_equal(likeliest[len(prompt) - 1 : -1], new)


def test_h_and_c_are_two_arrays_so_that_both_can_be_given_away():
    state = rnn_lm.initial_state(rnn_lm.init(jax.random.key(0), PLAIN), B)
    assert all(isinstance(layer, LSTMState) for layer in state)
    jax.jit(lambda state: jax.tree.map(jnp.sin, state), donate_argnums=0)(state)


def test_the_medium_lstm_of_zaremba_has_its_parameters():
    shapes = jax.eval_shape(lambda key: rnn_lm.init(key, rnn_lm.Config()), jax.random.key(0))
    cells = 2 * (2 * 650 * 4 * 650 + 2 * 4 * 650)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 10000 * 650 + cells


def test_an_unknown_cell_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="no recurrent cell 'gruu': choose one of elman, gru, lstm"):
        rnn_lm.Config(cell="gruu")
