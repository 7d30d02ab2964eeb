"""Bugs that the field shipped, planted: each a few lines, beside its correct twin, with the law that tells them apart.

A plant is a function that returns `(wrong, right)`, what is handed to the law (a tuple where the law takes several
functions). Its docstring says where the bug was found; pull requests are those that repaired it, unless said.
`tests/test_laws.py` proves that the law raises for the first and is silent for the second.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Plant:
    """A planted bug: the function that grows it, the law that catches it, and the law's own arguments."""

    grow: Callable[[], tuple[Any, Any]]
    law: Callable[..., None]
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.grow.__name__

    def check(self, functions: Any) -> None:
        """Hold the wrong or the right functions against the law."""
        self.law(*(functions if isinstance(functions, tuple) else (functions,)), **self.arguments)


PLANTS: list[Plant] = []


def plant(law: Callable[..., None], **arguments):
    """Enter a bug in the gallery, under the law that catches it."""

    def enter(grow):
        PLANTS.append(Plant(grow, law, arguments))
        return grow

    return enter


def all_plants() -> list[Plant]:
    """Every bug of every room of the gallery."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return PLANTS
