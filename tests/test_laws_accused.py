"""Correct code that the laws once accused, or accused without a word of what to ask instead."""

import numpy as np
import pytest

from minilm import laws
from tests.gallery import norms
from tests.gallery.attention import distance
from tests.gallery.mixers import windowed
from tests.gallery.recurrent import decay, lstm, states, two_states
from tests.gallery.textbook import D, draw, rotate, self_attention, softmax
from tests.gallery.wrapping import masked

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


def after(cell, state, x, n):
    for row in x[:n]:
        state, _ = cell(state, row)
    return state


ENCODERS = {
    "last token": lambda x, n: x[n - 1],
    "last token, shortened": lambda x, n: x[n - 1] / (1 + np.linalg.norm(x[n - 1])),
    "largest entries": lambda x, n: x[:n].max(0),
    "largest magnitudes": lambda x, n: np.abs(x[:n]).max(0),
    "mean": lambda x, n: x[:n].mean(0),
    "mean of what is above 1": lambda x, n: np.maximum(x[:n] - 1, 0).mean(0),
    "first of what attends": lambda x, n: self_attention(x[:n], True)[0],
    "last of what attends": lambda x, n: masked(x)[n - 1],
    "decay": lambda x, n: after(decay, np.zeros(D), x, n),
    "decay, backwards": lambda x, n: after(decay, np.zeros(D), x[:n][::-1], n),
    "LSTM": lambda x, n: after(lstm(), two_states(np.random.default_rng(0)), x, n),
    "both ends": lambda x, n: (states(x[:n])[n], states(x[:n][::-1])[n]),
    "with what does not depend": lambda x, n: {"table": np.ones(7), "read": n, "h": states(x)[n]},
    "with a cache": lambda x, n: (x[:n].sum(0), None, [x[n - 1]]),
}


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_no_correct_encoder_is_said_to_have_missed_the_last_token(encode, dtype):
    def rounded(x, n):
        state = encode(x, n)
        return state if isinstance(state, tuple | dict) else state.astype(dtype)

    for lengths in ((1, 2, 3, 5), (1,), (40,), (7, 2)):
        search = laws.Search(lengths=lengths, examples=10, dtype=dtype)
        laws.final_state_ignores_padding(rounded, d=D, search=search)


def test_an_encoder_into_one_buffer_is_right_and_a_wrong_one_is_found():
    buffer = np.zeros((1, D))

    def encode(x, n, end):
        buffer[:] = x[:end].sum(0)
        return buffer

    laws.final_state_ignores_padding(lambda x, n: encode(x, n, n), d=D)
    with pytest.raises(laws.LawBroken, match="final state ignores padding: the state after 1 tokens and 1 of padding"):
        laws.final_state_ignores_padding(lambda x, n: encode(x, n, len(x)), d=D)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_forms_that_round_otherwise_than_the_mixer_are_its_forms(dtype):
    def backwards(x, seen):
        """The same sums in another order, and in another precision."""
        y = self_attention(x[::-1].astype(np.float64), seen[::-1, ::-1])[::-1]
        return y.astype(dtype)

    tri = lambda x: np.tri(len(x), dtype=bool)  # noqa: E731
    report = laws.check(
        lambda x: masked(x).astype(dtype),
        d=D,
        causal=True,
        padded=lambda x, real: backwards(x, tri(x) & real),
        packed=lambda x, document: backwards(x, tri(x) & (document[:, None] == document)),
        batched=lambda x: np.stack([backwards(one, tri(one)) for one in x]),
        search=laws.Search(examples=10, dtype=dtype),
    )
    report.raise_if_broken()


def test_a_mixer_of_two_lengths_is_asked_of_no_other():
    def of_two_lengths(x):
        if len(x) not in (2, 5):
            raise ValueError("compiled for 2 and 5 tokens")
        return self_attention(x, True)

    forms = {
        "padded": lambda x, real: self_attention(x, real),
        "packed": lambda x, document: self_attention(x, document[:, None] == document),
        "batched": lambda x: np.stack([of_two_lengths(one) for one in x]),
    }
    search = laws.Search(lengths=(2, 5), examples=10)
    laws.check(of_two_lengths, d=D, equivariant=True, search=search, **forms).raise_if_broken()


def test_a_pytorch_module_is_its_own_form_with_padding_and_in_a_batch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    for dtype in ("float32", "float64"):
        module = layer.eval().to(getattr(torch, dtype))

        def batched(x, real=None, module=module):
            hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            hidden = hidden if real is None else hidden | ~torch.tensor(real)
            hidden = hidden & ~torch.eye(x.shape[1], dtype=torch.bool)  # for a row of padding must see something
            return module(torch.tensor(x), src_mask=hidden)

        laws.check(
            lambda x, f=batched: f(x[None])[0],
            d=8,
            causal=True,
            padded=lambda x, real, f=batched: f(x[None], real)[0],
            batched=batched,
            search=laws.Search(lengths=(2, 5), examples=5, dtype=dtype),
        ).raise_if_broken()
