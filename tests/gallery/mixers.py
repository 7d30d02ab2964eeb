"""Planted bugs of sequence mixers."""

import numpy as np

from minilm import laws
from tests.gallery import plant
from tests.gallery.textbook import (
    W_K,
    W_Q,
    W_V,
    D,
    attend,
    attend_backward,
    causal,
    rotary_attention,
    rotate,
    self_attention,
    sigmoid,
    softmax,
)


@plant(laws.shape_kept, d=D)
def a_squeeze_without_an_axis():
    """What takes away a batch of one takes away whatever else is one, here a text of one token:
    antklen/sasrec-bert4rec-recsys23 pull request 1."""
    mixed = lambda x: self_attention(x, causal(len(x)))[None]  # noqa: E731
    return lambda x: mixed(x).squeeze(), lambda x: mixed(x).squeeze(0)


@plant(laws.determinism, d=D)
def dropout_left_on():
    """Embeddings that differ from call to call because nobody called `.eval()`: transformers issue 2401."""
    rng = np.random.default_rng(0)
    return lambda x: x * (rng.random(x.shape) < 0.9), lambda x: x * 0.9


@plant(laws.causality, d=D)
def a_mask_of_minus_ten_thousand():
    """A finite mask is beaten by large scores; transformers had -1e4 in most models until pull request 17306."""

    def masked_with(finite):
        def mixer(x):
            return softmax(np.where(causal(len(x)), x @ W_Q @ (x @ W_K).T, finite)) @ (x @ W_V)

        return mixer

    return masked_with(-1e4), masked_with(-np.inf)


@plant(laws.causality, d=D)
def minus_ten_to_the_tenth_added():
    """Subtracting 1e10 does not exclude a future score that is larger still: nntrainer issue 4333, PyTorch issue
    27461."""

    def added(finite):
        def mixer(x):
            scores = 1e6 * (x @ W_Q) @ (x @ W_K).T
            return softmax(scores + np.where(causal(len(x)), 0, finite)) @ (x @ W_V)

        return mixer

    return added(-1e10), added(-np.inf)


@plant(laws.causality, d=D)
def a_mask_dropped_with_the_fast_path():
    """`use_causal_mask=True` did nothing when dropout or returned weights ruled out the fused kernel: Keras issue
    23038."""
    return lambda x: self_attention(x, True), lambda x: self_attention(x, causal(len(x)))


@plant(laws.causality, d=D)
def a_mask_inverted_in_translation():
    """`triu` without `== 0`: the training mask was right, the one in translate.py hid the past:
    hkproj/pytorch-transformer issue 19."""
    return lambda x: self_attention(x, ~causal(len(x))), lambda x: self_attention(x, causal(len(x)))


@plant(laws.causality_of_gradient, d=D)
def a_backward_kernel_without_the_mask():
    """Triton's fused-attention tutorial ignored `causal` in its backward kernel: triton issue 4541."""

    def grad_with(mask):
        def grad(x, d_y):
            q, k, v = x @ W_Q, x @ W_K, x @ W_V
            weights = softmax(np.where(mask(len(x)), q @ k.T / np.sqrt(D), -np.inf))
            d_q, d_k, d_v = attend_backward(q, k, v, d_y, weights)
            return d_q @ W_Q.T + d_k @ W_K.T + d_v @ W_V.T

        return grad

    return grad_with(lambda t: np.ones((t, t), bool)), grad_with(causal)


@plant(laws.prefix_equals_whole, d=D)
def a_rotary_base_that_depends_on_the_length():
    """Dynamic NTK scaling turns *all* positions differently as the text grows, cached keys excepted: transformers
    issue 25104."""

    def mixer(theta):
        def f(x):
            position, base = np.arange(len(x)), theta(len(x))
            return attend(rotate(x @ W_Q, position, base), rotate(x @ W_K, position, base), x @ W_V, causal(len(x)))

        return f

    return mixer(lambda t: 10.0 * max(1, t / 2) ** 2), mixer(lambda t: 10.0)


def windowed(w):
    return lambda x: self_attention(x, causal(len(x)) & (np.arange(len(x))[:, None] - np.arange(len(x)) < w))


@plant(laws.window_honoured, w=3, d=D)
def a_window_of_one_too_many():
    """The window given to a kernel that doesn't count the token itself: Gemma, Mistral, GPT-OSS in Megatron-Bridge
    pull request 2656."""
    return windowed(4), windowed(3)


@plant(laws.window_honoured, w=3, d=D)
def a_window_of_one_too_few():
    """PyTorch and Flax disagreed on Mistral's window by one token: transformers issue 29176."""
    return windowed(2), windowed(3)


@plant(laws.window_honoured, w=3, d=D)
def a_window_open_to_the_future():
    """cuDNN's path of `jax.nn.dot_product_attention` took a left window for a full right one: jax pull request
    39576."""

    def leaking(x):
        return self_attention(x, np.arange(len(x))[:, None] - np.arange(len(x)) < 3)

    return leaking, windowed(3)


def seeing(sees):
    """Self-attention of which row i sees column j where `sees(i, j)`."""
    return lambda x: self_attention(x, causal(len(x)) & sees(np.arange(len(x))[:, None], np.arange(len(x))))


@plant(laws.window_honoured, w=4, d=D)
def a_window_that_widens():
    """One token too many, but only once the cache has gone round. (No thread known to us.)"""
    return seeing(lambda i, j: i - j < 4 + (i >= 16)), windowed(4)


@plant(laws.window_honoured, w=4, d=D)
def a_window_with_a_hole():
    """From the second tile on the token before the last is not read. (No thread known to us.)"""
    return seeing(lambda i, j: (i - j < 4) & ~((i >= 5) & (i - j == 2))), windowed(4)


@plant(laws.window_honoured, w=50, d=D)
def no_window_at_all():
    """Unnoticed while the window was longer than most texts: what leaves it is but one pair in a thousand. (No thread
    known to us; our own tests called a full attention one of window 50.)"""
    return seeing(lambda i, j: j >= 0), windowed(50)


@plant(laws.permutation_equivariance, d=D)
def heads_merged_without_a_transpose():
    """Reshaping (heads, t, width) to (t, d) as it lies in memory mixes positions; the copy task still passed:
    jsbaan/transformer-from-scratch issue 4."""

    def two_heads(x):
        halves = (slice(0, 2), slice(2, 4))
        return np.stack([attend(x @ W_Q[:, h], x @ W_K[:, h], x @ W_V[:, h], True) for h in halves])

    return (
        lambda x: two_heads(x).reshape(len(x), D),
        lambda x: two_heads(x).transpose(1, 0, 2).reshape(len(x), D),
    )


@plant(laws.padding_ignored, d=D)
def positions_counted_through_left_padding():
    """A learned or absolute position counts the padding in front: unsloth issue 3699, TransformerLens issue 1609."""
    table = np.random.default_rng(1).normal(size=(40, D))

    def numbered(position):
        def padded(x, real):
            seen = causal(len(x)) & real
            return self_attention(x + table[position(real)], seen)

        return padded

    return numbered(lambda real: np.arange(len(real))), numbered(lambda real: np.maximum(np.cumsum(real) - 1, 0))


@plant(laws.padding_ignored, d=D)
def a_mean_over_the_padding_too():
    """Sentence embeddings pooled over padding: the mean must divide by the number of real tokens. (No thread known to
    us.)"""
    return (
        lambda x, real: x + np.where(real[:, None], x, 0).sum(0) / len(x),
        lambda x, real: x + np.where(real[:, None], x, 0).sum(0) / real.sum(),
    )


@plant(laws.documents_kept_apart, d=D)
def packing_segments_ignored():
    """One backend of several dropped the segment mask; the loss was silently wrong: maxtext pull request 4478."""

    def same(document):
        return document[:, None] == document

    return (
        lambda x, document: self_attention(x, causal(len(x))),
        lambda x, document: self_attention(x, causal(len(x)) & same(document)),
    )


@plant(laws.documents_kept_apart, d=D)
def a_second_boundary_not_seen():
    """The first document told from the rest, and the rest told from nothing: what two documents in a row never show.
    (No thread known to us.)"""

    def first(document):
        return (document == document[0])[:, None] == (document == document[0])

    return (
        lambda x, document: self_attention(x, causal(len(x)) & first(document)),
        lambda x, document: self_attention(x, causal(len(x)) & (document[:, None] == document)),
    )


@plant(laws.weights_sum_to_one, d=D)
def softmax_over_the_queries():
    """`Softmax(dim=0)` in PyTorch-NLP's attention (issue 2); over the query axis in labml's diffusion U-Net (issue
    282)."""
    return lambda x: softmax(x @ W_Q @ (x @ W_K).T, axis=0), lambda x: softmax(x @ W_Q @ (x @ W_K).T, axis=1)


@plant(laws.gradient_equals_differences, d=D)
def gates_saved_in_another_order():
    """An LSTM's forward pass saved its gates as (f, i), its backward pass read (i, f): AiDotNet.Tensors pull request
    907."""

    def mixer(x):
        return sigmoid(x @ W_Q) * np.tanh(x @ W_K)

    def grad_reading(order):
        def grad(x, d_y):
            saved = (sigmoid(x @ W_Q), np.tanh(x @ W_K))
            gate, value = saved[order[0]], saved[order[1]]
            return (d_y * value * gate * (1 - gate)) @ W_Q.T + (d_y * gate * (1 - value**2)) @ W_K.T

        return grad

    return (mixer, grad_reading((1, 0))), (mixer, grad_reading((0, 1)))


def full(x):
    return rotary_attention(x, np.arange(len(x)), causal(len(x)))


def cached(position, mask):
    """A step that keeps all past inputs; `position(past, t)` and `mask(t, s)` are where it can go wrong."""

    def step(state, x):
        rows, turned = state
        past, t = len(rows), len(x)
        rows = np.concatenate([rows, x])
        here = position(past, t)
        turned = np.concatenate([turned, rotate(x @ W_K, here)])
        return (rows, turned), attend(rotate(x @ W_Q, here), turned, rows @ W_V, mask(t, past + t))

    return full, step, lambda: (np.zeros((0, D)), np.zeros((0, D)))


@plant(laws.cached_equals_full, d=D)
def a_decoding_step_at_position_zero():
    """The offset of the cache forgotten (or counted twice, or one ahead) turns each new token wrongly: tiny-llm pull
    request 46,
    onnxruntime-genai pull request 2354."""
    return cached(lambda past, t: np.arange(t), causal), cached(lambda past, t: past + np.arange(t), causal)


@plant(laws.cached_equals_full, d=D)
def a_causal_mask_aligned_to_the_top_left():
    """`is_causal` with one query and eight keys sees key 0 alone: PyTorch issues 103082 and 108108, mlx issue 2836,
    `jax.nn`."""
    positions = lambda past, t: past + np.arange(t)  # noqa: E731
    return cached(positions, lambda t, s: np.tri(t, s, dtype=bool)), cached(positions, causal)


@plant(laws.cached_equals_full, d=D)
def a_state_used_for_single_tokens_only():
    """`if seq_len == 1` guarded the cached state in nine Mamba-like models: a second chunk began from nothing:
    transformers pull request 45513."""

    def steps(keeps):
        def step(state, x):
            start = state if keeps(len(x)) else np.zeros(D)
            y = start + np.cumsum(x, 0)
            return y[-1], y

        return (lambda x: np.cumsum(x, 0)), step, lambda: np.zeros(D)

    return steps(lambda t: t == 1), steps(lambda t: True)


@plant(laws.agreement, d=D, search=laws.Search(lengths=(2, 4, 5, 8, 9)))
def a_tail_that_fills_no_block():
    """Right only for lengths that the block divides: jax issue 27224 (Pallas on the GPU), tiny-flash-attention issue
    12."""
    block = 4

    def blockwise(last):
        def mixer(x):
            q, k, v = x @ W_Q, x @ W_K, x @ W_V
            largest, total, out = np.full((len(x), 1), -np.inf), np.zeros((len(x), 1)), np.zeros((len(x), D))
            for start in range(0, last(len(x)), block):
                s = q @ k[start : start + block].T / np.sqrt(D)
                new = np.maximum(largest, s.max(1, keepdims=True))
                e, shrink = np.exp(s - new), np.exp(largest - new)
                total, out = total * shrink + e.sum(1, keepdims=True), out * shrink + e @ v[start : start + block]
                largest = new
            return out / np.where(total == 0, 1, total)

        return mixer, lambda x: self_attention(x, True)

    return blockwise(lambda t: t // block * block), blockwise(lambda t: t)


@plant(laws.batch_equals_one_by_one, d=D)
def one_scale_for_the_whole_batch():
    """Rounding to eight bits by the batch's largest entry: one loud example empties its neighbours: sherpa-onnx issue
    3853."""

    def rounded(axes):
        def batched(x):
            scale = np.maximum(np.abs(x).max(axes, keepdims=True), 1e-9) / 127
            return np.round(x / scale) * scale

        return batched

    return rounded((0, 1, 2)), rounded((1, 2))


@plant(laws.order_of_examples_irrelevant, d=D)
def an_expert_that_serves_who_comes_first():
    """An expert's capacity, filled in the order of the batch, drops the tokens of the later examples:
    arXiv:2402.05526."""

    def expert(capacity):
        def batched(x):
            chosen = (x[..., :1] > 0).reshape(-1, 1)
            served = chosen & (np.cumsum(chosen, 0) <= capacity(chosen))
            return x + np.where(served, np.tanh(x.reshape(-1, D) @ W_V), 0).reshape(x.shape)

        return batched

    return expert(lambda chosen: 1), expert(len)
