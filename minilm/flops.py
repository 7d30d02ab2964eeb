"""What a function computes: the floating-point operations of its matrix products, counted from its trace.

XLA's own count takes the body of a loop once, however often it runs: a recurrence over a thousand tokens comes out a
thousand times too low. Here a scan counts as often as it is long, a kernel as often as its grid has cells, and of the
branches of a condition the most expensive.

Blockwise attention has loops that end where the mask does. Where tokens stand is no argument of a model but a constant
of its trace; so what depends on constants alone is computed while counting, and with it how often such a loop turns.
"""

import math
from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun


def executed_flops(function: Callable, *arguments, turns: int | float | None = None) -> int | float:
    """The floating-point operations of all matrix products and triangular solves of `function(*arguments)`.

    A product of `(m, k)` and `(k, n)` counts 2 m n k, a solve of n unknowns for m right-hand sides n² m.

    Args:
      function: anything that JAX can trace.
      arguments: arrays or their shapes.
      turns: how often a loop turns that does not count up to a known number, or that stands within a kernel (on the
        mean, where there are several).
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
    inside, results = _inside(parameters), _computed(jaxpr, equation, values)
    if kind == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted), results
    if kind == "triangular_solve":
        return equation.outvars[0].aval.size * equation.invars[0].aval.shape[-1], results
    if kind == "scan":
        return _count_scan(parameters, values, turns), results
    if kind == "while":
        return _count_while(parameters, values, turns), results
    if kind == "cond":
        return max(_count(branch, values[1:], turns)[0] for branch in inside), results
    if kind == "optimization_barrier":
        return 0, values
    if kind in ("pallas_call", "shard_map"):  # a cell and a device have parts of the values, and a place of their own
        cells = math.prod(parameters["grid_mapping"].grid) if kind == "pallas_call" else 1
        return cells * sum(_count_blindly(closed, turns) for closed in inside), results
    if len(inside) == 1 and len(inside[0].jaxpr.invars) == len(values):  # it is called
        return _count(inside[0], values, turns)
    return sum(_count_blindly(closed, turns) for closed in inside), results


def _count_scan(parameters, values, turns):
    body, length = parameters["jaxpr"], parameters["length"]
    if not _has(body, _ends_by_value):
        return length * _count_blindly(body, turns)
    constants, carry, rows = _parts(parameters, values)
    total = 0
    for i in reversed(range(length)) if parameters["reverse"] else range(length):
        here = [row and partial(lambda row, i: row()[i], row, i) for row in rows]
        operations, returned = _count(body, [*constants, *carry, *here], turns)
        carry, total = returned[: len(carry)], total + operations
    return total


def _parts(parameters, values):
    """Of a scan's values those that stay, those that are carried, and those of which each turn has its row."""
    if "ft_in" in parameters:  # JAX 0.12
        stay, carried = (len(part) for part in parameters["ft_in"].unpack()[:2])
    else:
        stay, carried = parameters["num_consts"], parameters["num_carry"]
    return values[:stay], values[stay : stay + carried], values[stay + carried :]


def _count_while(parameters, values, turns):
    body, condition = parameters["body_jaxpr"], parameters["cond_jaxpr"]
    inner = _count_blindly(body, turns) + _count_blindly(condition, turns)
    first, upper = _bounds(condition.jaxpr, body.jaxpr, parameters, values)
    if inner and first and upper:
        begin, end = (np.asarray(bound()).astype(object) for bound in (first, upper))  # int8 holds no 200, uint8 no −2
        longest = np.max(end - begin)  # of a batch, all turn until the last has ended
        return max(int(longest), 0) * inner
    if inner and turns is None:
        raise ValueError(
            "A trace cannot tell how often a loop of this function turns, for it does not count by ones to a number "
            "that is known: give `turns`."
        )
    return inner and turns * inner


def _bounds(condition, body, parameters, values):
    """From and to where `jax.lax.fori_loop` counts, as far as they are known: while i < n, i becomes i + 1."""
    skipped, own = parameters["cond_nconsts"], parameters["body_nconsts"]
    carried, carry = condition.invars[skipped:], values[skipped + own :]
    if [e.primitive.name for e in condition.eqns] != ["lt"] or condition.eqns[0].outvars != condition.outvars:
        return None, None
    counter, end = condition.eqns[0].invars
    if counter not in carried:
        return None, None
    i = carried.index(counter)
    steps = [e for e in body.eqns if body.outvars[i] in e.outvars and e.primitive.name == "add"]
    counted = any(body.invars[own + i] in e.invars and any(getattr(x, "val", 0) == 1 for x in e.invars) for e in steps)
    if not (counted and jnp.issubdtype(counter.aval.dtype, jnp.integer)):
        return None, None
    if isinstance(end, Literal):
        return carry[i], _constant(end.val)
    if end in condition.invars[:skipped]:
        return carry[i], values[condition.invars.index(end)]
    n = carried.index(end) if end in carried else None
    stays = n is not None and body.outvars[n] is body.invars[own + n]
    return (carry[i], carry[n]) if stays else (None, None)


def _count_blindly(closed, turns):
    return _count(closed, [None] * len(closed.jaxpr.invars), turns)[0]


def _constant(value):
    return lambda: value


def _computed(jaxpr, equation, values):
    """What an equation gives, computed once, when the first of its results is asked for; or None for each."""
    if None in values or equation.effects or not (values or equation.primitive.name == "iota"):
        return [None] * len(equation.outvars)

    @cache
    def results():
        inputs = {x: value() for x, value in zip(equation.invars, values, strict=True) if not isinstance(x, Literal)}
        alone = jaxpr.replace(constvars=[], invars=[*inputs], outvars=equation.outvars, eqns=[equation])
        return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*inputs.values())

    return [partial(lambda i: results()[i], i) for i in range(len(equation.outvars))]


def _multiplies(equation):
    return equation.primitive.name in ("dot_general", "triangular_solve")


def _ends_by_value(equation):
    return equation.primitive.name == "while" and _has(equation.params["body_jaxpr"], _multiplies)


def _has(closed, wanted):
    return any(wanted(e) or any(_has(inner, wanted) for inner in _inside(e.params)) for e in closed.jaxpr.eqns)


def _inside(parameters):
    programs = jax.tree.leaves(parameters, is_leaf=lambda p: isinstance(p, ClosedJaxpr | Jaxpr))
    programs = [p for p in programs if isinstance(p, ClosedJaxpr | Jaxpr)]
    return [p if isinstance(p, ClosedJaxpr) else ClosedJaxpr(p, ()) for p in programs]
