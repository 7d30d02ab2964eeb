"""Prefill is timed where all tokens at once give what one after another gives, in outputs and in the state."""

from dataclasses import replace

import pytest

from benchmarks.attention import cores, cost, ops
from benchmarks.attention.candidates import mixer
from minilm.layers.attention.masks import Causal, SlidingWindow
from minilm.shapes import Mixer
from minilm.variants.softmax import ruled
from tests.test_attention_benchmark import HEADS, PEAK, WIDTH, T, asked


@pytest.fixture(autouse=True)
def known_peak(monkeypatch):
    monkeypatch.setattr(cost, "peak", lambda clock: PEAK)


def measured(*candidates, **changes):
    return ops.measured(candidates, asked(**changes))


def hasty(d, heads):
    """A step of several tokens at once sees only the last T of them, where one after another see all."""
    whole, near = (ruled(rule, d, heads) for rule in (Causal(), Causal() & SlidingWindow(T)))

    def step(params, state, x, tokens):
        return (whole if len(x) == 1 else near).step(params, state, x, tokens)

    return Mixer(whole.init, whole.apply, whole.init_state, step)


def test_prefill_is_of_variants_whose_state_comes_back_and_is_held_to_their_steps():
    right, row = measured(mixer("mha", 8, 2), mixer(f"{__name__}:hasty", 8, 2), modes=["prefill"], lengths=[40])
    assert (right["status"], row["status"], "time" in row) == ("ok", "wrong", False), (right, row)
    (forward,) = measured(mixer("mha", 8, 2), lengths=[40])
    cache = 40 * (2 * 8 * 4 + 2 * 4)  # keys and values, and where each token stands
    assert right["memory"]["results"] - forward["memory"]["results"] >= cache
    room_for_the_next = HEADS * 40 * 2 * (WIDTH + WIDTH)
    assert right["flops"]["executed"] == forward["flops"]["executed"] + room_for_the_next
    (core,) = measured(cores.make("dense", HEADS, WIDTH), modes=["prefill"])
    assert core["reason"] == "A core has no state that could be filled: prefill is of variants."


def remembers_nothing(d, heads):
    """Reads many tokens, and leaves its state as it was."""
    whole = ruled(Causal(), d, heads)

    def step(params, state, x, tokens):
        after, y = whole.step(params, state, x, tokens)
        return (after if len(x) == 1 else state), y

    return Mixer(whole.init, whole.apply, whole.init_state, step)


def test_a_prefill_whose_state_is_wrong_gets_no_time_either():
    candidates = (mixer(name, 8, 2) for name in ("mha", f"{__name__}:remembers_nothing"))
    right, row = measured(*candidates, modes=["prefill"])
    assert (right["status"], row["status"], "time" in row) == ("ok", "wrong", False), (right, row)
    assert "of 12 tokens read at once, the token after them is off" in row["reason"]


def test_a_hasty_prefill_is_found_in_long_sequences_too():
    candidates = (replace(mixer(name, 8, 2), checked=T) for name in ("mha", f"{__name__}:hasty"))
    right, row = measured(*candidates, modes=["prefill"], lengths=[8 * T])
    assert (right["status"], row["status"], "time" in row) == ("ok", "wrong", False), (right, row)
    assert "at 32 of 96 tokens, the result is off" in row["reason"]


def loud(d, heads):
    """Its steps are twice as loud as `apply`, many at once or one by one."""
    whole = ruled(Causal(), d, heads)

    def step(params, state, x, tokens):
        state, y = whole.step(params, state, x, tokens)
        return state, 2 * y

    return Mixer(whole.init, whole.apply, whole.init_state, step)


def test_a_prefill_that_agrees_with_its_own_steps_alone_gets_no_time_either():
    (row,) = measured(mixer(f"{__name__}:loud", 8, 2), modes=["prefill"])
    assert (row["status"], "time" in row) == ("wrong", False), row
    assert "the result is off by 0.5" in row["reason"]
