"""Whether a candidate is right: its error against float64, beside that of its definition in the same precision.

Inputs are rounded to the precision under test first, so that the error is the computation's own. An error is the
largest difference, as a share of the largest number that was expected; of several results the worst counts. It may be
twice the definition's, and beyond that 4 units of rounding of the precision under test, to which numbers are rounded on
their way, and 64 of float32, in which sums are taken. (The gradient of a chunked delta rule, which solves a triangular
system, needs 50 of these.) No time is taken of what is wrong.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.attention.candidates import LAWS, Candidate, draw

ON_THE_WAY, IN_SUMS = 4, 64  # units of rounding
# How a definition is compiled, which runs a few times: optimizing it would take longer than it saves.
PLAINLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def with_gradients(function):
    """`function`'s result, and the gradients of its arguments where the last argument is the result's cotangent."""

    def both(*arguments):
        *inputs, d_out = arguments
        out, pullback = jax.vjp(function, *inputs)
        return out, *pullback(d_out)

    return both


def arguments(candidate: Candidate, law: str, length: int, mode: str, dtype, seed: int = 0) -> tuple:
    """What is handed to a function of a candidate: its inputs, and for a backward pass the cotangent of its result."""
    inputs = candidate.cast(candidate.inputs(draw(law, seed), length), dtype)
    if mode == "fwd":
        return inputs
    out = jax.eval_shape(candidate.function, *inputs)
    axis = out.ndim - 2
    cotangent = np.moveaxis(draw("normal", seed + 1)(length, *np.delete(out.shape, axis)), 0, axis)
    return *inputs, jnp.asarray(cotangent, out.dtype)


def check(candidate: Candidate, mode: str, dtype: str, length: int) -> dict:
    """The verdict on a candidate at a length, or at as much of it as the candidate lets check.

    Returns:
      the length; under each law the error with the result in which it is worst, and the definition's; what was allowed;
      `passed`, and the reason if not. `expected` is not for the record: the result under the first law, as it is.
    """
    backward = mode == "fwdbwd"
    length = min(length, candidate.checked_backward if backward else candidate.checked)
    both = with_gradients if backward else lambda function: function
    run = jax.jit(both(candidate.function))
    definition = jax.jit(both(candidate.definition), compiler_options=PLAINLY)
    rounding = ON_THE_WAY * float(jnp.finfo(dtype).eps) + IN_SUMS * float(jnp.finfo(jnp.float32).eps)
    verdict = {"length": length, "laws": {}, "passed": True, "reason": None}
    for law in LAWS:
        inputs = arguments(candidate, law, length, mode, dtype)
        found = run(*inputs)
        verdict.setdefault("expected", jax.tree.leaves(found)[0])
        with jax.enable_x64(True):
            expected = definition(*jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), inputs))
        (error, where), (naive, _) = worst(found, expected), worst(definition(*inputs), expected)
        allowed = 2 * naive + rounding
        verdict["laws"][law] = {"error": error, "where": where, "naive": naive, "allowed": allowed}
        if not error <= allowed and verdict["passed"]:
            verdict["passed"] = False
            verdict["reason"] = (
                f"under the law {law!r}, {length} tokens, {where} is off by {error:.2g} of its scale, where "
                f"{allowed:.2g} is allowed"
            )
    return verdict


def worst(found, expected) -> tuple[float, str]:
    """The largest error of all results, and of which: each as a share of the largest number expected in it."""
    errors = []
    paths, _ = jax.tree.flatten_with_path(found)
    for (path, a), e in zip(paths, jax.tree.leaves(expected), strict=True):
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        off = np.abs(a - e).max() / (np.abs(e).max() or 1.0)
        errors.append((off if np.isfinite(off) else np.inf, _name(path, isinstance(found, tuple))))
    return max(errors)


def begins_alike(out, verdict: dict) -> str | None:
    """Whether a long result is finite and begins as the checked one; None, or what is wrong with it."""
    out, n = np.asarray(out, np.float64), verdict["length"]
    if not np.isfinite(out).all():
        return f"of {out.shape[-2]} tokens, some results are not finite"
    expected = np.asarray(verdict["expected"], np.float64)
    off = np.abs(out[..., :n, :] - expected).max() / (np.abs(expected).max() or 1.0)
    allowed = 2 * verdict["laws"]["normal"]["allowed"]
    if off <= allowed:
        return None
    return (
        f"of {out.shape[-2]} tokens, the first {n} are off by {off:.2g} of their scale, where {allowed:.2g} is allowed"
    )


def _name(path, several):
    """`the result`, or the gradient of an argument by its place, as it stands in the tuple of both."""
    if not several:
        return "the result"
    place, *inside = path
    if place.idx == 0:
        return "the result"
    return f"the gradient of argument {place.idx - 1}" + jax.tree_util.keystr(tuple(inside))
