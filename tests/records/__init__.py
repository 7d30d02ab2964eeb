"""The laws' table: one record for each public layer, on which `tests/test_layers.py` runs every law that applies.

A new layer needs one record here and gets its tests for free; `tests/test_architecture.py` fails while it has none.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis.strategies import SearchStrategy


@dataclass(frozen=True)
class Record:
    """What the laws need to know of a layer.

    layer      the JAX function, called with the drawn arguments and `static` as keywords
    reference  the NumPy function of the same name and arguments, returning (out, saved)
    backward   its gradient: (saved, d_out) -> one gradient per positional argument, None for what has none;
               None only where a layer is not differentiable (its output is not of floats)
    arguments  draws the positional arguments, as float64 (and integer) NumPy arrays in their own containers
    static     keyword arguments, the same for both
    batched    which positional argument takes leading axes (the law "a batch equals one by one"); None if none does
    oracles    independent implementations, package -> function of the same arguments; each gives the float64 output.
               PyTorch's takes and gives tensors, through which it finds the gradients too
    smooth     False where central differences do not apply (a kink, a table look-up)
    precise    False where a lower precision has no simple bound (an argument that is itself rounded, as an angle)
    statistic  True where the result is a statistic of its input (a loss), in float32 or wider and not its dtype
    typed      False where a keyword names the dtype of the result
    """

    layer: Callable[..., Any]
    reference: Callable[..., Any]
    backward: Callable[..., Any] | None
    arguments: SearchStrategy[tuple]
    static: dict[str, Any] = field(default_factory=dict)
    batched: int | None = None
    oracles: dict[str, Callable[..., Any]] = field(default_factory=dict)
    smooth: bool = True
    precise: bool = True
    statistic: bool = False
    typed: bool = True
    label: str = ""

    @property
    def name(self) -> str:
        """The layer's path below `minilm.layers`, such as `linear.matmul`, with the label of its variant."""
        module = self.layer.__module__.removeprefix("minilm.layers.").removeprefix("minilm.")
        return f"{module}.{self.layer.__name__}" + (f"[{self.label}]" if self.label else "")


def all_records() -> list[Record]:
    """Every record of every module in this folder."""
    modules = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    return [record for module in modules for record in module.RECORDS]
