"""Every tolerance of the tests, in one table; no other number stands for one anywhere else.

A comparison allows `C * u * scale`, where u is the unit roundoff of the precision under test and the scale is the
largest magnitude in the expected result. C says what is compared:
"""

import jax
import jax.numpy as jnp
import numpy as np

REDUCTION = 8  # one sum or product, rounded once or twice on its way
LAYER = 64  # a layer, or its gradient
SHARDED = 16  # the same float32 program on several devices, which add in another order
MODEL = 1024  # a whole model, or many steps of a recurrence
FORMULA = 4.5e5  # float64 against a reference that sums in another order: 1e-10 at u = 2.2e-16
DIFFERENCE = 4.5e9  # a gradient against central differences with h = 1e-5, whose own error is h^2: 1e-6
RECURSION = 4.5e7  # float64 losses over fifty optimizer steps, each of which amplifies the last one's rounding: 1e-8
SAMPLING = 0.05  # what 9,000 normal draws say of their deviation or correlation: five of its standard errors
CHI_SQUARE = 4.0  # the statistic over its categories, whose mean is 1: exceeded once in 10^5 draws at eleven


def unit_roundoff(dtype) -> float:
    """The relative spacing of numbers in `dtype`."""
    return float(jnp.finfo(dtype).eps)


def assert_close(actual, expected, C, dtype=jnp.float64, what="result"):
    """Assert that every leaf of `actual` is within C·u of `expected`, relative to the largest magnitude in it."""
    actual_leaves, structure = jax.tree.flatten(actual)
    expected_leaves, expected_structure = jax.tree.flatten(expected)
    assert len(actual_leaves) == len(expected_leaves), f"{what}: {structure} is not {expected_structure}"
    expected_leaves = [np.asarray(leaf, np.float64) for leaf in expected_leaves]
    scale = max((np.abs(leaf).max() for leaf in expected_leaves if leaf.size), default=0.0)
    bound = C * unit_roundoff(dtype) * (scale or 1.0)
    for a, e in zip(actual_leaves, expected_leaves, strict=True):
        a = np.asarray(a, np.float64)
        assert a.shape == e.shape, f"{what}: shape {a.shape} where {e.shape} was expected"
        assert np.isfinite(a).all() or not np.isfinite(e).all(), f"{what}: not finite"
        error = np.abs(a - e).max() if a.size else 0.0
        assert error <= bound, f"{what}: off by {error:.3g} where {bound:.3g} is allowed (scale {scale:.3g})\n{a}\n{e}"


FLOPS_ESTIMATE = 0.1  # products alone, against a compiler that counts every addition: at the widths tested
BYTES_ESTIMATE = 0.25  # what differentiation keeps, against what a compiler that fuses and recomputes does hold


def assert_estimate(estimate, measured, share):
    """Assert that an estimate misses the measurement by no more than a share of it."""
    assert abs(estimate - measured) <= share * measured, f"estimated {estimate:.4g}, measured {measured:.4g}"
