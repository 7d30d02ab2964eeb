"""What a function returned: read as arrays, and held against the structure and the shape that its law names."""

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

LAWS, NUMPY = (os.path.join(os.path.dirname(file), "") for file in (__file__, np.__file__))


class Unlike(Exception):  # noqa: N818, nothing went wrong: it is the sentence about what came back
    """What a function returned is not of the kind, the structure or the shape that its law names."""


def array(result: Any) -> np.ndarray:
    """A copy, as NumPy sees it, for the next call may write to the same memory.

    A PyTorch tensor leaves its graph and its device.
    """
    try:
        numbers = np.asarray(result.detach().cpu() if hasattr(result, "detach") else result).copy()
        if numbers.dtype.kind in "OSU":
            [float(entry) for entry in numbers.ravel()]
    except (TypeError, ValueError) as error:
        raise Unlike(f"what the function returned is no array of numbers that NumPy reads: {_line(error)}") from error
    return numbers


def leaves(tree: Any) -> list[np.ndarray]:
    """The arrays of nested tuples, lists and dictionaries, in order."""
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, tuple | list | Iterator):
        return [leaf for branch in tree for leaf in leaves(branch)]
    return [] if tree is None else [array(tree)]


def shaped(result: Any, shape: tuple[int, ...], what: str = "the output") -> np.ndarray:
    """The array that was returned, of exactly that shape."""
    a = array(result)
    if a.shape != shape:
        raise Unlike(f"{what} has shape {a.shape} where {shape} was expected")
    return a


def rows(result: Any, n: int, what: str = "the output") -> np.ndarray:
    """The array that was returned, of n rows, whatever their shape."""
    a = array(result)
    if a.shape[:1] != (n,):
        raise Unlike(f"{what} has shape {a.shape} where ({n}, ...) was expected")
    return a


def number(result: Any, what: str) -> float:
    """The one number that was returned."""
    a = array(result)
    if a.size != 1:
        raise Unlike(f"{what} has shape {a.shape} where one number was expected")
    return float(a.ravel()[0])


def state_and_output(result: Any, what: str) -> tuple[Any, Any]:
    """The two that a step returned."""
    try:
        state, y = result
    except (TypeError, ValueError):
        some = f"{len(result)} things" if isinstance(result, tuple | list) else type(result).__name__
        raise Unlike(f"{what} returned {some} where (state, y) was expected") from None
    return state, y


def paired(actual: Any, expected: Any, what: str, whose: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The arrays of one structure, each beside that of another, which has as many."""
    a, e = leaves(actual), leaves(expected)
    if len(a) != len(e):
        raise Unlike(f"the number of arrays in {what} is {len(a)}, where {whose} has {len(e)}")
    return zip(a, e, strict=True)


def one_token(sampled: Any) -> Any:
    """What was drawn, if it is not several."""
    shape = tuple(getattr(sampled, "shape", ()))
    if math.prod(shape) != 1:
        raise Unlike(f"what was drawn has shape {shape} where one token was expected")
    return sampled


def raised(error: Exception) -> str:
    """What an error says, as a sentence: that the function raised it only where its own code is seen to have run."""
    if isinstance(error, Unlike):
        return str(error)
    theirs = any(not file.startswith(NUMPY) for file in _beyond_the_laws(error))
    return f"the function{'' if theirs else ', or reading what it returned,'} raised {_line(error)}"


def _beyond_the_laws(error):
    """The files whose code ran, when it was raised, from the last line of a law inwards."""
    files, traceback = [], error.__traceback__
    while traceback:
        file, traceback = traceback.tb_frame.f_code.co_filename, traceback.tb_next
        files = [] if file.startswith(LAWS) else [*files, file]
    return files


def _line(error):
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
