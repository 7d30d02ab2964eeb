"""What is wrong is neither timed nor trained: a variant that sees the future, or whose gradient by hand is wrong."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from benchmarks.attention import candidates, check, quality_cell
from benchmarks.attention.quality_tasks import setting
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Causal, Everything
from minilm.layers.attention.multi_head import softmax_mixer
from minilm.shapes import Mixer

D, HEADS, T = 8, 2, 12


def right(d, heads):
    """Attention that has nothing wrong in it."""
    return softmax_mixer(Dense(Causal()), g=heads, r=1, k=d // heads, v=d // heads)


def leaking(d, heads):
    """Read at once, every token sees all others."""
    seeing = softmax_mixer(Dense(Everything()), g=heads, r=1, k=d // heads, v=d // heads)
    return replace(right(d, heads), apply=seeing.apply)


def halved(d, heads):
    """At once and in steps, the result passes a function whose gradient by hand is half of its own."""
    return behind(lambda y: half(y), right(d, heads))


def narrow(d, heads):
    """At once and in steps, it computes in float32 whatever comes in."""
    return behind(lambda y: y.astype(jnp.float32).astype(y.dtype), right(d, heads))


@jax.custom_vjp
def half(y):
    """Itself."""
    return y


half.defvjp(lambda y: (y, None), lambda _, d_y: (d_y / 2,))


def behind(function, mixer: Mixer) -> Mixer:
    """A function of each output."""

    def step(params, state, x, tokens):
        state, y = mixer.step(params, state, x, tokens)
        return state, function(y)

    return replace(mixer, apply=lambda *arguments: function(mixer.apply(*arguments)), step=step)


def verdict(name, mode):
    text = name if ":" in name else f"{__name__}:{name}"
    return check.check(candidates.mixer(text, D, HEADS), mode, "float32", T)


def test_a_gradient_that_both_forms_share_is_held_against_the_slope():
    assert verdict("halved", "fwd")["passed"]
    found = verdict("halved", "fwdbwd")
    assert not found["passed"]
    assert found["slope"] > 0.01
    assert found["reason"].startswith("the gradient at the input is not the slope of the result, and off by 0.")


@pytest.mark.parametrize("name", ["right", "narrow", "top-k:n=2", "moba:size=2,n=1"])
def test_what_is_right_passes_though_it_chooses_or_computes_in_float32_inside(name):
    assert verdict(name, "fwdbwd")["passed"]


def test_a_variant_that_sees_the_future_is_not_asked_what_it_recalls():
    task = setting("mqar:vocab_size=14,length=12,pairs=3,rows=4,d=8,layers=1,steps=10")
    row = quality_cell.run(quality_cell.Cell(task, f"{__name__}:leaking", seed=0, learning_rate=0.01))
    assert row["status"] == "wrong"
    assert row["reason"].startswith("under the law 'normal', 12 tokens, the result is off by ")
    assert not {"accuracy", "cpu_seconds_a_step"} & set(row)
