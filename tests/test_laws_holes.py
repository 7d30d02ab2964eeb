"""Holes that the laws once had, from both sides: what slipped through is broken, and correct code holds."""

import numpy as np
import pytest

from minilm import laws
from tests.gallery import gradients
from tests.gallery.textbook import D, attend, causal, cross_entropy, draw, rotate, self_attention
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
    mixer = into_one_buffer(lambda x: self_attention(x, causal(len(x))))
    packed = lambda x, document: self_attention(x, causal(len(x)) & (document[:, None] == document))  # noqa: E731
    both = {"other": mixer, "packed": lambda x, document: into_one_buffer(lambda x: packed(x, document))(x)}
    laws.check(mixer, d=D, causal=True, window=50, search=FEW, **both).raise_if_broken()
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


def test_a_rotation_read_from_a_table_is_asked_up_to_its_end_alone():
    table = lambda x, position, rows=100: rotate(x, np.arange(rows)[position])  # noqa: E731
    laws.rotary_depends_on_distance(table, furthest=99)
    laws.rotary_depends_on_distance(lambda x, position: table(x, position, rows=2048))
    with pytest.raises(laws.LawBroken, match=r"IndexError.*before position 2047 is asked with its own `furthest=`"):
        laws.rotary_depends_on_distance(table)
    with pytest.raises(ValueError, match="`furthest` is at least 2, but it is 1"):
        laws.rotary_depends_on_distance(table, furthest=1)


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
