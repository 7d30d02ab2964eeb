"""Whether a candidate is right: its error against float64, beside that of its definition in the same precision.

Inputs are rounded to the precision under test first, so that the error is the computation's own. An error is the
largest difference, as a share of the largest number that was expected; of several results the worst counts. It may be
twice the definition's, and beyond that 4 units of rounding of the precision under test, to which numbers are rounded on
their way, and 64 of float32, in which sums are taken. (The gradient of a chunked delta rule, which solves a triangular
system, needs 50 of these.) What is expected to be zero but for float64's own rounding, as the gradient of a number that
is added to all scores of a softmax, is a share of the largest number of all results. No time is taken of what is wrong,
nor where the definition itself is not finite in the precision under test.

All results of a few hundred tokens are compared. Of more, and then under the first law alone, it is those of one token
in 64 or of 32 in all, each by its own scale, and all gradients of these, from the very program whose time is taken.
(Gradients of a variant, whose definition goes token by token, up to 512 tokens.) So what is wrong beyond a few hundred
tokens, and at few of them alone, may pass.

A variant's definition is its own `step`, which may share a function with `apply`, and so a gradient by hand that is
wrong. Therefore the definition's gradient at its input (at no parameter) is held against the slope of its results.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.attention.candidates import LAWS, Candidate, draw
from minilm.shapes import Tokens

RESULT = "the result"
ON_THE_WAY, IN_SUMS = 4, 64  # units of rounding
NOTHING = 1e-12  # of the largest number expected: float64's rounding, and sums of it
STEPS = tuple(10.0**-n for n in range(8, 1, -1))  # for a slope, of which so many neighbours must agree: it is seen
NEIGHBOURS, DIRECTIONS = 3, 3
OFF = 1e-3  # of the gradient's length: more than slopes that are seen are apart
EVERY, FEWEST = 64, 32  # of a long sequence one token in 64 is compared, and 32 at least
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
      `passed`, and the reason if not.
    """
    backward = mode == "fwdbwd"
    length = min(length, candidate.checked_backward if backward else candidate.checked)
    both = with_gradients if backward else lambda function: function
    run = jax.jit(both(candidate.function))
    definition = jax.jit(both(candidate.definition), compiler_options=PLAINLY)
    verdict = {"length": length, "laws": {}, "passed": True, "reason": None}
    for law in LAWS:
        inputs = arguments(candidate, law, length, mode, dtype)
        errors = verdict["laws"][law] = compared(run(*inputs), definition, inputs, dtype)
        if verdict["passed"]:
            verdict |= judged(errors, f"under the law {law!r}, {length} tokens")
    if verdict["passed"] and backward and candidate.kind == "mixer":
        verdict |= slope(candidate, length)
    return verdict


def slope(candidate: Candidate, length: int) -> dict:
    r"""The verdict on the gradient that the definition of a variant has at its input.

    $$ \frac{\bar y \cdot f(x + h v) - \bar y \cdot f(x - h v)}{2 h} = \bar x \cdot v $$

    Along each of some directions v it is asked where a slope is seen, three steps h in a row that agree. There may be
    none: what chooses, as top-k does, chooses anew within a large step, what computes in float32 inside is noise within
    a small one, and what is rounded does not move. Then nothing is known, and `slope` is None.
    """
    with jax.enable_x64(True):
        params, x, d_y = arguments(candidate, LAWS[0], length, "fwdbwd", jnp.float64)
        ahead = jax.value_and_grad(lambda x: jnp.vdot(d_y, candidate.definition(params, x)))
        ahead, errors = jax.jit(ahead, compiler_options=PLAINLY), []
        d_x = np.asarray(ahead(x)[1])
        for seed in range(DIRECTIONS):
            v = np.random.default_rng(seed).standard_normal(x.shape)
            slopes = [float(ahead(x + h * v)[0] - ahead(x - h * v)[0]) / (2 * h) for h in STEPS]
            errors.append(_off(slopes, float(np.vdot(d_x, v)), float(np.linalg.norm(d_x))))
    seen = [error for error in errors if error is not None]
    if not seen or max(seen) <= OFF:
        return {"slope": max(seen, default=None)}
    reason = f"the gradient at the input is not the slope of the result, and off by {max(seen):.2g} of its length"
    return {"slope": max(seen), "passed": False, "reason": reason}


def _off(slopes, expected, length):
    """How far the first slope that is seen is from the expected one; None where none is seen."""
    for alike in np.lib.stride_tricks.sliding_window_view(slopes, NEIGHBOURS):
        middle = np.median(alike)
        scale = max(length, abs(middle))
        if middle and np.ptp(alike) <= OFF * scale:
            return float(abs(middle - expected) / scale)
    return None


def worst(found, expected, by_token: bool = False) -> tuple[float, str]:
    """The largest error of all results, and of which: each as a share of the largest number expected in it.

    With `by_token` of the result, `(..., t, ·)`, each token counts by its own: attention's become smaller with t.
    """
    errors, truth = [], [np.asarray(e, np.float64) for e in jax.tree.leaves(expected)]
    paths, _ = jax.tree.flatten_with_path(found)
    largest = max((np.abs(e).max(initial=0) for e in truth), default=0)
    for (path, a), e in zip(paths, truth, strict=True):
        a = np.asarray(a, np.float64)
        name = _name(path, isinstance(found, tuple))
        alike = tuple(axis for axis in range(e.ndim) if axis != e.ndim - 2) if by_token and name == RESULT else None
        with np.errstate(invalid="ignore"):  # of what is not finite
            scale = np.abs(e).max(axis=alike, keepdims=True)
            scale = np.where(scale <= NOTHING * largest, largest or 1, scale)
            off = (np.abs(a - e) / scale).max()
        errors.append((off if np.isfinite(off) else np.inf, name))
    return max(errors)


def check_long(candidate: Candidate, program, mode: str, dtype: str, length: int, seed: int = 2) -> dict:
    """The verdict on a compiled program at its whole length, by some of its tokens, under the first law.

    Args:
      candidate, mode, dtype, length: what was compiled, for arguments as `arguments` gives them.
      program: what is to be timed.
      seed: of the choice of tokens.
    Returns:
      the tokens that were compared; the error, where it is worst, the definition's and what was allowed; `passed`, and
      the reason if not.
    """
    edges = np.linspace(0, length, 1 + min(length, max(FEWEST, length // EVERY)), dtype=int)
    rows = np.random.default_rng(seed).integers(edges[:-1], edges[1:], dtype=np.int32)
    rows[0], rows[-1] = 0, length - 1
    inputs, definition = arguments(candidate, LAWS[0], length, mode, dtype), candidate.definition_at(rows)
    if mode == "fwd":
        out = program(*inputs)
        found = out[..., rows, :]
    else:
        *inputs, d_out = inputs
        d_some, definition = d_out[..., rows, :], with_gradients(definition)
        out, *gradients = program(*inputs, jnp.zeros_like(d_out).at[..., rows, :].set(d_some))
        inputs, found = (*inputs, d_some), (out[..., rows, :], *gradients)
        if length > candidate.longest_backward:
            inputs, found, definition = inputs[:-1], found[0], candidate.definition_at(rows)
    definition = jax.jit(definition, compiler_options=PLAINLY)
    verdict = {"tokens": len(rows)} | compared(found, definition, inputs, dtype, by_token=True)
    if not np.isfinite(np.asarray(out, np.float64)).all():
        return verdict | {"passed": False, "reason": f"of {length} tokens, some results are not finite"}
    return verdict | judged(verdict, f"at {len(rows)} of {length} tokens")


def next_token(candidate: Candidate, state, dtype: str, length: int, laws: dict) -> dict:
    """The verdict on a state behind so many tokens: what comes next, against a state that read them one by one.

    Args:
      candidate, dtype, length: a mixer, and the tokens that `arguments` gives it under the first law.
      state: what a program made of them.
      laws: of the verdict on its outputs, whose error is allowed here on both sides.
    """
    params, x = arguments(candidate, LAWS[0], length + 1, "fwd", dtype)
    here = Tokens.arange(length)

    def read(state, token):
        x, position = token
        return candidate.mixer.step(params, state, x[None], Tokens(position[None], jnp.zeros(1, jnp.int32)))[0], None

    empty = candidate.mixer.init_state(params, length + 1)
    expected = jax.jit(lambda: jax.lax.scan(read, empty, (x[:-1], here.position))[0], compiler_options=PLAINLY)()
    last = x[-1:], Tokens.arange(1, length)
    found, truth = (candidate.mixer.step(params, each, *last)[1] for each in (state, expected))
    errors = {"error": worst(found, truth)[0], "where": "the token after them", "allowed": 2 * laws[LAWS[0]]["allowed"]}
    return errors | judged(errors, f"of {length} tokens read at once")


def compared(found, definition, inputs, dtype, by_token=False) -> dict:
    """The error of what was found, with where it is worst; the definition's, and what is therefore allowed."""
    with jax.enable_x64(True):
        expected = definition(*jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), inputs))
    (error, where), (naive, _) = (worst(each, expected, by_token) for each in (found, definition(*inputs)))
    rounding = ON_THE_WAY * float(jnp.finfo(dtype).eps) + IN_SUMS * float(jnp.finfo(jnp.float32).eps)
    return {"error": error, "where": where, "naive": naive, "allowed": 2 * naive + rounding}


def judged(errors: dict, where: str) -> dict:
    """Whether they passed, and a sentence if not."""
    error, allowed = errors["error"], errors["allowed"]
    if not math.isfinite(allowed):
        return {"passed": False, "reason": f"{where}, the definition itself is not finite in this precision"}
    if error <= allowed:
        return {"passed": True, "reason": None}
    reason = f"{where}, {errors['where']} is off by {error:.2g} of its scale, where {allowed:.2g} is allowed"
    return {"passed": False, "reason": reason}


def _name(path, several):
    """`the result`, or the gradient of an argument by its place, as it stands in the tuple of both."""
    if not several:
        return RESULT
    place, *inside = path
    if place.idx == 0:
        return RESULT
    return f"the gradient of argument {place.idx - 1}" + jax.tree_util.keystr(tuple(inside))
