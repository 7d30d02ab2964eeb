"""What the losses promise beyond equality with their references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.layers.embedding import unembed
from minilm.losses import (
    chunked_cross_entropy,
    cross_entropy,
    label_smoothed_cross_entropy,
    token_cross_entropy,
    z_loss,
)
from minilm.reference import losses as reference
from tests.strategies import seeds
from tests.tolerances import FORMULA, LAYER, assert_close

T, D, N = 7, 3, 5


def example(seed, scale=1.0):
    """Logits (T, N), targets and weights, some of which are zero."""
    rng = np.random.default_rng(seed)
    weights = np.append(rng.integers(0, 3, T - 1) / 2, 1.0)
    return jnp.asarray(scale * rng.standard_normal((T, N))), jnp.asarray(rng.integers(0, N, T)), jnp.asarray(weights)


LOSSES = {
    "cross entropy": cross_entropy,
    "label smoothing": label_smoothed_cross_entropy,
    "z-loss": lambda z, y, w=None: (z_loss(z, w), None),
    "chunked": lambda z, y, w=None: chunked_cross_entropy(z, jnp.eye(N), y, w, chunk=3),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@every_loss
@settings(max_examples=5)
@given(seed=seeds)
def test_a_token_of_weight_zero_is_nowhere_seen(loss, seed):
    z, y, w = example(seed)
    nonsense = jnp.where(w == 0, -100, y)
    other = jnp.where((w == 0)[:, None], 1e4 * z[::-1], z)
    (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(z, y, w)
    (same, _), same_gradient = jax.value_and_grad(loss, has_aux=True)(other, nonsense, w)
    assert value == same
    np.testing.assert_array_equal(gradient, same_gradient)
    assert not gradient[w == 0].any()


@every_loss
def test_a_batch_of_ignored_tokens_has_no_loss_and_no_gradient(loss):
    z, y, w = example(0)
    (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(z, jnp.full_like(y, -100), 0 * w)
    assert value == 0
    assert not gradient.any()


@every_loss
def test_no_weights_count_every_token_once_and_booleans_are_numbers(loss):
    z, y, w = example(1)
    assert_close(loss(z, y)[0], loss(z, y, jnp.ones(T))[0], LAYER)
    assert_close(loss(z, y, w > 0)[0], loss(z, y, (w > 0).astype(float))[0], LAYER)


@pytest.mark.parametrize("name", ["cross_entropy", "label_smoothed_cross_entropy", "z_loss", "chunked_cross_entropy"])
def test_by_hand_too_no_weights_count_every_token_once(name):
    z, y, _ = (np.stack([a, b]) for a, b in zip(example(1), example(2), strict=True))
    arguments = {"z_loss": (z,), "chunked_cross_entropy": (z, np.eye(N), y)}.get(name, (z, y))
    by_hand = getattr(reference, name)
    assert by_hand(*arguments)[0] == by_hand(*arguments, np.ones((2, T)))[0]


@every_loss
@settings(max_examples=5)
@given(seed=seeds)
def test_leading_axes_are_one_long_list_of_tokens(loss, seed):
    z, y, w = (jnp.stack([a, b]) for a, b in zip(example(seed), example(seed + 1), strict=True))
    assert_close(loss(z, y, w)[0], loss(z.reshape(-1, N), y.ravel(), w.ravel())[0], LAYER)


@every_loss
@settings(max_examples=5)
@given(seed=seeds)
def test_the_loss_of_a_union_is_the_weighted_mean_of_the_losses(loss, seed):
    parts = [example(seed), example(seed + 1)]
    union = loss(*(jnp.concatenate(pair) for pair in zip(*parts, strict=True)))[0]
    counts = [w.sum() for _, _, w in parts]
    mean = sum(n * loss(*part)[0] for n, part in zip(counts, parts, strict=True)) / sum(counts)
    assert_close(union, mean, LAYER)


@settings(max_examples=5)
@given(seed=seeds)
def test_metrics_add_up_to_those_of_the_union(seed):
    parts = [example(seed), example(seed + 1)]
    loss, union = cross_entropy(*(jnp.concatenate(pair) for pair in zip(*parts, strict=True)))
    summed = jax.tree.map(jnp.add, *(cross_entropy(*part)[1] for part in parts))
    assert_close(summed, union, LAYER)
    assert_close(loss, summed.loss_sum / summed.token_count, LAYER)


@settings(max_examples=5)
@given(seed=seeds, constant=st.floats(-1e3, 1e3))
def test_a_constant_added_to_all_logits_changes_only_the_z_loss(seed, constant):
    z, y, w = example(seed)
    assert_close(cross_entropy(z + constant, y, w)[0], cross_entropy(z, y, w)[0], FORMULA)
    log_Z = jax.nn.logsumexp(z, axis=-1) + constant
    assert_close(z_loss(z + constant), jnp.mean(log_Z**2), FORMULA)


@settings(max_examples=5)
@given(seed=seeds, smoothing=st.floats(0, 1))
def test_smoothing_interpolates_from_cross_entropy_to_the_uniform_target(seed, smoothing):
    import optax

    z, y, w = example(seed)
    assert_close(label_smoothed_cross_entropy(z, y, w, 0.0)[0], cross_entropy(z, y, w)[0], FORMULA)
    expected = optax.softmax_cross_entropy(z, optax.smooth_labels(jax.nn.one_hot(y, N), smoothing))
    assert_close(label_smoothed_cross_entropy(z, y, None, smoothing)[0], expected.mean(), FORMULA)
    assert_close(label_smoothed_cross_entropy(z, y, w, smoothing)[1], cross_entropy(z, y, w)[1], FORMULA)


def test_an_exact_mean_is_known_by_hand():
    """p = (1/4, 3/4): the losses are ln 4 and ln (4/3), and the second token counts thrice."""
    z = jnp.log(jnp.array([[1.0, 3.0], [1.0, 3.0]]))
    loss, metrics = cross_entropy(z, jnp.array([0, 1]), jnp.array([1.0, 3.0]))
    loss_sum = np.log(4) + 3 * np.log(4 / 3)
    assert_close([loss, *metrics], [loss_sum / 4, loss_sum, 4.0, 3.0], LAYER)


def test_logits_of_any_size_give_a_finite_loss_and_a_certain_token_costs_nothing():
    z = jnp.array([[1e30, -1e30, 0.0], [1e300, 0.0, 0.0]])
    assert token_cross_entropy(z, jnp.array([0, 1])).tolist() == [0.0, 1e300]
    gradient = jax.grad(lambda z: token_cross_entropy(z, jnp.array([0, 1])).sum())(z)
    assert gradient.tolist() == [[0.0, 0.0, 0.0], [1.0, -1.0, 0.0]]


def test_a_nearly_certain_token_keeps_the_digits_of_its_loss():
    """−log p = log(1 + e⁻¹⁵), to the precision of 1 and not of the logits."""
    loss = token_cross_entropy(jnp.array([1e6, 1e6 - 15]), jnp.array(0))
    assert_close([1 + loss], [1 + np.log1p(np.exp(-15))], LAYER)


@pytest.mark.parametrize("target", [-1, N, -100])
@every_loss
def test_a_target_outside_the_vocabulary_that_counts_is_not_a_number(loss, target):
    z, y, w = example(2)
    if loss is not LOSSES["z-loss"]:
        assert jnp.isnan(loss(z, y.at[-1].set(target), w)[0])


def test_a_forbidden_token_may_have_a_logit_of_minus_infinity():
    z = jnp.array([-jnp.inf, 0.0, 0.0])
    loss, gradient = jax.value_and_grad(token_cross_entropy)(z, jnp.array(1))
    assert_close([loss, gradient], [np.log(2), np.array([0.0, -0.5, 0.5])], LAYER)


@pytest.mark.parametrize("chunk", [1, 2, 3, 6, 7, 100])
def test_every_chunk_size_gives_the_whole(chunk):
    _, y, w = example(3)
    rng = np.random.default_rng(3)
    x, E = jnp.asarray(rng.standard_normal((T, D))), jnp.asarray(rng.standard_normal((N, D)))

    def whole(x, E):
        return cross_entropy(unembed(E, x), y, w)

    def chunked(x, E):
        return chunked_cross_entropy(x, E, y, w, chunk=chunk)

    expected = jax.value_and_grad(whole, (0, 1), has_aux=True)(x, E)
    assert_close(jax.value_and_grad(chunked, (0, 1), has_aux=True)(x, E), expected, FORMULA)


def test_the_chunked_loss_never_holds_the_logits_of_all_tokens():
    t, d, n, chunk = 2048, 32, 1024, 128
    arguments = (
        jax.ShapeDtypeStruct((t, d), jnp.float32),
        jax.ShapeDtypeStruct((n, d), jnp.float32),
        jax.ShapeDtypeStruct((t,), jnp.int32),
    )

    def bytes_held(loss):
        compiled = jax.jit(jax.value_and_grad(lambda x, E, y: loss(x, E, y)[0], (0, 1))).lower(*arguments).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        held = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
        return held - memory.alias_size_in_bytes

    all_logits = 4 * t * n
    assert bytes_held(lambda x, E, y: cross_entropy(unembed(E, x), y)) > all_logits
    assert bytes_held(lambda x, E, y: chunked_cross_entropy(x, E, y, chunk=chunk)) < all_logits / 2


def test_losses_of_bfloat16_logits_are_taken_in_float32():
    z, y, w = example(4)
    for loss in (cross_entropy, label_smoothed_cross_entropy):
        value, metrics = loss(z.astype(jnp.bfloat16), y, w)
        assert {leaf.dtype for leaf in (value, *metrics)} == {jnp.dtype(jnp.float32)}
    many = jnp.zeros((1000, 2), jnp.bfloat16)  # bfloat16 counts no further than 256
    assert cross_entropy(many, jnp.zeros(1000, int))[1].token_count == 1000


def test_gradients_through_chunks_have_the_precision_of_what_they_belong_to():
    _, y, w = example(0)
    x, unembedding = jnp.ones((T, D), jnp.float32), jnp.ones((N, D), jnp.bfloat16)
    gradients = jax.grad(lambda *both: chunked_cross_entropy(*both, y, w, chunk=3)[0], argnums=(0, 1))(x, unembedding)
    assert [gradient.dtype for gradient in gradients] == [jnp.float32, jnp.bfloat16]


@every_loss
def test_no_tokens_at_all_have_no_loss(loss):
    assert loss(jnp.zeros((0, N)), jnp.zeros(0, int))[0] == 0


@every_loss
def test_weights_are_data_and_have_no_gradient(loss):
    z, y, w = example(3)
    assert not jax.grad(lambda w: loss(z, y, w)[0])(w).any()
