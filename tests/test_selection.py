"""Mixture of block attention: at which settings it is older attention, what it may see, and what it chooses."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.attention.block_selection import MoBA, largest, moba_attention, moba_mask, moba_mixer
from minilm.layers.attention.core import Dense, dot_product_attention
from minilm.layers.attention.masks import Causal, Chunked
from minilm.layers.attention.multi_head import multi_head
from minilm.reference.attention import block_selection as reference
from minilm.shapes import Tokens
from tests.strategies import seeds
from tests.tolerances import FORMULA, LAYER, assert_close

G, R, T, K, V = 2, 3, 13, 5, 4
few = settings(max_examples=5)


def draw(seed, t=T):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape)) for shape in ((G, R, t, K), (G, t, K), (G, t, V))]


@few
@given(seed=seeds, size=st.sampled_from([1, 3, 13, 20]))
def test_moba_that_chooses_every_block_is_causal_attention(seed, size):
    q, k, v = draw(seed)
    tokens = Tokens.arange(T)
    assert_close(MoBA(size, T)(q, k, v, tokens, tokens), Dense(Causal())(q, k, v, tokens, tokens), FORMULA)


@few
@given(seed=seeds)
def test_moba_that_chooses_no_block_is_attention_within_chunks(seed):
    q, k, v = draw(seed)
    tokens = Tokens.arange(T)
    expected = Dense(Causal() & Chunked(4))(q, k, v, tokens, tokens)
    assert_close(MoBA(4, 0)(q, k, v, tokens, tokens), expected, FORMULA)


@few
@given(seed=seeds)
def test_with_blocks_of_one_position_it_chooses_the_keys_of_largest_score(seed):
    """And then it is attention to the n best of the past and to itself."""
    q, k, _ = draw(seed)
    tokens = Tokens.arange(T)
    seen = np.asarray(moba_mask(q, k, tokens, tokens, size=1, n=3))
    products = np.einsum("grtk,gsk->grts", q, k)
    for g, r, t in np.ndindex(G, R, T):
        best = sorted(range(t), key=lambda s: -products[g, r, t, s])[:3]
        assert set(np.flatnonzero(seen[g, r, t])) == {*best, t}


@few
@given(seed=seeds, size=st.sampled_from([3, 5]))
def test_a_query_sees_its_own_block_and_n_whole_blocks_of_its_past(seed, size):
    q, k, _ = draw(seed)
    tokens = Tokens.arange(T)
    seen = np.asarray(moba_mask(q, k, tokens, tokens, size=size, n=2))
    np.testing.assert_array_equal(
        seen, reference.moba_mask(*map(np.asarray, (q, k)), tokens, tokens, size=size, n=2)[0]
    )
    for t in range(T):
        own = t // size * size
        assert seen[:, :, t, own : t + 1].all()
        assert not seen[:, :, t, t + 1 :].any()
        past = seen[:, :, t, :own].reshape(G, R, -1, size)
        assert (past.all(-1) == past.any(-1)).all()
        assert (past.any(-1).sum(-1) == min(2, t // size)).all()


def test_the_mean_of_a_block_is_of_the_keys_it_has_and_of_no_keys_there_is_none():
    """Blocks of two: 3 and 3; none, which a score of 0 would choose before -3; 4 alone, which is more than 3."""
    places = jnp.array([0, 1, -1, -1, 4, -1, 6])
    k, q = jnp.array([[[3.0], [3.0], [9.0], [9.0], [4.0], [9.0], [0.0]]]), jnp.array([1.0, -1.0]).reshape(1, 2, 1, 1)
    for n, chosen in ((1, [[0, 0, 0, 0, 1, 0, 1], [1, 1, 0, 0, 0, 0, 1]]), (2, [[1, 1, 0, 0, 1, 0, 1]] * 2)):
        seen = moba_mask(q, k, Tokens.arange(1, 6), Tokens(places, jnp.zeros(7, int)), size=2, n=n)
        assert seen[0, :, 0].astype(int).tolist() == chosen


def test_the_mean_of_a_block_chooses_it_and_heads_choose_for_themselves():
    """One loud key beside a contrary one is outweighed by two that agree."""
    k = jnp.array([[[5.0], [-5.0], [1.0], [1.0], [-2.0], [-2.0], [0.0]]])
    q = jnp.array([1.0, -1.0]).reshape(1, 2, 1, 1)
    seen = moba_mask(q, k, Tokens.arange(1, start=6), Tokens.arange(7), size=2, n=1)[0, :, 0].astype(int)
    assert seen.tolist() == [[0, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 1, 1, 1]]


def test_zero_is_as_large_as_minus_zero():
    assert largest(jnp.array([-0.0, 0.0, -0.0]), n=1).tolist() == [True, False, False]
    assert largest(jnp.array([2.0, 1.0]), n=5).all()


def test_of_equally_good_blocks_the_earlier_is_chosen():
    q, k, tokens = jnp.zeros((1, 1, 7, 2)), jnp.ones((1, 7, 2)), Tokens.arange(7)
    for sign in (0.0, -0.0):
        seen = moba_mask(sign * q, k, tokens, tokens, size=2, n=2)[0, 0, 6].astype(int)
        assert seen.tolist() == [1, 1, 1, 1, 0, 0, 1]
    assert largest(jnp.array([-0.0, 0.0, -0.0]), n=1).tolist() == [True, False, False]
    assert largest(jnp.array([-jnp.inf, 2.0]), n=5).tolist() == [True, True]


@few
@given(seed=seeds)
def test_no_choice_depends_on_the_future_to_the_last_bit(seed):
    q, k, v = draw(seed)
    tokens = Tokens.arange(T)
    loud = [x.at[..., 7:, :].multiply(-1e4) for x in (q, k, v)]
    before, after = (moba_attention(*x, tokens, tokens, size=3, n=1)[:, :, :7] for x in ((q, k, v), loud))
    np.testing.assert_array_equal(before, after)


@few
@given(seed=seeds)
def test_keys_are_found_by_their_positions_in_whatever_slots_they_stand(seed):
    q, k, v = draw(seed)
    tokens, slots = Tokens.arange(T), np.random.default_rng(seed).permutation(T)
    moved = Tokens(tokens.position[slots], tokens.document[slots])
    expected = moba_attention(q, k, v, tokens, tokens, size=3, n=1)
    assert_close(moba_attention(q, k[:, slots], v[:, slots], tokens, moved, size=3, n=1), expected, FORMULA)


def test_numbers_of_sixteen_bits_choose_what_the_same_numbers_choose_in_float32():
    tokens = Tokens.arange(256)
    q, k, _ = (x.astype(jnp.bfloat16) for x in draw(0, 256))
    wide = moba_mask(q.astype(jnp.float32), k.astype(jnp.float32), tokens, tokens, size=8, n=2)
    np.testing.assert_array_equal(moba_mask(q, k, tokens, tokens, size=8, n=2), wide)


def test_the_mixer_is_attention_of_several_heads_by_these_blocks_with_biases_unless_told():
    sizes, tokens = {"g": G, "r": R, "k": K, "v": V, "size": 3, "n": 1}, Tokens.arange(T)
    mixer = moba_mixer(**sizes)
    params = mixer.init(jax.random.key(0), 6)
    x = jax.random.normal(jax.random.key(1), (T, 6), params.w_q.dtype)
    assert_close(mixer.apply(params, x, tokens), multi_head(params, x, tokens, MoBA(size=3, n=1)), LAYER, x.dtype)
    assert params.b_q is not None
    assert moba_mixer(**sizes, bias=False).init(jax.random.key(0), 6).b_q is None


def test_padding_sees_nothing_is_seen_by_nothing_and_has_a_finite_gradient():
    q, k, v = draw(0, 6)
    tokens = Tokens(jnp.array([0, -1, 1, 2, -1, 3]), jnp.zeros(6, int))
    real = np.array([0, 2, 3, 5])

    def total(q, k, v):
        out = moba_attention(q, k, v, tokens, tokens, size=2, n=1)
        return out.sum(), out

    gradients, out = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(q, 100 * k, v)
    alone = moba_attention(q[:, :, real], 100 * k[:, real], v[:, real], Tokens.arange(4), Tokens.arange(4), size=2, n=1)
    assert_close(out[:, :, real], alone, FORMULA)
    assert not out[:, :, [1, 4]].any()
    assert all(np.isfinite(leaf).all() for leaf in gradients)
    assert not gradients[1][:, [1, 4]].any()


def test_a_key_that_is_not_chosen_gets_no_gradient_though_its_mean_was_scored():
    q, k, v = draw(1)
    tokens = Tokens.arange(T)
    d_k = jax.grad(lambda k: moba_attention(q, k, v, tokens, tokens, size=3, n=1)[:, :, -1].sum())(k)
    seen = moba_mask(q, k, tokens, tokens, size=3, n=1)[:, :, -1].any(1)
    np.testing.assert_array_equal(np.abs(d_k).sum(-1) > 0, seen)


def test_one_token_reads_itself():
    q, k, v = draw(2, 1)
    tokens = Tokens.arange(1)
    assert_close(
        moba_attention(q, k, v, tokens, tokens, size=4, n=2), jnp.broadcast_to(v[:, None], (G, R, 1, V)), LAYER
    )


def test_the_choice_is_a_mask_like_any_other():
    q, k, v = draw(6)
    tokens = Tokens.arange(T)
    mask = moba_mask(q, k, tokens, tokens, size=3, n=1)
    expected = dot_product_attention(q, k, v, mask)
    np.testing.assert_array_equal(moba_attention(q, k, v, tokens, tokens, size=3, n=1), expected)
    assert (
        moba_attention(*(x.astype(jnp.bfloat16) for x in (q, k, v)), tokens, tokens, size=3, n=1).dtype == jnp.bfloat16
    )
