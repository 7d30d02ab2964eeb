"""Decoders and how they weigh places: each scorer is its layer, and where two must agree they do."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minilm.layers.activation import softmax
from minilm.layers.attention import additive, multiplicative
from minilm.layers.linear import LinearParams
from minilm.models import decoders, scorers
from minilm.reference.models import decoders as by_hand
from tests.tolerances import FORMULA, assert_close

H, E, S, D = 6, 4, 5, 3
RNG = np.random.default_rng(0)
Q, VALUES = jnp.asarray(RNG.standard_normal(H)), jnp.asarray(RNG.standard_normal((S, E)))
MASK = jnp.array([True, True, False, True, False])
WRITER = decoders.Config(d_hidden=H)


def drawn(maker, *widths):
    """Parameters of the shapes that `init` gives them, in which nothing is zero."""
    shapes = jax.eval_shape(lambda key: maker.init(key, *widths), jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(RNG.standard_normal(leaf.shape)), shapes)


def weights(scorer, params, q=Q, values=VALUES, mask=MASK):
    return scorer.weights(params, q, scorer.prepare(params, values), mask)


LAYERS = {
    "additive": lambda p, q, v: additive.additive_scores(p, q, v),
    "dot": lambda p, q, v: multiplicative.dot_scores(q, v),
    "general": lambda p, q, v: multiplicative.general_scores(p.w, q, v),
    "concat": lambda p, q, v: multiplicative.concat_scores(p, q, v),
    "location": lambda p, q, v: multiplicative.location_scores(p.w, q)[:, : len(v)],
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_scorer_weighs_by_the_softmax_of_its_layers_scores(name):
    scorer = scorers.SCORERS[name]()
    values = jnp.pad(VALUES, ((0, 0), (0, H - E)), constant_values=0.3) if name == "dot" else VALUES
    params = drawn(scorer, H, values.shape[1])
    expected = softmax(LAYERS[name](params, Q[None], values), where=MASK)[0]
    found = weights(scorer, params, values=values)
    assert_close(found, expected, FORMULA)
    assert (found[~MASK] == 0).all()


@pytest.mark.parametrize("name", scorers.SCORERS)
def test_what_a_scorer_weighs_and_its_gradients_are_those_by_hand(name):
    scorer = scorers.SCORERS[name]()
    values = jnp.pad(VALUES, ((0, 0), (0, H - E)), constant_values=0.3) if name == "dot" else VALUES
    params, d_a = drawn(scorer, H, values.shape[1]), RNG.standard_normal(S)
    a, pullback = jax.vjp(lambda *arguments: weights(scorer, *arguments, mask=True), params, Q, values)
    expected, saved = by_hand.weigh(name, *jax.tree.map(np.asarray, (params, Q, values)))
    assert_close(a, expected, FORMULA)
    assert_close(pullback(jnp.asarray(d_a)), by_hand.weigh_backward(name, saved, d_a), FORMULA)


def test_local_p_weighs_as_its_layer_does_over_general_scores():
    scorer = scorers.local_p(3, reach=2.5)
    params = drawn(scorer, H, E)
    scores = multiplicative.general_scores(params.w, Q[None], VALUES)
    expected = multiplicative.local_p_weights(params.place, Q[None], scores, MASK, reach=2.5)[0]
    assert_close(weights(scorer, params), expected, FORMULA)
    assert weights(scorer, params).sum() < 1


def test_concat_is_additive_with_its_two_matrices_in_one():
    params = drawn(scorers.additive(7), H, E)
    one = multiplicative.ConcatParams(w=jnp.concatenate([params.w_q, params.w_k]), v=params.v)
    assert_close(weights(scorers.concat(7), one), weights(scorers.additive(7), params), FORMULA)


def test_general_with_the_identity_is_dot():
    assert_close(
        weights(scorers.general(), scorers.GeneralParams(jnp.eye(E)), q=Q[:E]),
        weights(scorers.dot(), None, q=Q[:E]),
        FORMULA,
    )


def test_location_does_not_see_what_stands_at_a_place():
    scorer = scorers.location(8)
    params = drawn(scorer, H, E)
    np.testing.assert_array_equal(weights(scorer, params), weights(scorer, params, values=-3 * VALUES))


def test_preparing_takes_any_leading_axes():
    many = jnp.stack([VALUES, 2 * VALUES])[:, None]
    for name, make in scorers.SCORERS.items():
        scorer = make()
        if name == "dot":
            continue
        params = drawn(scorer, H, E)
        assert_close(scorer.prepare(params, many)[1, 0], scorer.prepare(params, 2 * VALUES), FORMULA)


def make(form, scorer=None, **change):
    decoder = form(replace(WRITER, **change)) if scorer is None else form(replace(WRITER, **change), scorer)
    return decoder, drawn(decoder, D, E)


def one_step(decoder, params, values, length, x):
    memory = decoder.remember(params, values, jnp.asarray(length))
    return decoder.step(params, memory, decoder.start(params, memory), x)


X = jnp.asarray(RNG.standard_normal(D))


@pytest.mark.parametrize("form", [decoders.bahdanau, decoders.luong])
def test_where_there_is_one_place_all_scorers_agree(form):
    """Its weight is one, whoever weighs; so a wrong normaliser, or one over the wrong axis, would show."""
    _, shared = make(form, scorers.general())
    outs = []
    for scorer in (scorers.additive(7), scorers.general(), scorers.location(S)):
        params = shared._replace(scorer=drawn(scorer, H, E))
        (_, (y, a)) = one_step(form(WRITER, scorer), params, VALUES.at[1:].set(0), 1, X)
        np.testing.assert_array_equal(a, [1, 0, 0, 0, 0])
        outs.append(y)
    for y in outs[1:]:
        assert_close(y, outs[0], FORMULA)


def test_cho_without_ears_for_its_summary_is_sutskever():
    """With the rows that read c at zero, its cell is one that reads x alone."""
    decoder, params = make(decoders.cho)
    [cell] = params.cells
    params = params._replace(cells=(cell._replace(w_x=cell.w_x.at[D:].set(0)),))
    plain, _ = make(decoders.sutskever)
    c = decoder.remember(params, VALUES, jnp.asarray(S)).summary
    bare = decoders.Params(
        (cell._replace(w_x=cell.w_x[:D]),),
        LinearParams(jnp.eye(H), jnp.arctanh(decoder.start(params, decoders.Memory(c)).cells[0])),
    )
    state, _ = one_step(decoder, params, VALUES, S, X)
    same, _ = plain.step(bare, decoders.Memory(c), plain.start(bare, decoders.Memory(0 * c)), X)
    assert_close(state.cells, same.cells, FORMULA)


def test_sutskever_and_cho_know_of_a_source_what_stands_at_its_last_place():
    for form in (decoders.sutskever, decoders.cho):
        decoder, params = make(form, cell="lstm", n_layers=2)
        one = one_step(decoder, params, VALUES, 3, X)
        other = one_step(decoder, params, VALUES.at[:2].set(7).at[3:].set(9), 3, X)
        jax.tree.map(np.testing.assert_array_equal, one, other)
        moved = one_step(decoder, params, VALUES.at[2].add(0.5), 3, X)
        assert (moved[1][0] != one[1][0]).any()


def test_luong_hears_its_last_output_and_bahdanau_asks_with_it():
    for form in (decoders.luong, decoders.bahdanau):
        decoder, params = make(form, scorers.additive(7))
        memory = decoder.remember(params, VALUES, jnp.asarray(S))
        state = decoder.start(params, memory)
        _, (y, a) = decoder.step(params, memory, state, X)
        _, (other, b) = decoder.step(params, memory, state._replace(y=state.y + 1), X)
        assert (y != other).any()
        assert (a != b).any()


def test_an_lstm_asks_with_its_output_and_starts_in_both_of_its_parts():
    decoder, params = make(decoders.bahdanau, scorers.additive(7), cell="lstm", n_layers=2)
    state = decoder.start(params, decoder.remember(params, VALUES, jnp.asarray(S)))
    np.testing.assert_array_equal(state.y, state.cells[-1].h)
    parts = jax.tree.leaves(state.cells)
    assert len({part.tobytes() for part in map(np.asarray, parts)}) == 4
    assert_close(jnp.concatenate(parts), jnp.tanh(VALUES[0] @ params.start.w + params.start.b), FORMULA)


def test_what_does_not_fit_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="Dot scores need a decoder as wide as what the encoder says of a place, and"):
        scorers.dot().init(jax.random.key(0), H, E)
    with pytest.raises(ValueError, match=r"location\(4\) has 4 places, and the source 5"):
        weights(scorers.location(4), scorers.LocationParams(jnp.ones((H, 4))))
    with pytest.raises(ValueError, match="no recurrent cell 'grU'"):
        decoders.Config(cell="grU")
    with pytest.raises(ValueError, match="n_layers must be 1 or more, and is 0"):
        decoders.Config(n_layers=0)
