r"""Many devices: the only module that knows that there is more than one.

Layers and models compute on whole arrays. Here every array of a state gets a place: the letters of its axes, read off
the parameters' own annotations (`w_up: Float[Array, "d f"]`), are looked up in one table of rules, and the compiler
derives the rest, communication included (GSPMD, arXiv:2105.04663). A mesh is a string:

    data=8             the batch over eight devices, the parameters on each of them
    data=4,model=2     and the heads, the feed-forward width and the vocabulary over two (Megatron, arXiv:1909.08053)
    fsdp=8             the batch and the parameters over the same eight (ZeRO-3, arXiv:1910.02054)

    >>> mesh = make_mesh("data=1")
    >>> mesh.axis_names, mesh.size
    (('data',), 1)
"""

import math
import re
import typing
from collections.abc import Callable

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = {
    "data": "the batch",
    "model": "heads, feed-forward width and vocabulary",
    "fsdp": "the batch, and the parameters' model width",
}
"""What a mesh may be made of, and what each of its axes divides."""

RULES = {"g": "model", "f": "model", "n": "model", "o": "model", "d": "fsdp", "i": "fsdp", "h": "fsdp"}
"""From an axis letter of `minilm.shapes` to the mesh axis that divides it; letters that are absent stay whole."""

BATCH = ("data", "fsdp")
"""The mesh axes that divide a batch between them."""


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
    """Shardings that divide the sequences of a batch, whose arrays end in the axes `(b, t)`, between the devices."""
    axes = tuple(axis for axis in BATCH if axis in mesh.axis_names)
    ways = math.prod(mesh.shape[axis] for axis in axes)

    def place(leaf):
        if leaf.shape[-2] % ways:
            written = " × ".join(f"{axis}={mesh.shape[axis]}" for axis in axes)
            raise ValueError(
                f"A batch of {leaf.shape[-2]} sequences doesn't divide over {written}: choose a batch size that is a "
                f"multiple of {ways}."
            )
        return NamedSharding(mesh, PartitionSpec(*[None] * (leaf.ndim - 2), axes or None, None))

    return jax.tree.map(place, batch)


def placement(text: str) -> tuple[Callable, Callable]:
    """For a mesh like `data=4,model=2`: the function that places a state on it, and the one that places a batch."""
    mesh = make_mesh(text)
    return (
        lambda state: jax.device_put(state, shardings(state, mesh)),
        lambda batch: jax.device_put(batch, batch_sharding(batch, mesh)),
    )


def _annotation(cls, field: str) -> str:
    annotation = cls.__annotations__.get(field)
    for option in (annotation, *typing.get_args(annotation)):
        if hasattr(option, "dim_str"):
            return option.dim_str
    return ""


def _symbols(letters: str, rank: int) -> list[str]:
    """One letter an axis: `i 3*h` divides like `i h`, as gates are packed side by side."""
    symbols = [re.sub(r"[^a-z]", "", word) for word in letters.split()]
    return symbols if len(symbols) == rank else [""] * rank
