"""The decoding benchmark times the right step: from the true state, behind the whole context, among other sequences."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from benchmarks.attention import check, cost, decode
from benchmarks.attention.candidates import mixer
from minilm.layers.attention.masks import Causal, SlidingWindow
from minilm.shapes import Mixer, Tokens
from minilm.variants.softmax import ruled
from tests.test_attention_benchmark import PEAK, T, asked
from tests.tolerances import FORMULA, assert_close


@pytest.fixture(autouse=True)
def known_peak(monkeypatch):
    monkeypatch.setattr(cost, "peak", lambda clock: PEAK)


def shortsighted(d, heads):
    """Its steps see no more than the last T tokens."""
    whole, near = (ruled(rule, d, heads) for rule in (Causal(), Causal() & SlidingWindow(T)))
    return Mixer(whole.init, whole.apply, whole.init_state, near.step)


@pytest.mark.parametrize("most", [4e9, 100_000])
def test_a_step_that_is_wrong_only_behind_a_long_context_gets_no_time_either(most, monkeypatch):
    monkeypatch.setattr(decode.last_token, "__defaults__", (most,))
    candidates = (replace(mixer(name, 8, 2), checked=T) for name in ("mha", f"{__name__}:shortsighted"))
    right, row = decode.measured([decode.stepping(each) for each in candidates], asked(contexts=[8 * T], total=8 * T))
    assert (right["status"], row["status"], "time" in row) == ("ok", "wrong", False), (right, row)
    context = 8 * T if most > 1e9 else 4 * T
    assert right["check"]["long"]["context"] == context
    assert f"of {context} tokens, the last is off" in row["reason"]


@pytest.mark.parametrize("name", ["mha", "window:width=3", "window:width=3,convolution=4"])
def test_a_decoding_state_is_filled_as_if_token_by_token(name, monkeypatch):
    monkeypatch.setattr(decode, "PIECE", 4)
    candidate = mixer(name, 8, 2)
    params, x = check.arguments(candidate, "normal", T, "fwd", jnp.float64)
    state = decode.filled(candidate, params, x, T)
    assert "convolution" in name or len(state.tokens.position) == (3 if "window" in name else T)
    _, y = candidate.mixer.step(params, state, x[-1:], Tokens.arange(1, T - 1))
    assert_close(y[0], candidate.function(params, x)[-1], FORMULA)


@jax.custom_batching.custom_vmap
def as_the_first(y):
    """Among others, what the first of them is."""
    return y


@as_the_first.def_vmap
def _(axis_size, in_batched, y):
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], axis_size, 0), y), jax.tree.map(lambda _: True, y)


def test_a_step_that_is_wrong_only_beside_others_gets_no_time_either():
    """The program that is timed steps all sequences at once: each by its own token, at its own place, in its state."""
    candidate = mixer("mha", 8, 2)

    def stepped(change):
        def step(params, state, x, tokens):
            return change(state, *candidate.mixer.step(params, state, x, tokens), params, x, tokens)

        return decode.stepping(replace(candidate, name="beside", mixer=replace(candidate.mixer, step=step)))

    def first_only(before, state, y, *_):
        return state, as_the_first(y)

    def one_place(before, state, y, params, x, tokens):
        return candidate.mixer.step(params, before, x, as_the_first(tokens))

    def forgets(before, state, y, params, x, tokens):
        alone = jnp.ndim(as_the_first(x)) == 2 and x.shape[0] == 1
        return jax.tree.map(lambda new, old: old + as_the_first(new - old) if alone else new, state, before), y

    for change in (first_only, one_place, forgets):
        right, row = decode.measured([decode.stepping(candidate), stepped(change)], asked(total=4 * T))
        assert (right["status"], row["status"], "time" in row) == ("ok", "wrong", False), (change, row)
        assert "of 4 sequences side by side, a step with its state is off" in row["reason"]
