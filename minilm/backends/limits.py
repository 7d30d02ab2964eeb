"""What each way to compute softmax attention does not support: functions of a `Spec` to a sentence, or to None."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from minilm.layers.attention.masks import And, Causal, Everything, Rule, SlidingWindow
from minilm.layers.attention.pallas import SHORTEST
from minilm.shapes import Tokens

# What a cell of our kernels may hold of a head: with this, the gradient fits into the fast memory of a TPU v5e, 16 MiB.
TPU_TOKENS, TPU_BYTES = 8192, 2**22
ALL, CAUSAL, WINDOW = "Everything()", "Causal()", "Causal() & SlidingWindow(w)"


class Spec(NamedTuple):
    """What a backend is asked whether it supports: one sequence, with the letters of `shapes`."""

    rule: Rule
    bias: Any
    g: int
    r: int
    t: int
    s: int
    k: int
    v: int
    dtype: str = "float32"
    in_order: bool = False
    platform: str = "cpu"  # or gpu, tpu

    @classmethod
    def of(cls, rule, bias, q, v, in_order: bool = False) -> "Spec":
        """Of arrays as an `attend` takes them, on the platform that this process computes on."""
        (g, r, t, width), (_, s, v_width) = q.shape, v.shape
        return cls(rule, bias, g, r, t, s, width, v_width, str(v.dtype), in_order, jax.default_backend())


def _first(*cases):
    """The sentence of the first case that holds."""
    return next((sentence for holds, sentence in cases if holds), None)


def none(spec: Spec) -> str | None:
    """Of what takes all that there is."""
    return None


def kernels(spec: Spec) -> str | None:
    """minilm's own kernels."""
    heads, widths = (spec.g, spec.r), (spec.k, spec.v)
    held = max(spec.t, spec.s)
    too_much = held > TPU_TOKENS or held * sum(widths) * jnp.dtype(spec.dtype).itemsize > TPU_BYTES
    return _first(
        (
            any(jnp.ndim(x) for x in jax.tree.leaves(spec.rule)),
            "A rule may hold numbers inside of a kernel, but this one holds arrays.",
        ),
        (
            any(jnp.shape(x)[-2:] != heads for x in jax.tree.leaves(spec.bias)),
            f"A kernel is given the bias of its own head, so that its arrays should end in the axes (g, r), {heads}.",
        ),
        (_looks_up(spec.rule, spec.bias), "A kernel cannot look anything up in a table, as this rule or bias does."),
        (spec.platform != "cpu" and spec.dtype == "float64", "It is not compiled for float64."),
        (
            spec.platform == "gpu" and any(w not in (16, 32, 64, 128) for w in widths),
            f"Triton takes widths that are powers of two, here from {SHORTEST} to 128, and not {spec.k} and {spec.v}.",
        ),
        (
            spec.platform == "tpu" and too_much,
            f"A TPU's fast memory holds heads of {TPU_TOKENS} tokens and {TPU_BYTES >> 20} MiB, which this exceeds.",
        ),
    )


def _looks_up(rule, bias):
    where = Tokens.arange(SHORTEST)

    def asked(rule, bias):
        return rule(where, where), 0 if bias is None else bias(where, where)

    return " gather[" in str(jax.make_jaxpr(asked)(rule, bias))


def xla(spec: Spec) -> str | None:
    """`jax.nn.dot_product_attention`."""
    return _first(
        (spec.k != spec.v, f"jax.nn takes values as wide as keys, and not {spec.v} and {spec.k}."),
        (spec.dtype == "float64", "The softmax of jax.nn is in float32, whatever the dtype: ask it for no float64."),
    )


def _by_index(spec, rules):
    return _first(
        (spec.bias is not None, "It takes no bias."),
        (index_rule(spec.rule) not in rules, f"It knows {' and '.join(rules)} alone, a width being a plain number."),
        (spec.t != spec.s, f"It takes as many queries as keys, and not {spec.t} and {spec.s}."),
        (spec.k != spec.v, f"It takes values as wide as keys, and not {spec.v} and {spec.k}."),
        (
            not spec.in_order,
            "It goes by indices: promise by in_order=True that tokens stand at 0, 1, 2, … of one text.",
        ),
    )


def cudnn(spec: Spec) -> str | None:
    """The same, by cuDNN."""
    return _first(
        (spec.platform != "gpu", f"cuDNN computes on NVIDIA GPUs, and this process on {spec.platform}."),
        (spec.dtype not in ("float16", "bfloat16"), "cuDNN takes float16 and bfloat16 alone."),
        (
            spec.k % 8 or spec.k > 128,
            f"cuDNN takes heads whose width divides by 8, up to 128, and not {spec.k}.",
        ),
    ) or _by_index(spec, (ALL, CAUSAL, WINDOW))


def triton(spec: Spec) -> str | None:
    """JAX's Pallas kernel for GPUs."""
    return _first(
        (spec.platform != "gpu", f"Triton compiles for GPUs, and this process computes on {spec.platform}."),
        (spec.r > 1, f"With {spec.r} heads of queries to one of keys it would return wrong numbers, without a word."),
        (spec.dtype == "float64", "It is not compiled for float64."),
        (spec.t % 128, f"It takes lengths that divide by 128, and not {spec.t}."),
    ) or _by_index(spec, (ALL, CAUSAL))


def flash(spec: Spec) -> str | None:
    """JAX's first Pallas kernel for TPUs."""
    return _first(
        (spec.platform != "tpu", f"Mosaic compiles for TPUs, and this process computes on {spec.platform}."),
        (spec.r > 1, f"It takes as many heads of keys as of queries, and not {spec.r} of queries to each."),
        (spec.dtype == "float64", "It is not compiled for float64."),
        (spec.t % 128, f"It takes lengths that divide by 128, and not {spec.t}."),
        (spec.k > 128 and spec.k % 128, f"Beyond 128 it takes widths that divide by 128, and not {spec.k}."),
    ) or _by_index(spec, (ALL, CAUSAL))


def splash(spec: Spec) -> str | None:
    """JAX's second."""
    return _first(
        (spec.platform != "tpu", f"Mosaic compiles for TPUs, and this process computes on {spec.platform}."),
        (spec.dtype == "float64", "It is not compiled for float64."),
        (spec.t % 128, f"It takes lengths that divide by 128, and not {spec.t}."),
    ) or _by_index(spec, (ALL, CAUSAL, WINDOW))


def index_rule(rule) -> str | None:
    """Which of the rules that go by indices as well as by positions it is, if any."""
    match rule:
        case Everything():
            return ALL
        case Causal():
            return CAUSAL
        case And(Causal(), SlidingWindow(int())) | And(SlidingWindow(int()), Causal()):
            return WINDOW
