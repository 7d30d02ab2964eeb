"""How large a variant is, in parameters and in what it keeps of the text, and how to make two of them equally large."""

import functools
from bisect import bisect_left
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from minilm import variants
from minilm.models import mixer_lm
from minilm.shapes import Tokens
from minilm.variants.table import CONVOLUTION, VARIANTS, read

DRAWS, LOUD, NOTICED = 8, 4.0, 1e-3
# The option by which a variant keeps more or less of the text, while the model stays as wide as it is.
KNOBS = {
    "window": "width",
    "dilated": "width",
    "streaming": "width",
    "chunked": "size",
    "based": "width",
    "performer": "features",
    "mamba2": "state",
}


class Sizes(NamedTuple):
    """Of a whole model: its parameters, and the bytes that it keeps of one text once it has read it."""

    parameters: int
    state_bytes: int


def told(text: str, **options) -> str:
    """The same variant with these options instead.

    >>> told("window:width=16", convolution=3)
    'window:width=16,convolution=3'
    """
    name, *rest = text.split(":")
    head = name if name in VARIANTS else ":".join([name, *rest[:1]])
    merged = read(text)[1] | options
    return ":".join([head, *filter(None, [",".join(f"{key}={value}" for key, value in merged.items())])])


def all_options(text: str) -> dict:
    """What a variant was told, and what it has by default."""
    row, options = read(text)
    return row.options | CONVOLUTION | options


def convolutions(text: str, d: int, heads: int) -> str:
    """Which short convolutions stand before the mixer and within it, and how they begin: this decides what is learnt.

    >>> convolutions("nope:convolution=3", 8, 2), convolutions("mha", 8, 2), convolutions("delta-net", 8, 2)
    ('3 random', 'none', 'own 4 random')
    """
    options, mixer = all_options(text), variants.make(told(text, convolution=0), d, heads)
    found = [f"{options['convolution']} {options['initial']}"] if options["convolution"] else []
    for path, leaf in jax.tree.leaves_with_path(jax.eval_shape(lambda key: mixer.init(key, d), jax.random.key(0))):
        if getattr(path[-1], "name", "") == "convolution":
            found.append(f"own {leaf.shape[0]} random")
    return " + ".join(found) or "none"


@functools.cache
def sizes(config: mixer_lm.Config) -> Sizes:
    """Parameters, and bytes of the state after a text of the config's context length, in float32.

    A cache is made as large as it has to be: a window rolls through one of its own width.
    """
    params = jax.eval_shape(lambda key: mixer_lm.init(key, config), jax.random.key(0))
    held = _state_bytes(config, slots(config) or config.context_length)
    return Sizes(sum(leaf.size for leaf in jax.tree.leaves(params)), held)


@functools.cache
def slots(config: mixer_lm.Config) -> int | None:
    """How many tokens a layer's cache has to hold at the context length; None where the state has a fixed size."""
    length = config.context_length
    if _state_bytes(config, length) == _state_bytes(config, length + 1):
        return None
    return reach(told(config.mixer, convolution=0), config.d_model, config.n_heads, length)


def reach_of_all(config: mixer_lm.Config) -> int | None:
    """How many tokens back the whole model reads, layer upon layer; None for all of the context."""
    if slots(config) in (None, config.context_length):
        return None
    return config.n_layers * (slots(config) - 1 + max(all_options(config.mixer)["convolution"] - 1, 0))


@functools.cache
def reach(text: str, d: int, heads: int, length: int) -> int:
    """How many tokens back one layer reads, itself included, of so many: the slots that its cache cannot do without.

    A token behind the mask has a gradient of exactly 0. Where scores decide what is read, a token that is loud enough
    may be read all the same: the first one is drawn anew a few times, four times as loud.
    """
    mixer, (params_key, x_key, first_key) = variants.make(text, d, heads), jax.random.split(jax.random.key(0), 3)
    params, x = mixer.init(params_key, d), jax.random.normal(x_key, (length, d))

    @jax.jit
    def last(x):
        return mixer.apply(params, x, Tokens.arange(length))[-1]

    loud = LOUD * jax.random.normal(first_key, (DRAWS, d))
    change = max(jnp.abs(last(x.at[0].set(first)) - last(x)).max() for first in loud)
    if change > NOTICED * jnp.abs(last(x)).max():
        return length
    gradient = jax.jit(jax.grad(lambda x: last(x) @ jnp.linspace(1, 2, d)))(x)
    return length - int((gradient != 0).any(-1).argmax())


def matched(config: mixer_lm.Config, what: str, target: int) -> mixer_lm.Config:
    """The config with as many parameters, or with a state of as many bytes, as can be had beside the target.

    Parameters are matched by the model's width, in steps that leave every head an even one; a state by the option that
    sets it, where the variant has one (`KNOBS`), and else by the width too.
    """
    name = config.mixer.split(":")[0]
    if what == "state" and name in KNOBS:
        candidates = [replace(config, mixer=told(config.mixer, **{KNOBS[name]: size})) for size in range(1, 513)]
    else:
        even = 2 * config.n_heads
        candidates = [replace(config, d_model=width) for width in range(even, 8 * config.d_model, even)]

    def size(config):
        return sizes(config).parameters if what == "params" else sizes(config).state_bytes

    above = bisect_left(candidates, target, hi=len(candidates) - 1, key=size)
    return min(candidates[max(above - 1, 0) : above + 1], key=lambda config: abs(size(config) - target))


def _state_bytes(config, slots):
    params = jax.eval_shape(lambda key: mixer_lm.init(key, config), jax.random.key(0))
    state = jax.eval_shape(lambda params: mixer_lm.init_state(params, slots, config=config), params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
