"""What a function computes: the floating-point operations of its matrix products, counted from its trace.

XLA's own count takes the body of a loop once, however often it runs: a recurrence over a thousand tokens comes out a
thousand times too low. Here a scan counts as often as it is long, a kernel as often as its grid has cells, and of the
branches of a condition the most expensive.
"""

import math
from collections.abc import Callable

import jax


def executed_flops(function: Callable, *arguments, turns: float | None = None) -> int | float:
    """The floating-point operations of all matrix products and triangular solves of `function(*arguments)`.

    A product of `(m, k)` and `(k, n)` counts 2 m n k, a solve of n unknowns for m right-hand sides n² m.

    Args:
      function: anything that JAX can trace.
      arguments: arrays or their shapes.
      turns: how often a loop turns whose end depends on values (on the mean, where there are several). Blockwise
        attention has such loops, over the tiles that a mask reaches.
    Returns:
      the number of operations.
    Raises:
      ValueError: there is a loop whose end depends on values, and `turns` is not given.

    >>> import jax.numpy as jnp
    >>> executed_flops(jnp.matmul, jnp.ones((2, 3)), jnp.ones((3, 5)))
    60
    >>> def repeated(x):
    ...     return jax.lax.scan(lambda x, _: (x @ x, None), x, length=7)[0]
    >>> executed_flops(repeated, jnp.ones((10, 10)))
    14000
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr, turns)


def _count(jaxpr, turns):
    return sum(_count_one(equation, turns) for equation in jaxpr.eqns)


def _count_one(equation, turns):
    kind, parameters = equation.primitive.name, equation.params
    if kind == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    if kind == "triangular_solve":
        return equation.outvars[0].aval.size * equation.invars[0].aval.shape[-1]
    inner = sum(_count(jaxpr, turns) for jaxpr in _inside(parameters))
    if kind == "scan":
        return parameters["length"] * inner
    if kind == "cond":
        return max(_count(branch.jaxpr, turns) for branch in parameters["branches"])
    if kind == "pallas_call":
        return math.prod(parameters["grid_mapping"].grid) * inner
    if kind == "while" and inner:
        if turns is None:
            raise ValueError(
                "A loop of this function ends when its values say so, so that a trace cannot tell how often it turns: "
                "give `turns`."
            )
        return turns * inner
    return inner


def _inside(parameters):
    leaves = jax.tree.leaves(parameters, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr"))
    return [getattr(p, "jaxpr", p) for p in leaves if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
