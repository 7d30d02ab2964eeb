"""The table, and how a name with its options becomes a mixer."""

import difflib
import functools
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from minilm.backends import Attention
from minilm.layers.linear_attention.convolved import BEGINNINGS, convolved_mixer
from minilm.sentences import one_line, said
from minilm.shapes import Mixer

Family = Literal["softmax", "positions", "state", "selection"]


@dataclass(frozen=True)
class Variant:
    """A row: `build(d, heads, **options) -> Mixer`, of which family it is, and the paper that it is from."""

    build: Callable[..., Mixer]
    family: Family
    paper: str

    @property
    def about(self) -> str:
        """What the table says of it, in one line."""
        return (inspect.getdoc(self.build) or "").split("\n\n")[0].replace("\n", " ")

    @property
    def options(self) -> dict[str, object]:
        """What it can be told, with the defaults."""
        parameters = [*inspect.signature(self.build).parameters.values()][2:]
        return {p.name: p.default for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


VARIANTS: dict[str, Variant] = {}
CONVOLUTION = {"convolution": 0, "initial": "random"}  # options of all: a short convolution before the mixer
TRUTHS = {"True": True, "true": True, "False": False, "false": False}
# What options of minilm's own rows may be. Of 0 there would be none; a head may begin to forget at any rate from 1 up.
EXTENTS = {"chunk", "fastest", "features", "groups", "length", "rate", "size", "state", "stride", "width"}
EXTENTS |= {"buckets", "trained"}
COUNTS = ("depth", "first", "latent", "n", "random", "rotary", "sinks")
SCALES = ("cap", "factor", "fastest", "theta")


def variant(family: Family, *, paper: str):
    """A row of the table, under the name of the function, `_` read as `-`."""

    def enter(build):
        name = build.__name__.replace("_", "-")
        if name in VARIANTS:
            raise ValueError(
                f"There is a variant {name!r} already, of {VARIANTS[name].build.__module__}: name it anew."
            )
        VARIANTS[name] = Variant(build, family, paper)
        return build

    return enter


def heads_of(d: int, heads: int, groups: int | None = None) -> dict[str, int]:
    """The sizes g, r, k and v of heads that share the width d, in so many groups of key/value heads.

    >>> heads_of(64, 8, groups=2)
    {'g': 2, 'r': 4, 'k': 8, 'v': 8}
    """
    groups = heads if groups is None else groups
    if d % heads:
        raise ValueError(f"{heads} heads cannot share a width of {d}: choose a number of heads that divides it.")
    if groups < 1 or heads % groups:
        raise ValueError(
            f"{heads} query heads cannot be shared out among {groups} groups: choose a divisor of {heads}."
        )
    return {"g": groups, "r": heads // groups, "k": d // heads, "v": d // heads}


def usual(rule, bias=None) -> Attention:
    """Attention by the softmax of scores: on a CPU in tiles where they are many, else all at once.

    Any compiler divides it over devices. What is computed in tiles has a gradient, and no second one.
    """
    return Attention(rule, bias, kernels=False)


@functools.cache
def make(text: str, d: int, heads: int) -> Mixer:
    """The mixer that a name means, with options behind a colon: `gqa:groups=2`, `mha:convolution=4`.

    Every row also takes `convolution`, the width of a short convolution before the mixer (0 for none), and `initial`,
    how that begins: random or identity. One setting gives one record, which `jit` knows again.

    Args:
      text: a name of the table, or `module:function` for a row elsewhere; then options `:name=value,name=value`.
      d: the width of the model.
      heads: the number of (query) heads.
    Returns:
      a `Mixer`.
    Raises:
      ValueError: no such row or option, a value of another kind, sizes that do not divide, or a function elsewhere
        that makes no `Mixer`.
    """
    row, options = read(text)
    common = {name: options.pop(name, default) for name, default in CONVOLUTION.items()}
    mixer = _built(row, text, d, heads, options)
    width, initial = common["convolution"], common["initial"]
    plain = width == 0 and initial in BEGINNINGS
    return mixer if plain else convolved_mixer(mixer, width=width, initial=initial)


def read(text: str) -> tuple[Variant, dict]:
    """The row that a text names, and the options that it sets."""
    name, *rest = text.split(":")
    if name in VARIANTS:
        row = VARIANTS[name]
    elif rest and "=" not in rest[0]:
        name = f"{name}:{rest.pop(0)}"
        row = Variant(_imported(name), "softmax", "")
    else:
        close = difflib.get_close_matches(name, VARIANTS, n=1)
        hint = f", did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"There is no attention variant {name!r}{hint} There are {', '.join(VARIANTS)}.")
    known = row.options | CONVOLUTION
    options = {}
    for part in (part for part in ",".join(rest).split(",") if part):
        key, equals, value = part.partition("=")
        if key not in known or not equals:
            raise ValueError(f"{name} has no option {part!r}: give name=value, of {', '.join(known)}.")
        if key in options:
            raise ValueError(f"{text} gives the option {key} twice: give it once.")
        options[key] = _converted(key, value, known[key], ours=name in VARIANTS)
    return row, options


def _imported(place):
    module, _, function = place.partition(":")
    sys.path.insert(0, here := os.getcwd())  # a file beside whoever calls is found, as by `python -m`
    try:
        build = getattr(importlib.import_module(module), function)
        inspect.signature(build)
        return build
    except (Exception, SystemExit) as error:  # whatever a module of one's own does while it is read
        sentence = f"{place} was taken for a variant outside of minilm, and could not be had: {said(error)}."
        raise ValueError(sentence) from None
    finally:
        sys.path.remove(here)


def _built(row, text, d, heads, options):
    try:
        mixer = row.build(d, heads, **options)
    except ValueError as error:
        raise ValueError(one_line(error)) from error
    except Exception as error:  # of a function of one's own, perhaps of other arguments
        raise ValueError(f"{text} could not be made of a width of {d} and {heads} heads: {said(error)}.") from error
    if not isinstance(mixer, Mixer):
        raise ValueError(f"{text} makes a {type(mixer).__name__}: expected a `minilm.shapes.Mixer`.")
    return mixer


def _converted(key, value, default, ours):
    kind = next((kind for kind in (bool, int, float) if isinstance(default, kind)), str)
    must = "True or False" if kind is bool else f"of the kind {kind.__name__}"
    try:
        converted = TRUTHS[value] if kind is bool else kind(value)
    except (KeyError, ValueError):
        raise ValueError(f"The option {key} is {value!r}, and must be {must}.") from None
    if ours:  # a row elsewhere may mean something else by the same word
        _check(key, value, converted)
    if isinstance(converted, int) and abs(converted) >= 2**31:
        raise ValueError(f"The option {key} is {value}, and must be below {2**31}.")
    return converted


def _check(key, value, converted):
    if key in EXTENTS and converted < 1:
        raise ValueError(f"The option {key} is {value}, and must be at least 1.")
    if key in COUNTS and converted < 0:
        raise ValueError(f"The option {key} is {value}, and must be 0 or more.")
    if key in SCALES and not 0 < converted < math.inf:
        raise ValueError(f"The option {key} is {value}, and must be a finite number above 0.")
