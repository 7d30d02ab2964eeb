"""A backend is asked before it is taken, an explicit choice stands or is refused, and all that run give one result."""

import itertools
import logging
from contextlib import nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from minilm import backends
from minilm.backends import BACKENDS, Attention, Spec, calls, choose
from minilm.layers.attention.biases import Alibi, T5Relative
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Causal, Everything, Padding, SlidingWindow
from minilm.layers.attention.multi_head import softmax_mixer
from minilm.layers.attention.sparse_masks import RandomBlocks
from minilm.shapes import Tokens
from tests.programs import equations
from tests.strategies import normal, normals
from tests.tolerances import LAYER, assert_close

G, R, T, WIDTH = 2, 3, 12, 4
SPEC = Spec(Causal(), None, G, 1, 256, 256, 64, 64, dtype="bfloat16", in_order=True)
ALIBI = Alibi.of(G, R)


def drawn(g=G, r=R, t=T, width=WIDTH, dtype=jnp.float32):
    shapes = (g, r, t, width), (g, t, width), (g, t, width), (g, r, t, width)
    return normals(jax.random.key(0), shapes, dtype)


def value_and_gradients(attend, q, k, v, d_o):
    where = Tokens.arange(q.shape[2])
    o, pullback = jax.vjp(lambda q, k, v: attend(q, k, v, where, where), q, k, v)
    return o, pullback(d_o)


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────

BLOCKS = RandomBlocks.of(jax.random.key(0), size=2, n_blocks=4, n=2)
TABLE = T5Relative(jnp.zeros((32, G, 1)))
REFUSALS = [
    ("pallas", {"rule": BLOCKS}, "holds arrays"),
    ("pallas", {"bias": Alibi.of(1, G)}, r"end in the axes \(g, r\), \(2, 1\)"),
    ("pallas", {"bias": TABLE}, "look anything up"),
    ("pallas", {"platform": "gpu", "dtype": "float64"}, "not compiled for float64"),
    ("pallas", {"platform": "gpu", "v": 48}, "powers of two, here from 16 to 128, and not 64 and 48"),
    ("pallas", {"platform": "tpu", "s": 8193}, "8192 tokens and 4 MiB"),
    ("pallas", {"platform": "tpu", "s": 8192, "k": 256, "v": 256}, "exceeds"),
    ("jax-xla", {"v": 48}, "as wide as keys, and not 48 and 64"),
    ("jax-xla", {"dtype": "float64"}, "in float32"),
    ("jax-cudnn", {}, "NVIDIA GPUs, and this process on cpu"),
    ("jax-cudnn", {"platform": "gpu", "dtype": "float32"}, "float16 and bfloat16 alone"),
    ("jax-cudnn", {"platform": "gpu", "k": 68, "v": 68}, "up to 128, and not 68"),
    ("jax-cudnn", {"platform": "gpu", "k": 136, "v": 136}, "up to 128, and not 136"),
    (
        "jax-cudnn",
        {"platform": "gpu", "rule": SlidingWindow(5)},
        "Everything.* and Causal.* and .*SlidingWindow.* alone",
    ),
    ("jax-cudnn", {"platform": "gpu", "rule": Causal() & SlidingWindow(jnp.array(5))}, "plain number"),
    ("jax-cudnn", {"platform": "gpu", "bias": Alibi.of(G)}, "no bias"),
    ("jax-cudnn", {"platform": "gpu", "s": 257}, "as many queries as keys, and not 256 and 257"),
    ("jax-cudnn", {"platform": "gpu", "v": 48}, "as wide as keys, and not 48 and 64"),
    ("jax-cudnn", {"platform": "gpu", "in_order": False}, "in_order=True"),
    ("jax-triton", {}, "this process computes on cpu"),
    ("jax-triton", {"platform": "gpu", "r": 2}, "wrong numbers"),
    ("jax-triton", {"platform": "gpu", "dtype": "float64"}, "float64"),
    ("jax-triton", {"platform": "gpu", "t": 100, "s": 100}, "divide by 128, and not 100"),
    (
        "jax-triton",
        {"platform": "gpu", "rule": Causal() & SlidingWindow(5)},
        r"knows Everything\(\) and Causal\(\) alone",
    ),
    ("tpu-flash", {}, "this process computes on cpu"),
    ("tpu-flash", {"platform": "tpu", "r": 2}, "not 2 of queries to each"),
    ("tpu-flash", {"platform": "tpu", "dtype": "float64"}, "float64"),
    ("tpu-flash", {"platform": "tpu", "t": 100, "s": 100}, "divide by 128, and not 100"),
    ("tpu-flash", {"platform": "tpu", "k": 192, "v": 192}, "Beyond 128"),
    ("tpu-flash", {"platform": "tpu", "rule": Causal() & SlidingWindow(5)}, "alone"),
    ("tpu-splash", {}, "this process computes on cpu"),
    ("tpu-splash", {"platform": "tpu", "dtype": "float64"}, "float64"),
    ("tpu-splash", {"platform": "tpu", "t": 100, "s": 100}, "divide by 128, and not 100"),
    ("tpu-splash", {"platform": "tpu", "rule": Causal() & Padding(5)}, "alone"),
]


@pytest.mark.parametrize(("name", "changes", "sentence"), REFUSALS, ids=[f"{n} {s}" for n, _, s in REFUSALS])
def test_an_explicit_choice_is_refused_with_the_reason_and_never_replaced(name, changes, sentence):
    spec = SPEC._replace(**changes)
    assert BACKENDS[name].supports(spec).endswith(".")
    with pytest.raises(ValueError, match=f"The backend '{name}' was asked for, of .*: .*{sentence}"):
        choose(spec, name)


def test_each_takes_somewhere_what_it_was_made_for():
    home = {"jax-cudnn": "gpu", "jax-triton": "gpu", "tpu-flash": "tpu", "tpu-splash": "tpu"}
    for name in BACKENDS:
        assert choose(SPEC._replace(platform=home.get(name, "cpu")), name).name == name
    window = Causal() & SlidingWindow(5), SlidingWindow(5) & Causal()
    for name, rule in itertools.product(("jax-cudnn", "tpu-splash"), window):
        assert choose(SPEC._replace(platform=home[name], rule=rule, r=2), name).name == name
    for platform in ("gpu", "tpu"):
        assert choose(SPEC._replace(platform=platform, r=2, bias=Alibi.of(G, 2)), "pallas").name == "pallas"


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="no backend 'flash'; there are reference, dense, blockwise, pallas, jax-xla"):
        choose(SPEC, "flash")


# ── what is chosen ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "dense"),
        ({"t": 257}, "blockwise"),
        ({"t": 1, "s": 4096}, "dense"),
        ({"t": 257, "platform": "gpu"}, "pallas"),
        ({"t": 257, "platform": "tpu"}, "pallas"),
        ({"t": 1, "s": 2**17}, "dense"),
        ({"t": 1, "s": 2**17, "platform": "gpu"}, "dense"),
        ({"t": 257, "platform": "gpu", "k": 48}, "blockwise"),
        ({"t": 257, "platform": "tpu", "bias": TABLE}, "blockwise"),
    ],
    ids=str,
)
def test_without_a_name_the_first_that_supports_it_is_chosen(changes, name):
    assert choose(SPEC._replace(**changes)).name == name


def test_kernels_are_not_chosen_where_they_are_not_wanted():
    for platform, name in {"cpu": "blockwise", "gpu": "dense", "tpu": "dense"}.items():
        assert choose(SPEC._replace(t=257, platform=platform), kernels=False).name == name


def test_a_choice_is_logged_once_with_the_reasons_against_the_others(caplog):
    backends._log.cache_clear()
    with caplog.at_level(logging.INFO, "minilm.backends"):
        for _ in range(2):
            choose(SPEC._replace(rule=Causal() & SlidingWindow(5)))
            choose(SPEC._replace(t=512, platform="gpu", v=48))
    heads = "2 × 1 heads of widths 64 and"
    assert [record.getMessage() for record in caplog.records] == [
        f"attention by dense, of 256 queries and 256 keys, {heads} 64, bfloat16, under And(Causal, SlidingWindow), "
        "on cpu",
        f"attention by blockwise, of 512 queries and 256 keys, {heads} 48, bfloat16, under Causal, on gpu; not by "
        "pallas: Triton takes widths that are powers of two, here from 16 to 128, and not 64 and 48.",
    ]


def test_the_program_holds_what_was_asked_for():
    q, k, v, _ = drawn()
    marks = {"reference": {"pure_callback"}, "dense": set(), "blockwise": {"while"}, "jax-xla": set()}
    for name, expected in (marks | {"pallas": {"pallas_call", "while"}}).items():
        attend = partial(Attention(Causal(), backend=name), query=Tokens.arange(T), key=Tokens.arange(T))
        found = {e.primitive.name for e in equations(jax.make_jaxpr(attend)(q, k, v).jaxpr)}
        assert found & {"pure_callback", "pallas_call", "while"} == expected, name


def test_a_promise_of_order_is_checked_where_tokens_are_known():
    q, k, v, _ = drawn()
    attend = Attention(Causal(), in_order=True)
    for where in (Tokens.arange(T, start=1), Tokens(jnp.arange(T), jnp.arange(T) // 5)):
        with pytest.raises(ValueError, match="promises tokens at 0, 1, 2, … of one document, but they stand at"):
            attend(q, k, v, where, where)
    assert attend(q, k, v, Tokens.arange(T), Tokens.arange(T)).shape == q.shape


# ── what comes out ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["reference", "jax-xla", pytest.param("pallas", marks=pytest.mark.slow)])
def test_all_that_run_here_give_what_dense_gives(name):
    rule, bias = Causal() & SlidingWindow(5) & Padding(9), ALIBI
    arguments, f = drawn(), jax.jit(value_and_gradients)
    assert_close(f(Attention(rule, bias, name), *arguments), f(Dense(rule, bias), *arguments), LAYER, jnp.float32)


def test_a_mixer_takes_it_like_any_other():
    x, where = normal(jax.random.key(1), (2, T, 5), jnp.float32), Tokens.arange(T)
    ours, plain = (
        softmax_mixer(attend, g=G, r=R, k=WIDTH, v=WIDTH)
        for attend in (Attention(Causal(), backend="reference"), Dense(Causal()))
    )
    params = ours.init(jax.random.key(2), 5)
    assert_close(ours.apply(params, x, where), plain.apply(params, x, where), LAYER, jnp.float32)


@pytest.mark.parametrize("rule", [Everything(), Causal(), SlidingWindow(5) & Causal()], ids=["all", "causal", "window"])
def test_jax_has_the_same_rules_by_its_own_names(rule):
    """As XLA computes them here; cuDNN is called in the same way."""
    arguments = drawn()
    o = calls.by_index(rule, None, *arguments[:3], None, None, implementation="xla")
    assert_close(o, Dense(rule)(*arguments[:3], Tokens.arange(T), Tokens.arange(T)), LAYER, jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *itertools.product(("triton", "flash", "splash"), (Everything(), Causal())),
        ("splash", Causal() & SlidingWindow(70)),
    ],
    ids=str,
)
def test_kernels_of_jax_are_called_as_they_want_to_be(name, rule):
    """They run interpreted, as they would where they are compiled."""
    from jax.experimental.pallas import tpu

    arguments = drawn(g=2, r=3 if name == "splash" else 1, t=256, width=128)
    attend = partial(getattr(calls, name), rule, None, **({} if name == "flash" else {"interpret": True}))
    with jax.enable_x64(False), tpu.force_tpu_interpret_mode() if name != "triton" else nullcontext():
        actual = value_and_gradients(attend, *arguments)
    assert_close(actual, value_and_gradients(Dense(rule), *arguments), LAYER, jnp.float32)
