r"""Many devices: the only module that knows that there is more than one.

Layers and models compute on whole arrays. Here every array of a state gets a place: the letters of its axes, read off
the parameters' own annotations (`w_up: Float[Array, "d f"]`), are looked up in one table of rules, and the compiler
derives the rest, communication included (GSPMD, arXiv:2105.04663). A mesh is a string:

    data=8             the batch over eight devices, the parameters on each of them
    data=4,model=2     and the heads, the feed-forward width and the vocabulary over two (Megatron, arXiv:1909.08053)
    fsdp=8             the batch and the parameters over the same eight (ZeRO-3, arXiv:1910.02054)
    data=2,sequence=4  the batch over two, and each of its sequences over four (arXiv:2310.01889, arXiv:2309.14509)

    >>> mesh = make_mesh("data=1")
    >>> mesh.axis_names, mesh.size
    (('data',), 1)
"""

import math
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from minilm.pytrees import register

AXES = {
    "data": "the batch",
    "model": "heads, feed-forward width and vocabulary",
    "fsdp": "the batch, and the parameters' model width",
    "sequence": "the positions of every sequence",
}
"""What a mesh may be made of, and what each of its axes divides."""

RULES = {"g": "model", "f": "model", "n": "model", "o": "model", "d": "fsdp", "i": "fsdp", "h": "fsdp"}
"""From an axis letter of `minilm.shapes` to the mesh axis that divides it; letters that are absent stay whole."""

BATCH = ("data", "fsdp")
"""The mesh axes that divide a batch between them."""

SEQUENCE = "sequence"
"""The mesh axis that divides each sequence."""


def make_mesh(text: str) -> Mesh:
    """A mesh from `data=4,model=2`: as many devices as the product of its sizes, in the order JAX lists them."""
    sizes = {}
    for part in text.split(","):
        name, _, size = part.strip().partition("=")
        if name not in AXES or name in sizes or not size.isdecimal() or int(size) < 1:
            known = "; ".join(f"{axis} ({what})" for axis, what in AXES.items())
            raise ValueError(
                f"A mesh is written like data=4,model=2, each axis once, with a size from 1; {part!r} was given. "
                f"The axes are: {known}."
            )
        sizes[name] = int(size)
    wanted, present = math.prod(sizes.values()), len(jax.devices())
    if wanted > present:
        raise ValueError(
            f"The mesh {text} needs {wanted} devices, and JAX sees {present}. Choose smaller sizes; to try a mesh on a "
            f"CPU, set XLA_FLAGS=--xla_force_host_platform_device_count={wanted}."
        )
    devices = jax.devices()[:wanted]
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


def axis_letters(tree, annotation: str = ""):
    """The letters of every array's axes, in the tree's structure; "" where nothing annotates an array.

    An optimizer's state holds its moments in the structure of the parameters, so they find the same letters.

    >>> import jax.numpy as jnp
    >>> from minilm.layers.linear import LinearParams
    >>> axis_letters(LinearParams(w=jnp.ones((3, 5)), b=jnp.ones(5)))
    LinearParams(w='i o', b='o')
    """
    if tree is None:
        return None
    if hasattr(tree, "_fields"):
        return type(tree)(*(axis_letters(getattr(tree, name), _annotation(type(tree), name)) for name in tree._fields))
    if isinstance(tree, (tuple, list)):
        return type(tree)(axis_letters(branch, annotation) for branch in tree)
    if isinstance(tree, dict):
        return {name: axis_letters(branch, annotation) for name, branch in tree.items()}
    return annotation


def shardings(tree, mesh: Mesh, rules: dict[str, str] | None = None):
    """A sharding for every array of the tree: each of its axes over the mesh axis that its letter's rule names.

    Where a letter, or a mesh axis, comes twice in one array, its first occurrence wins. Raises ValueError for a rule
    whose mesh axis doesn't divide the array's.
    """
    rules = RULES if rules is None else rules

    def place(path, leaf, letters):
        taken, spec = set(), []
        for letter, size in zip(_symbols(letters, len(leaf.shape)), leaf.shape, strict=True):
            axis = rules.get(letter)
            if axis not in mesh.axis_names or axis in taken:
                spec.append(None)
                continue
            if size % mesh.shape[axis]:
                name = jax.tree_util.keystr(path, simple=True, separator=".")
                raise ValueError(
                    f"{name} has {size} along its axis {letter!r}, which {axis}={mesh.shape[axis]} doesn't divide: "
                    f"choose a size of {axis} that divides {size}, or leave {axis} out."
                )
            taken.add(axis)
            spec.append(axis)
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map_with_path(place, tree, axis_letters(tree))


def batch_sharding(batch, mesh: Mesh):
    """Shardings that divide a batch, whose arrays end in the axes `(b, t)`, between the devices, in both axes."""
    axes = tuple(axis for axis in BATCH if axis in mesh.axis_names)
    ways = math.prod(mesh.shape[axis] for axis in axes)

    def place(leaf):
        if leaf.shape[-2] % ways:
            written = " × ".join(f"{axis}={mesh.shape[axis]}" for axis in axes)
            raise ValueError(
                f"A batch of {leaf.shape[-2]} sequences, or a part of one where steps accumulate, doesn't divide over "
                f"{written}: choose a batch size of which each part is a multiple of {ways}."
            )
        along = SEQUENCE if SEQUENCE in mesh.axis_names else None
        _divisible(leaf.shape[-1] if along else 0, "positions", mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * (leaf.ndim - 2), axes or None, along))

    return jax.tree.map(place, batch)


def placement(text: str) -> tuple[Callable, Callable]:
    """For a mesh like `data=4,model=2`: the function that places a state on it, and the one that places a batch."""
    mesh = make_mesh(text)
    return (
        lambda state: jax.device_put(state, shardings(state, mesh)),
        lambda batch: jax.device_put(batch, batch_sharding(batch, mesh)),
    )


def over_sequence(attend, mesh: Mesh) -> "OverSequence":
    """An attention of whole arrays, out of what each device does with its piece: any mixer takes it.

    Args:
      attend: a `Ring` or `Ulysses` of `minilm.layers.attention.ring`, or another pytree that is called like them inside
        of a `shard_map`. Its arrays are the same on all devices.
      mesh: one with an axis `sequence`, whose devices divide queries and keys between them, both in the order in which
        they come. Its other axes stay with the compiler.
    Returns:
      an `attend(q, k, v, query, key)` of one sequence.
    Raises:
      ValueError: the mesh has no such axis; or, when called, its size doesn't divide the queries or the keys.

    >>> import jax.numpy as jnp
    >>> from minilm.layers.attention.masks import Causal
    >>> from minilm.layers.attention.ring import Ring
    >>> from minilm.shapes import Tokens
    >>> attend = over_sequence(Ring(Causal()), make_mesh("sequence=1"))
    >>> q, k, v = jnp.zeros((1, 1, 2, 3)), jnp.zeros((1, 2, 3)), jnp.array([[[4.0], [8.0]]])
    >>> attend(q, k, v, Tokens.arange(2), Tokens.arange(2)).ravel().tolist()
    [4.0, 6.0]
    """
    if SEQUENCE not in mesh.axis_names:
        written = ",".join(f"{axis}={size}" for axis, size in mesh.shape.items())
        raise ValueError(f"The mesh {written} has no axis that divides a sequence: add {SEQUENCE}=2, or what you have.")
    return OverSequence(attend, mesh)


@register
@dataclass(frozen=True)
class OverSequence:
    """What `over_sequence` makes: an `attend` whose queries and keys lie on the devices of the axis `sequence`."""

    attend: Any
    mesh: Mesh = field(metadata={"static": True})

    def __call__(self, q, k, v, query, key):
        """Attention of one sequence, `(g, r, t, v)`."""
        _divisible(q.shape[2], "queries", self.mesh)
        _divisible(k.shape[1], "keys", self.mesh)
        return _over_sequence(self, q, k, v, query, key)


@jax.jit
def _over_sequence(over, q, k, v, query, key):
    whole, tokens = PartitionSpec(), PartitionSpec(SEQUENCE)
    queries, keys = PartitionSpec(None, None, SEQUENCE), PartitionSpec(None, SEQUENCE)
    # An attention's own loops start from zeros that know of no device, which check_vma would refuse.
    return jax.shard_map(
        lambda attend, *pieces: attend(*pieces),
        mesh=over.mesh,
        in_specs=(whole, queries, keys, keys, tokens, tokens),
        out_specs=queries,
        axis_names={SEQUENCE},
        check_vma=False,
    )(over.attend, q, k, v, query, key)


def _divisible(length: int, what: str, mesh: Mesh):
    devices = mesh.shape.get(SEQUENCE, 1)
    if length % devices:
        raise ValueError(
            f"{length} {what} don't divide over {SEQUENCE}={devices}: pad them to {length + -length % devices} (at "
            f"position −1 none sees them), or choose a size of {SEQUENCE} that divides {length}."
        )


def _annotation(cls, name: str) -> str:
    annotation = cls.__annotations__.get(name)
    for option in (annotation, *typing.get_args(annotation)):
        if hasattr(option, "dim_str"):
            return option.dim_str
    return ""


def _symbols(letters: str, rank: int) -> list[str]:
    """One letter an axis: `i 3*h` divides like `i h`, as gates are packed side by side."""
    symbols = [re.sub(r"[^a-z]", "", word) for word in letters.split()]
    return symbols if len(symbols) == rank else [""] * rank
