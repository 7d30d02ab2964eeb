"""Who computes softmax attention, by name: minilm in several ways, its kernels, those of JAX, and the reference.

Each says what it does not support in a sentence. `Attention(rule)` takes the first of the platform's list that supports
what it is asked for, and logs which one that is and why the others before it are not; `Attention(rule,
backend="pallas")` takes that one or raises, and never another in its place.

JAX's kernels go by indices. They know nothing of positions, documents and padding, and so they want to be told, by
`in_order=True`, that queries and keys stand at 0, 1, 2, … of one document.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from minilm.backends import calls, limits
from minilm.backends.limits import Spec
from minilm.layers.attention.blockwise import Blockwise
from minilm.layers.attention.core import Dense
from minilm.layers.attention.masks import Rule
from minilm.layers.attention.pallas import Pallas
from minilm.pytrees import register

FEW_SCORES = 256 * 256  # a head's, up to which a CPU is faster with all of them at once than in tiles

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backend:
    """A way to compute softmax attention.

    supports(spec)      -> None, or a sentence that says why not
    attend(rule, bias)  -> attend(q, k, v, query, key) of one sequence
    """

    name: str
    about: str
    supports: Callable[[Spec], str | None]
    attend: Callable[[Any, Any], Callable]


def choose(spec: Spec, name: str | None = None, *, kernels: bool = True) -> Backend:
    """The backend of a name; or, without one, the first of the platform's list that supports what is asked for.

    That is `dense` for a single token and for few scores; for many `blockwise` on a CPU, and elsewhere `pallas`, or
    `blockwise` where the kernels do not go. The choice is logged, once for each spec.

    Args:
      spec: what is asked for.
      name: of `BACKENDS`, or None.
      kernels: whether kernels may be chosen, which no compiler divides over devices; if not, `dense` stands for them.
    Returns:
      the backend.
    Raises:
      ValueError: there is none of that name, or it does not support what is asked for.
    """
    if name is not None and name not in BACKENDS:
        raise ValueError(f"There is no backend {name!r}; there are {', '.join(BACKENDS)}.")
    refused = {}
    for one in _order(spec, kernels) if name is None else (name,):
        refused[one] = BACKENDS[one].supports(spec)
        if not refused[one]:
            _log(one, _told(spec), "".join(f"; not by {other}: {why}" for other, why in refused.items() if why))
            return BACKENDS[one]
    raise ValueError(f"The backend {name!r} was asked for, of {_told(spec)}. But: {refused[name]}")


@register
@dataclass(frozen=True)
class Attention:
    """Softmax attention by what `choose` gives: `Attention(Causal())`, `Attention(Causal(), backend="pallas")`.

    The choice is made when a program is traced. `in_order` promises that queries and keys stand at 0, 1, 2, … of one
    document; where they are known by then, the promise is checked. `kernels` is `choose`'s.
    """

    rule: Any
    bias: Any = None
    backend: str | None = field(default=None, metadata={"static": True})
    in_order: bool = field(default=False, metadata={"static": True})
    kernels: bool = field(default=True, metadata={"static": True})

    def __call__(self, q, k, v, query, key):
        """Attention of one sequence, `(g, r, t, v)`."""
        if self.in_order:
            for tokens in (query, key):
                _check_in_order(tokens)
        spec = Spec.of(self.rule, self.bias, q, v, self.in_order)
        return choose(spec, self.backend, kernels=self.kernels).attend(self.rule, self.bias)(q, k, v, query, key)


def _order(spec, kernels):
    if spec.t == 1 or spec.t * spec.s <= FEW_SCORES:
        return ("dense",)
    if spec.platform == "cpu":
        return ("blockwise",)
    return ("pallas", "blockwise") if kernels else ("dense",)


@functools.cache
def _log(name, told, others):
    logger.info("attention by %s, of %s%s", name, told, others)


def _told(spec):
    heads = f"{spec.g} × {spec.r} heads of widths {spec.k} and {spec.v}"
    under = f"{_names(spec.rule)} and {type(spec.bias).__name__}" if spec.bias is not None else _names(spec.rule)
    return f"{spec.t} queries and {spec.s} keys, {heads}, {spec.dtype}, under {under}, on {spec.platform}"


def _names(rule):
    inner = [_names(part) for part in vars(rule).values() if isinstance(part, Rule)]
    return type(rule).__name__ + (f"({', '.join(inner)})" if inner else "")


def _check_in_order(tokens):
    if any(isinstance(leaf, jax.core.Tracer) for leaf in tokens):
        return
    position, document = map(np.asarray, tokens)
    if (position != np.arange(len(position))).any() or (document != document[:1]).any():
        raise ValueError(
            f"in_order promises tokens at 0, 1, 2, … of one document, but they stand at {position.tolist()} of "
            f"{np.unique(document).tolist()}: leave it out."
        )


def _called(name, about, supports, call):
    return Backend(name, about, supports, lambda rule, bias: functools.partial(call, rule, bias))


_TABLE = (
    _called(
        "reference", "NumPy in float64, number by number; its gradient is that by hand.", limits.none, calls.by_hand
    ),
    Backend("dense", "All scores at once.", limits.none, Dense),
    Backend("blockwise", "The online softmax, tile by tile, in plain JAX.", limits.none, Blockwise),
    Backend("pallas", "The same in kernels, by Triton or Mosaic; interpreted on a CPU.", limits.kernels, Pallas),
    _called("jax-xla", "`jax.nn.dot_product_attention`, all scores at once.", limits.xla, calls.xla),
    _called("jax-cudnn", "The same by cuDNN, on NVIDIA's GPUs.", limits.cudnn, calls.by_index),
    _called("jax-triton", "JAX's own Pallas kernel for GPUs.", limits.triton, calls.triton),
    _called("tpu-flash", "JAX's own Pallas kernel for TPUs.", limits.flash, calls.flash),
    _called("tpu-splash", "JAX's own Pallas kernel for TPUs that knows windows.", limits.splash, calls.splash),
)
BACKENDS = {backend.name: backend for backend in _TABLE}
