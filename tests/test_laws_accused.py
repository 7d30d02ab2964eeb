"""Correct code that the laws once accused, or accused without a word of what to ask instead."""

import numpy as np
import pytest

from minilm import laws
from tests.gallery import norms
from tests.gallery.attention import distance
from tests.gallery.mixers import windowed
from tests.gallery.textbook import D, draw, rotate, softmax

FEW = laws.Search(lengths=(1, 2, 5), examples=15)


@pytest.mark.parametrize(("w", "rows"), [(3, 12), (10, 12), (11, 12), (30, 33)])
def test_a_window_is_asked_of_no_more_tokens_than_a_table_has_rows(w, rows):
    table, asked = np.random.default_rng(2).normal(size=(rows, D)), []
    mixer = lambda x: asked.append(len(x)) or windowed(w)(x + table[np.arange(len(x))])  # noqa: E731
    search = laws.Search(lengths=(1, 2, 5, 12), examples=10)
    laws.check(mixer, d=D, causal=True, window=w, search=search).raise_if_broken()
    assert max(asked) == rows
    with pytest.raises(laws.LawBroken, match=r"IndexError: .* tokens; a table of fewer rows is asked with"):
        laws.window_honoured(mixer, w=w, d=D, search=laws.Search(examples=10))


def test_a_window_of_the_usual_lengths_slides_by_sixteen_tokens():
    asked = []
    laws.window_honoured(lambda x: asked.append(x.tobytes()) or windowed(3)(x), w=3, d=D)
    longest = [x for x in asked if len(x) == 19 * D * 8]
    assert longest == [x for x in asked if len(x) >= len(longest[0])]
    x = np.random.default_rng(0).normal(size=(19, D))
    assert asked.count(x.tobytes()) == 1, "an output that is compared with many is computed once"


@pytest.mark.parametrize("rows", [60, 100, 2000])
def test_a_table_that_repeats_its_last_row_is_told_of_furthest(rows):
    clamped = lambda position: np.minimum(position, rows - 1)  # noqa: E731
    hint = r"\(a table that ends before position 2047 is asked with its own `furthest=`\)"
    with pytest.raises(laws.LawBroken, match=hint):
        laws.rotary_depends_on_distance(lambda x, position: rotate(x, clamped(position)))
    with pytest.raises(laws.LawBroken, match=hint):
        laws.bias_depends_on_distance(lambda query, key: distance(clamped(query), clamped(key)))
    with pytest.raises(laws.LawBroken, match="bias depends on distance") as caught:
        laws.bias_depends_on_distance(lambda query, key: distance(0 * query, key))
    assert "furthest" not in str(caught.value), "a bias that is wrong from the first token on has no short table"


def test_a_norm_over_groups_is_asked_as_a_function_of_one_group():
    for norm, centred in ((norms.layer_norm, True), (norms.rms_norm, False)):
        grouped = lambda x, norm=norm: norm(x.reshape(*x.shape[:-1], 2, -1)).reshape(x.shape)  # noqa: E731
        with pytest.raises(laws.LawBroken, match=r"direction kept: .*a norm over groups as a function of one group"):
            laws.direction_kept(grouped, d=8, centred=centred)
        one = lambda x, grouped=grouped: grouped(np.concatenate([x, x], -1))[..., : x.shape[-1]]  # noqa: E731
        laws.check_norm(one, d=4, centred=centred).raise_if_broken()


def test_talking_heads_are_told_that_they_are_not_asked():
    def talking(q, k, v):
        a = softmax(np.einsum("htk,hsk->hts", q, np.repeat(k, len(q) // len(k), 0)))
        return np.einsum("gh,hts,hsv->gtv", np.eye(len(q)) + 0.1, a, np.repeat(v, len(q) // len(v), 0))

    with pytest.raises(laws.LawBroken, match=r"does not share \(heads that mix, as talking heads do, are not its subj"):
        laws.grouped_equals_repeated(talking)


class Unreadable:
    """What a GPU's tensor is to NumPy."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


class OnAnotherDevice(Unreadable):
    def detach(self):
        return self

    def cpu(self):
        return self.values

    def item(self):
        return self.values.item()


class WithIndex(Unreadable):
    def __index__(self):
        return int(self.values)


class WithInt(Unreadable):
    def __int__(self):
        return int(self.values)


@pytest.mark.parametrize("kind", [OnAnotherDevice, WithIndex, WithInt, np.int32, np.uint8, np.array, lambda i: [i]])
def test_a_token_is_whatever_stands_for_one_integer(kind):
    laws.check_sampler(lambda key, logits: kind(draw(key, logits)), search=FEW).raise_if_broken()


def test_a_token_may_be_a_tensor_and_not_half_of_one():
    torch = pytest.importorskip("torch")
    for kind in (torch.tensor, lambda token: torch.tensor([token])):
        laws.check_sampler(lambda key, logits, kind=kind: kind(draw(key, logits)), search=FEW).raise_if_broken()
    for kind in (torch.tensor, OnAnotherDevice, np.float32, float):
        half = lambda key, logits, kind=kind: kind(draw(key, logits) + 0.5)  # noqa: E731
        assert {error.law for error in laws.check_sampler(half, search=FEW).broken} == {"support", "frequencies"}


def test_the_output_of_another_device_is_moved():
    laws.check(lambda x: OnAnotherDevice(windowed(3)(x)), d=D, causal=True, window=3, search=FEW).raise_if_broken()
