"""Holes that the laws once had, from both sides: what slipped through is broken, and correct code holds."""

from typing import Any

import numpy as np
import pytest

from minilm import laws
from tests.gallery import gradients, norms
from tests.gallery.attention import distance, scores
from tests.gallery.mixers import seeing, windowed
from tests.gallery.textbook import (
    W_K,
    W_Q,
    W_V,
    D,
    attend,
    causal,
    cross_entropy,
    draw,
    rotate,
    self_attention,
    sigmoid,
    softmax,
)
from tests.gallery.wrapping import into_one_buffer

FEW = laws.Search(lengths=(1, 2, 5), examples=15)


def test_what_means_to_mix_nothing_says_so_by_a_window_of_one():
    broken = laws.check(np.tanh, d=D, causal=True, search=FEW).broken
    assert [error.law for error in broken] == ["positions mixed"]
    report = laws.check(np.tanh, d=D, causal=True, window=1, search=FEW).raise_if_broken()
    assert "positions mixed" in report.not_checked
    assert "window honoured" not in report.not_checked


def test_what_mixes_at_a_distance_alone_does_mix():
    laws.positions_mixed(lambda x: x + np.concatenate([np.zeros((4, D)), x])[: len(x)], d=D)


def test_a_pytorch_module_without_batch_first_is_found_to_mix_nothing():
    torch = pytest.importorskip("torch")

    for batch_first, broken in ((False, "positions mixed"), (True, "causality")):
        module = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first).double().eval()
        run = lambda x, module=module: module(torch.tensor(x)[None])[0]  # noqa: E731
        assert laws.check(run, d=8, causal=True, search=FEW).broken[0].law == broken


def test_a_correct_mixer_that_writes_to_one_buffer_breaks_no_law():
    mixer = into_one_buffer(windowed(3))
    packed = lambda x, document: seeing(lambda i, j: (i - j < 3) & (document[i] == document[j]))(x)  # noqa: E731
    both = {"other": mixer, "packed": lambda x, document: into_one_buffer(lambda x: packed(x, document))(x)}
    laws.check(mixer, d=D, causal=True, window=3, search=FEW, **both).raise_if_broken()
    laws.permutation_equivariance(into_one_buffer(lambda x: self_attention(x, True)), d=D, search=FEW)
    laws.order_of_examples_irrelevant(into_one_buffer(np.tanh), d=D, search=FEW)
    laws.scale_invariance(into_one_buffer(lambda x: x / np.sqrt((x**2).mean(-1, keepdims=True))), d=D, search=FEW)


@pytest.mark.parametrize("times", [0, -7, 1.01])
def test_a_multiple_of_a_gradient_is_no_gradient(times):
    loss_gradient, attention_gradient = gradients.loss_gradient, gradients.attention_gradient
    with pytest.raises(laws.LawBroken, match="the slope along v"):
        laws.gradient_equals_differences(np.tanh, lambda x, d_y: times * d_y * (1 - np.tanh(x) ** 2), d=D)
    with pytest.raises(laws.LawBroken, match="the slope along v"):
        laws.loss_gradient_equals_differences(cross_entropy, lambda *batch: times * loss_gradient(*batch))
    with pytest.raises(laws.LawBroken, match="the slope along v"):
        laws.attention_gradient_equals_differences(attend, lambda *a: [times * d for d in attention_gradient(*a)])


def test_a_gradient_of_another_shape_breaks_the_law_in_a_sentence():
    with pytest.raises(laws.LawBroken, match=r"the gradient has shape \(5,\) where \(1, 5\) was expected"):
        laws.loss_gradient_equals_differences(cross_entropy, lambda *batch: gradients.loss_gradient(*batch).sum(0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_correct_gradients_and_rotations_hold_in_every_precision(dtype):
    search = laws.Search(dtype=dtype)
    rounded = lambda f: lambda *args: np.asarray(f(*args), dtype)  # noqa: E731
    laws.loss_gradient_equals_differences(rounded(cross_entropy), rounded(gradients.loss_gradient), search=search)
    laws.attention_gradient_equals_differences(rounded(attend), gradients.attention_gradient, search=search)
    laws.rotary_depends_on_distance(rounded(rotate), search=search)


def assert_asked_to_its_end(law, of_table):
    """A table of 100 rows is asked no further where the law is told so, and else to the last of its 2,048."""
    law(of_table(100), furthest=99)
    law(of_table(2048))
    with pytest.raises(laws.LawBroken, match=r"IndexError.*before position 2047 is asked with its own `furthest=`"):
        law(of_table(100))
    with pytest.raises(ValueError, match="`furthest` is at least 2, but it is 1"):
        law(of_table(100), furthest=1)


def test_a_rotation_read_from_a_table_is_asked_up_to_its_end_alone():
    def of_table(rows):
        return lambda x, position: rotate(x, np.arange(rows)[position])

    assert_asked_to_its_end(laws.rotary_depends_on_distance, of_table)


def test_an_attention_whose_weights_may_be_zero_breaks_no_law():
    def attend(q, k, v, mask):
        return (np.where(mask, np.maximum(q @ k.T, 0) ** 2, 0)) @ v

    def gradient(q, k, v, mask, d_o):
        scores = np.where(mask, np.maximum(q @ k.T, 0), 0)
        d_scores = 2 * scores * (d_o @ v.T)
        return d_scores @ k, d_scores.T @ q, (scores**2).T @ d_o

    laws.check_attention(attend, grad=gradient).raise_if_broken()
    laws.check_attention(attend, grad=gradient, search=laws.Search(lengths=(7, 2))).raise_if_broken()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_correct_sampler_obeys_for_a_k_beyond_the_vocabulary_and_logits_of_any_size(dtype):
    search = laws.Search(dtype=dtype)
    laws.check_sampler(draw, among=laws.top_k(50), search=search).raise_if_broken()
    nucleus = laws.top_p(0.8)
    kept = lambda key, z: draw(key, np.where(nucleus(z.astype(np.float64)) > 0, z, -np.inf))  # noqa: E731
    laws.check_sampler(kept, among=nucleus, search=search).raise_if_broken()


def test_the_known_texts_are_asked_however_few_examples_are_drawn():
    with pytest.raises(laws.LawBroken, match=r"it comes back as 'a\.'"):
        laws.text_round_trip(list, lambda ids: "".join(ids).replace("a .", "a."), search=laws.Search(examples=1))


def normalised(weights):
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total == 0, 1, total)


def largest_two(scores):
    return np.where(scores >= np.sort(scores)[:, -min(2, scores.shape[1])][:, None], scores, -np.inf)


def with_a_sink(scores):
    return softmax(np.concatenate([scores, np.ones((len(scores), 1))], 1))[:, :-1]


def weighted(weights):
    """Attention of weights that are a function of the scores, minus infinity where nothing is seen."""
    return lambda q, k, v, mask: (weights(np.where(mask, scores(q, k).astype(float), -np.inf)) @ v).astype(q.dtype)


CORRECT = {
    "softmax": weighted(softmax),
    "sink": weighted(with_a_sink),
    "soft cap": weighted(lambda s: softmax(np.where(np.isfinite(s), 3 * np.tanh(s / 3), s))),
    "sigmoid": weighted(lambda s: sigmoid(np.maximum(s, -700))),
    "ReLU": weighted(lambda s: np.maximum(s, 0)),
    "squared ReLU": weighted(lambda s: np.maximum(s, 0) ** 2),
    "linear": weighted(lambda s: normalised(np.where(s > 0, s + 1, np.exp(np.minimum(s, 0))))),
    "the best alone": weighted(lambda s: normalised((s == s.max(1, keepdims=True)) & np.isfinite(s))),
    "the best two": weighted(lambda s: softmax(largest_two(s))),
}
every_attention = pytest.mark.parametrize("attend", CORRECT.values(), ids=CORRECT)


@every_attention
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_no_correct_attention_is_said_to_ignore_what_it_sees(attend, dtype):
    for lengths in ((1, 2, 3, 5), (7, 2), (1,)):
        laws.everything_seen_counts(attend, search=laws.Search(lengths=lengths, dtype=dtype))
    laws.everything_seen_counts(attend, k=16, search=laws.Search(lengths=(40,), dtype=dtype))


@every_attention
def test_no_correct_attention_is_said_to_group_its_heads_wrongly(attend):
    def heads(q, k, v):
        r = len(q) // len(k)
        return np.stack([attend(one, k[h // r], v[h // r], True) for h, one in enumerate(q)])

    for sizes in ({}, {"g": 1, "r": 4}, {"g": 3, "r": 1}):
        laws.grouped_equals_repeated(heads, search=FEW, **sizes)


@every_attention
def test_no_correct_window_is_said_to_be_another(attend):
    def mixer(x):
        t = len(x)
        return attend(x @ W_Q, x @ W_K, x @ W_V, causal(t) & ~np.tri(t, k=-4, dtype=bool))

    laws.window_honoured(mixer, w=4, d=D)
    laws.window_honoured(mixer, w=4, d=D, search=laws.Search(lengths=(1, 41), examples=10, dtype="float32"))


def test_heads_with_slopes_of_their_own_are_grouped_all_the_same():
    def heads(q, k, v):
        r, away = len(q) // len(k), distance(np.arange(q.shape[1]), np.arange(k.shape[1]))
        weights = [softmax(scores(one, k[h // r]) + away / 2 ** (h + 1)) for h, one in enumerate(q)]
        return np.stack([a @ v[h // r] for h, a in enumerate(weights)])

    laws.grouped_equals_repeated(heads)


@pytest.mark.parametrize("attend", [lambda q, k, v: 0 * q, lambda q, k, v: 0 * q + v.mean((0, 1))])
def test_heads_that_read_nothing_are_not_grouped(attend):
    with pytest.raises(laws.LawBroken, match="grouped equals repeated: output head 0 does not change with q"):
        laws.grouped_equals_repeated(attend)


@pytest.mark.parametrize(
    ("ignoring", "sentence"),
    [
        (lambda q, k, v, mask: 0 * q @ k.T @ v, "output 0 does not depend on query 0"),
        (lambda q, k, v, mask: np.where(mask.any(1)[:, None], v[mask.argmax(1)], 0), "does not depend on query 0"),
        (lambda q, k, v, mask: attend(q, 0 * k, v, mask) * q[:, :1], "output 0 does not depend on key 0"),
        (lambda q, k, v, mask: attend(q, k, 0 * v, mask) + attend(q, k, k[:, [0]], mask), "depend on value 0"),
    ],
)
def test_an_attention_that_ignores_what_it_sees_is_found(ignoring, sentence):
    with pytest.raises(laws.LawBroken, match=sentence):
        laws.everything_seen_counts(ignoring)


@pytest.mark.parametrize("wrong", [lambda p: np.minimum(p, 1024), lambda p: p % 1024, lambda p: np.minimum(p, 2046)])
def test_positions_are_asked_to_the_very_end(wrong):
    with pytest.raises(laws.LawBroken, match="rotary depends on distance"):
        laws.rotary_depends_on_distance(lambda x, position: rotate(x, wrong(position)))
    with pytest.raises(laws.LawBroken, match="bias depends on distance"):
        laws.bias_depends_on_distance(lambda query, key: distance(wrong(query), wrong(key)))


def test_a_bias_is_asked_to_the_end_of_its_table_and_may_round_its_positions():
    def of_table(rows):
        table = np.float32(0.3) * np.arange(rows, dtype=np.float32)
        return lambda query, key: table[query][:, None] - table[key]

    assert_asked_to_its_end(laws.bias_depends_on_distance, of_table)


def test_a_window_is_asked_at_the_lengths_that_are_given():
    late = seeing(lambda i, j: i - j < 4 + (i == 63))
    laws.window_honoured(late, w=4, d=D)
    with pytest.raises(laws.LawBroken, match=r"output 63 changes by .* when input 59 changes"):
        laws.window_honoured(late, w=4, d=D, search=laws.Search(lengths=(1, 5, 17, 64)))


@pytest.mark.parametrize(
    "turning", [np.negative, np.abs, lambda y: np.roll(y, 1, -1), lambda y: y[::-1] if y.ndim > 1 else y]
)
def test_a_norm_that_turns_its_rows_is_found(turning):
    broken = laws.check_norm(lambda x: turning(norms.rms_norm(x)), d=norms.WIDTH).broken
    assert [error.law for error in broken] == ["direction kept"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("d", [7, 64])
def test_a_correct_norm_obeys_in_every_precision(d, dtype):
    search = laws.Search(dtype=dtype, examples=20)
    for norm, centred in ((norms.layer_norm, True), (norms.rms_norm, False)):
        in_float32 = lambda x, norm=norm: norm(x.astype(np.float32)).astype(x.dtype)  # noqa: E731
        laws.check_norm(in_float32, d=d, centred=centred, search=search).raise_if_broken()


@pytest.mark.parametrize(
    ("sample", "sentence"),
    [
        (lambda key, logits: len(logits), "5 was drawn, which is none of the tokens 0 to 4"),
        (lambda key, logits: -1, "-1 was drawn, which is none of the tokens 0 to 4"),
        (lambda key, logits: draw(key, logits) + 0.5, r"\d.5 was drawn, which is none of the tokens 0 to 4"),
        (lambda key, logits: logits[len(logits)], "the function raised IndexError: index 5 is out of bounds"),
        (lambda key, logits: draw(key, logits) if logits.max() < 500 else 1 // 0, "raised ZeroDivisionError"),
    ],
)
def test_a_sampler_that_fails_is_reported_in_a_sentence(sample, sentence):
    report = laws.check_sampler(sample, search=FEW)
    with pytest.raises(laws.LawBroken, match=sentence) as caught:
        laws.frequencies(sample)
    assert caught.value.inputs["logits"].shape == (5,)
    assert {"support", "frequencies"} <= {error.law for error in report.broken}


@pytest.mark.parametrize("text", ["\u2581", "a\u2581a", "\u200d", "\u00ad", "\ufffe", "\u2028"])
def test_texts_that_nobody_sees_are_asked(text):
    lossy = lambda ids: "".join(ids).replace(text, "")  # noqa: E731
    with pytest.raises(laws.LawBroken, match="it comes back as"):
        laws.text_round_trip(list, lossy, search=laws.Search(examples=1))


def test_what_cannot_be_asked_is_refused_in_a_sentence():
    settings: list[tuple[str, Any]] = [("examples", 0), ("lengths", ()), ("lengths", (0, 2)), ("dtype", "int32")]
    settings += [("dtype", dtype) for dtype in ("float99", "int4", "V8", "(2,)f8", "f8,f4", "float8_e8m0fnu")]
    for name, value in settings:
        with pytest.raises(ValueError, match=f"`{name}`"):
            laws.Search(**{name: value})
    for dtype in ("bfloat16", "float8_e4m3fn", "float16", "float32", "float64"):
        laws.Search(dtype=dtype)
    with pytest.raises(ValueError, match="at least 1, but it is -1"):
        laws.check(np.tanh, d=D, window=-1, search=FEW)
    with pytest.raises(ValueError, match="`specials`"):
        laws.special_tokens_stay_text(list, {})
    assert "special tokens stay text" in laws.check_tokenizer(list, "".join, specials={}, search=FEW).not_checked
