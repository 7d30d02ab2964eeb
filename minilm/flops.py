"""What a function computes: the floating-point operations of its matrix products, counted from its trace.

XLA's own count takes the body of a loop once, however often it runs: a recurrence over a thousand tokens comes out a
thousand times too low. Here a scan counts as often as it is long, a kernel as often as its grid has cells, and of the
branches of a condition the most expensive.

Blockwise attention has loops that end where the mask does. Where tokens stand is no argument of a model but a constant
of its trace; so what depends on constants alone is computed while counting, and such a loop is followed to its end.
"""

import math
from collections.abc import Callable
from functools import cache, partial

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun


def executed_flops(function: Callable, *arguments, turns: float | None = None) -> int | float:
    """The floating-point operations of all matrix products and triangular solves of `function(*arguments)`.

    A product of `(m, k)` and `(k, n)` counts 2 m n k, a solve of n unknowns for m right-hand sides n² m.

    Args:
      function: anything that JAX can trace.
      arguments: arrays or their shapes.
      turns: how often a loop turns whose end depends on the arguments, or within a kernel on anything (on the mean,
        where there are several).
    Returns:
      the number of operations.
    Raises:
      ValueError: there is such a loop, and `turns` is not given.

    >>> import jax.numpy as jnp
    >>> executed_flops(jnp.matmul, jnp.ones((2, 3)), jnp.ones((3, 5)))
    60
    >>> def repeated(x):
    ...     return jax.lax.scan(lambda x, _: (x @ x, None), x, length=7)[0]
    >>> executed_flops(repeated, jnp.ones((10, 10)))
    14000
    """
    closed = jax.make_jaxpr(function)(*arguments)
    return _count(closed, [None] * len(closed.jaxpr.invars), turns)[0]


# A value that depends on constants alone is a function that computes it when it is asked for; any other is None.


def _count(closed: ClosedJaxpr, values: list, turns):
    """The operations of a program, and the values that it returns."""
    jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.constvars, map(_constant, closed.consts), strict=True))
    known |= dict(zip(jaxpr.invars, values, strict=True))

    def value(atom):
        return _constant(atom.val) if isinstance(atom, Literal) else known.get(atom)

    total = 0
    for equation in jaxpr.eqns:
        operations, results = _count_one(jaxpr, equation, [value(atom) for atom in equation.invars], turns)
        known |= dict(zip(equation.outvars, results, strict=True))
        total += operations
    return total, [value(atom) for atom in jaxpr.outvars]


def _count_one(jaxpr, equation, values, turns):
    kind, parameters = equation.primitive.name, equation.params
    unknown = [None] * len(equation.outvars)
    results = _computed(jaxpr, equation, values) if None not in values and not equation.effects else unknown
    if kind == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted), results
    if kind == "triangular_solve":
        return equation.outvars[0].aval.size * equation.invars[0].aval.shape[-1], results
    inside = _inside(parameters)
    if kind == "scan":
        return _count_scan(parameters, values, turns), results
    if kind == "while":
        return _count_while(parameters, values, turns), results
    if kind == "cond":
        return max(_count(branch, values[1:], turns)[0] for branch in inside), results
    if len(inside) == 1 and len(inside[0].jaxpr.invars) == len(values) and len(inside[0].jaxpr.outvars) == len(unknown):
        operations, returned = _count(inside[0], values, turns)
        return operations, returned if results is unknown else results
    cells = math.prod(parameters["grid_mapping"].grid) if kind == "pallas_call" else 1
    return cells * sum(_count_blindly(closed, turns) for closed in inside), results


def _count_scan(parameters, values, turns):
    body, length = parameters["jaxpr"], parameters["length"]
    if not _ends_by_value(body):
        return length * _count_blindly(body, turns)
    first, second = parameters["num_consts"], parameters["num_consts"] + parameters["num_carry"]
    constants, carry, rows = values[:first], values[first:second], values[second:]
    total = 0
    for i in reversed(range(length)) if parameters["reverse"] else range(length):
        here = [row and partial(lambda row, i: row()[i], row, i) for row in rows]
        operations, returned = _count(body, [*constants, *carry, *here], turns)
        carry, total = returned[: len(carry)], total + operations
    return total


def _count_while(parameters, values, turns):
    condition, body = parameters["cond_jaxpr"], parameters["body_jaxpr"]
    if not _multiplies(body):
        return 0
    first, second = parameters["cond_nconsts"], parameters["cond_nconsts"] + parameters["body_nconsts"]
    of_condition, constants, carry = values[:first], values[first:second], values[second:]
    total = 0
    while (goes_on := _count(condition, [*of_condition, *carry], turns)[1][0]) and goes_on():
        operations, carry = _count(body, [*constants, *carry], turns)
        total += operations
    if goes_on:
        return total
    if turns is None:
        raise ValueError(
            "A loop of this function ends when its arguments say so, so that a trace cannot tell how often it turns: "
            "give `turns`."
        )
    return turns * _count_blindly(body, turns)


def _count_blindly(closed, turns):
    return _count(closed, [None] * len(closed.jaxpr.invars), turns)[0]


def _constant(value):
    return lambda: value


def _computed(jaxpr, equation, values):
    """What an equation gives, computed once, when the first of its results is asked for."""

    @cache
    def results():
        inputs = {x: value() for x, value in zip(equation.invars, values, strict=True) if not isinstance(x, Literal)}
        alone = jaxpr.replace(constvars=[], invars=[*inputs], outvars=equation.outvars, eqns=[equation])
        return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*inputs.values())

    return [partial(lambda i: results()[i], i) for i in range(len(equation.outvars))]


def _multiplies(closed):
    return _has(closed, lambda equation: equation.primitive.name in ("dot_general", "triangular_solve"))


def _ends_by_value(closed):
    return _has(
        closed, lambda equation: equation.primitive.name == "while" and _multiplies(equation.params["body_jaxpr"])
    )


def _has(closed, wanted):
    return any(
        wanted(equation) or any(_has(inner, wanted) for inner in _inside(equation.params)) for equation in closed.eqns
    )


def _inside(parameters):
    leaves = jax.tree.leaves(parameters, is_leaf=lambda p: isinstance(p, ClosedJaxpr | Jaxpr))
    return [
        p if isinstance(p, ClosedJaxpr) else ClosedJaxpr(p, ()) for p in leaves if isinstance(p, ClosedJaxpr | Jaxpr)
    ]
