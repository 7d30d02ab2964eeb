"""What JAX traces a function to, for tests of what is computed in which precision."""

import jax


def equations(jaxpr):
    """Every equation of a jaxpr, those of its loops and inner functions included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from equations(getattr(inner, "jaxpr", inner))


def dots(jaxpr, of="dtype"):
    """The dtypes, or the shapes, of (left, right, result) of every matrix product of a jaxpr, however deep."""
    for equation in equations(jaxpr):
        if equation.primitive.name == "dot_general":
            yield tuple(str(getattr(v.aval, of)) for v in (*equation.invars, *equation.outvars))


def arithmetic(jaxpr):
    """The dtypes of the results of everything that rounds and is no matrix product."""
    rounding = ("add", "sub", "mul", "div", "exp", "log", "reduce_sum", "add_any")
    return {str(e.outvars[0].aval.dtype) for e in equations(jaxpr) if e.primitive.name in rounding}
