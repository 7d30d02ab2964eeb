"""Latent attention: its two forms are one, it is attention of a low rank, and it remembers what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.tree_util import Partial

from minilm.layers.attention.blockwise import Blockwise
from minilm.layers.attention.core import Dense, dot_product_attention
from minilm.layers.attention.latent import (
    LatentCache,
    absorbed_attention,
    append_latent,
    expand_latent,
    init_latent,
    latent_mixer,
    project_latent,
)
from minilm.layers.attention.masks import Causal, SameDocument, SlidingWindow
from minilm.parallel import axis_letters
from minilm.reference.attention import latent as reference
from minilm.shapes import Tokens
from tests.mixers import assert_lawful, assert_one_mixer, drawn_params
from tests.records.attention_latent import torch_attention, torch_project
from tests.strategies import normal, seeds
from tests.tolerances import FORMULA, assert_close

D, G, R, K, V, C, ROTARY, T, S = 5, 2, 3, 4, 6, 7, 2, 8, 9
WIDTHS = {"g": G, "r": R, "k": K, "v": V, "latent": C, "rotary": ROTARY}
MIXER = latent_mixer(Causal() & SameDocument(), **WIDTHS)
few = settings(max_examples=5)


def draw(seed):
    rng = np.random.default_rng(seed)
    shapes = (G, R, T, K + ROTARY), (S, C), (S, ROTARY), (G, R, T, S)
    q, c, k_r, bias = (jnp.asarray(rng.standard_normal(shape)) for shape in shapes)
    return drawn_params(MIXER, D, seed), q, c, k_r, jnp.asarray(rng.random((G, R, T, S)) < 0.7), bias


def expanded_attention(params, q, c, k_r, mask, bias):
    return dot_product_attention(q, *expand_latent(params, c, k_r), mask, bias)


@few
@given(seed=seeds)
def test_absorbed_attention_is_dot_product_attention_of_the_expanded_keys_and_values(seed):
    params, q, c, k_r, mask, bias = draw(seed)
    d_o = jnp.asarray(np.random.default_rng(seed).standard_normal((G, R, T, V)))

    def output_and_gradients(form):
        o, pullback = jax.vjp(lambda *a: form(*a[:-1], mask, a[-1]), params, q, c, k_r, bias)
        return o, pullback(d_o)

    absorbed, expanded = map(output_and_gradients, (absorbed_attention, expanded_attention))
    assert_close(absorbed, expanded, FORMULA)


def test_without_a_rotary_part_the_two_forms_are_one_too():
    params, q, c, _, mask, bias = draw(1)
    nothing, q = jnp.zeros((S, 0)), q[..., :K]
    forms = (form(params, q, c, nothing, mask, bias) for form in (absorbed_attention, expanded_attention))
    assert_close(*forms, FORMULA)


@few
@given(seed=seeds)
def test_with_identities_for_its_ways_up_it_is_attention_to_the_latent_itself(seed):
    _, _, c, k_r, mask, bias = draw(seed)
    q = jnp.asarray(np.random.default_rng(seed).standard_normal((1, R, T, C + ROTARY)))
    params = init_latent(jax.random.key(0), D, **WIDTHS | {"g": 1, "k": C, "v": C}, dtype=jnp.float64)
    params = params._replace(w_k=jnp.eye(C)[:, None], w_v=jnp.eye(C)[:, None])
    expected = dot_product_attention(q, jnp.concatenate([c, k_r], -1)[None], c[None], mask[:1], bias[:1])
    assert_close(absorbed_attention(params, q, c, k_r, mask[:1], bias[:1]), expected, FORMULA)


@few
@given(seed=seeds)
def test_a_masked_key_is_a_removed_key(seed):
    params, q, c, k_r, _, bias = draw(seed)
    seen = np.array([0, 2, 5])
    masked = absorbed_attention(params, q, c, k_r, jnp.zeros(S, bool).at[seen].set(True), bias)
    assert_close(masked, absorbed_attention(params, q, c[seen], k_r[seen], True, bias[..., seen]), FORMULA)


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_whose_exponentials_no_number_holds_have_weights(sign):
    params, q, c, k_r, mask, bias = draw(2)
    expected = absorbed_attention(params, q, c, k_r, mask, bias)
    far = jnp.full_like(bias, 1000.0 * sign)
    assert_close(absorbed_attention(params, q, c, k_r, mask, bias + far), expected, FORMULA)
    by_hand, _ = reference.absorbed_attention(params, q, c, k_r, mask, bias + far)
    assert_close(by_hand, expected, FORMULA)


def test_a_query_without_keys_gets_nothing_and_a_finite_gradient():
    params, q, c, k_r, mask, bias = draw(0)
    mask = mask.at[:, :, 2].set(False)

    def total(*arguments):
        out = absorbed_attention(*arguments, mask, bias)
        return out.sum(), out

    gradient, out = jax.grad(total, argnums=(0, 1, 2, 3), has_aux=True)(params, q, c, k_r)
    assert not out[:, :, 2].any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert not gradient[1][:, :, 2].any()


@few
@given(seed=seeds)
def test_scores_depend_on_where_tokens_stand_by_their_distance_alone(seed):
    params, x = drawn_params(MIXER, D, seed), jnp.asarray(np.random.default_rng(seed).standard_normal((T, D)))
    y, moved = (MIXER.apply(params, x, Tokens.arange(T, start)) for start in (0, 9))
    assert_close(moved, y, FORMULA)
    assert np.abs(MIXER.apply(params, x, Tokens(2 * Tokens.arange(T).position, jnp.zeros(T, int))) - y).max() > 0


@few
@given(seed=seeds)
def test_the_mixer_is_the_papers_equations_in_pytorch(seed):
    torch = pytest.importorskip("torch")
    params, x = drawn_params(MIXER, D, seed), np.random.default_rng(seed).standard_normal((T, D))
    by_hand = jax.tree.map(lambda w: torch.tensor(np.array(w)), params)
    projected = torch_project(by_hand, torch.tensor(x), torch.arange(T))
    o = torch_attention(by_hand, *projected, torch.ones(T, T).tril().bool(), torch.tensor(0.0))
    expected = torch.einsum("grtv,grvd->td", o, by_hand.w_o).numpy()
    assert_close(jax.jit(MIXER.apply)(params, jnp.asarray(x), Tokens.arange(T)), expected, FORMULA)


@few
@given(seed=seeds)
def test_either_form_is_taken_by_an_attend(seed):
    params, x = drawn_params(MIXER, D, seed), jnp.asarray(np.random.default_rng(seed).standard_normal((T, D)))
    here = Tokens.arange(T)
    q, c, k_r = project_latent(params, x, here.position)
    absorbed = Dense(Causal(), attention=Partial(absorbed_attention, params))(q, c, k_r, here, here)
    blockwise = Blockwise(Causal(), t_block=3, s_block=4)(q, *expand_latent(params, c, k_r), here, here)
    assert_close(absorbed, blockwise, FORMULA)


def test_a_window_rolls_through_a_cache_of_its_size():
    mixer = latent_mixer(Causal() & SlidingWindow(3), **WIDTHS)
    params, x = drawn_params(mixer, D), jnp.asarray(np.random.default_rng(0).standard_normal((T, D)))
    expected, state, step = mixer.apply(params, x, Tokens.arange(T)), mixer.init_state(params, 4), jax.jit(mixer.step)
    for t in range(0, T, 2):
        state, y = step(params, state, x[t : t + 2], Tokens.arange(2, start=t))
        assert_close(y, expected[t : t + 2], FORMULA)


def test_what_is_remembered_of_a_token_does_not_grow_with_the_heads():
    for heads in (1, 5):
        mixer = latent_mixer(**WIDTHS | {"g": heads})
        shapes = jax.eval_shape(lambda mixer=mixer: mixer.init_state(mixer.init(jax.random.key(0), D), S))
        assert (shapes.c.shape, shapes.k_r.shape) == ((S, C), (S, ROTARY))
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), drawn_params(MIXER, D))
    assert MIXER.init_state(half, S).c.dtype == MIXER.init_state(half, S).k_r.dtype == jnp.bfloat16
    assert MIXER.init_state(half, S, jnp.float32).c.dtype == jnp.float32


def test_what_is_projected_has_the_dtype_of_the_weights():
    x = jnp.ones((T, D), jnp.bfloat16)
    assert {y.dtype for y in project_latent(drawn_params(MIXER, D), x, jnp.arange(T))} == {jnp.dtype(jnp.float64)}


def test_a_chunk_longer_than_the_cache_is_refused():
    cache = LatentCache(jnp.zeros((2, C)), jnp.zeros((2, ROTARY)), Tokens.arange(2))
    with pytest.raises(ValueError, match="a chunk of 3 tokens does not fit a cache of 2 slots"):
        append_latent(cache, jnp.zeros((3, C)), jnp.zeros((3, ROTARY)), Tokens.arange(3))


def test_initial_weights_keep_the_variance_of_their_input():
    params = init_latent(jax.random.key(4), 256, g=2, r=3, k=48, v=64, latent=96, rotary=32)
    x = normal(jax.random.key(5), (300, 256), jnp.float32)
    q, c, k_r = project_latent(params, x, jnp.arange(300))
    k, v = expand_latent(params, c, k_r)
    o = jnp.broadcast_to(v[:, None], (2, 3, 300, 64))
    for output in (q, c, k_r, k, v, jnp.einsum("grtv,grvd->td", o, params.w_o)):
        assert 0.8 < output.std() < 1.25


def test_its_own_axes_stay_whole_and_its_heads_have_the_letters_of_all_heads():
    letters = axis_letters(drawn_params(MIXER, D))
    assert (letters.w_k, letters.w_q_r, letters.scale) == ("latent g k", "d g r rotary", "latent")


def test_the_mixer_keeps_what_mixers_promise_with_sizes_that_all_differ_and_documents_apart():
    assert_lawful(MIXER, D)


def test_without_a_rule_it_is_causal():
    assert_one_mixer(latent_mixer(**WIDTHS), latent_mixer(Causal(), **WIDTHS), D)
