"""What is wrong is neither timed nor trained: a variant that sees the future, or whose gradient by hand is wrong."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from benchmarks.attention import candidates, check, quality_cell
from benchmarks.attention.quality_tasks import setting
from minilm import variants
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


def narrow(d, heads, name="mha"):
    """At once and in steps, it computes in float32 whatever comes in."""
    mixer = variants.make(name, d, heads)

    def narrowed(*arrays):
        return jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, arrays)

    def apply(params, x, tokens):
        return mixer.apply(*narrowed(params, x), tokens).astype(x.dtype)

    def step(params, state, x, tokens):
        state, y = mixer.step(*narrowed(params, state, x), tokens)
        return state, y.astype(x.dtype)

    return replace(mixer, apply=apply, step=step, init_state=lambda p, *rest: mixer.init_state(*narrowed(p), *rest))


def narrow_and_choosing(d, heads):
    """In float32, and of a few keys."""
    return narrow(d, heads, "top-k:n=2")


def slightly(d, heads):
    """Of its gradient one part in a hundred is too much."""
    return behind(lambda y: slight(y), right(d, heads))


def rounding(d, heads):
    """What comes out is rounded, and has the gradient of what it was, as quantized networks are trained."""
    return behind(lambda y: y + jax.lax.stop_gradient(jnp.round(16 * y) / 16 - y), right(d, heads))


@jax.custom_vjp
def half(y):
    """Itself."""
    return y


half.defvjp(lambda y: (y, None), lambda _, d_y: (d_y / 2,))


@jax.custom_vjp
def slight(y):
    """Itself."""
    return y


slight.defvjp(lambda y: (y, None), lambda _, d_y: (1.01 * d_y,))


def behind(function, mixer: Mixer) -> Mixer:
    """A function of each output."""

    def step(params, state, x, tokens):
        state, y = mixer.step(params, state, x, tokens)
        return state, function(y)

    return replace(mixer, apply=lambda *arguments: function(mixer.apply(*arguments)), step=step)


def verdict(name, mode):
    text = name if ":" in name else f"{__name__}:{name}"
    return check.check(candidates.mixer(text, D, HEADS), mode, "float32", T)


@pytest.mark.parametrize(("name", "off"), [("halved", 0.1), ("slightly", 0.002)])
def test_a_gradient_that_both_forms_share_is_held_against_the_slope(name, off):
    assert verdict(name, "fwd")["passed"]
    found = verdict(name, "fwdbwd")
    assert not found["passed"]
    assert found["slope"] > off
    assert found["reason"].startswith("the gradient at the input is not the slope of the result, and off by 0.")


@pytest.mark.parametrize("name", ["right", "top-k:n=2", "moba:size=2,n=1", "mamba2:chunk=4"])
def test_where_a_slope_is_seen_the_gradient_is_it(name):
    found = verdict(name, "fwdbwd")
    assert (found["passed"], found["slope"] is None) == (True, False)


@pytest.mark.parametrize("name", ["narrow", "narrow_and_choosing", "rounding"])
def test_what_is_right_passes_though_its_slope_is_noise_jumps_or_is_rounded_away(name):
    assert verdict(name, "fwdbwd")["passed"]


def test_what_a_variant_refuses_of_longer_texts_it_refuses_before_it_is_trained(monkeypatch):
    monkeypatch.setattr(quality_cell, "descend", lambda *_: pytest.fail("it was trained"))
    task = setting("induction:vocab_size=14,length=16,rows=4,d=8,layers=1,steps=10")
    with pytest.raises(ValueError, match="64 tokens are more than the 32 that can be read: big-bird draws lots among"):
        quality_cell.run(quality_cell.Cell(task, "big-bird:size=4,blocks=8,random=1", seed=0, learning_rate=0.01))


def test_a_variant_that_sees_the_future_is_not_asked_what_it_recalls():
    task = setting("mqar:vocab_size=14,length=12,pairs=3,rows=4,d=8,layers=1,steps=10")
    row = quality_cell.run(quality_cell.Cell(task, f"{__name__}:leaking", seed=0, learning_rate=0.01))
    assert row["status"] == "wrong"
    assert row["reason"].startswith("under the law 'normal', 12 tokens, the result is off by ")
    assert not {"accuracy", "cpu_seconds_a_step"} & set(row)
