"""What Hypothesis draws: arrays, keys, and sizes that are never equal, so that a swapped axis cannot pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


@functools.cache  # a strategy that is made anew is also looked over anew, at every draw
def arrays(*shape: int, scale: float = 1.0):
    """Float64 arrays with no special structure: small ones number by number, larger ones by a seed."""
    if np.prod(shape) <= 16:
        return hnp.arrays(np.float64, shape, elements=st.integers(-64, 64).map(lambda n: scale * n / 16))
    return st.builds(lambda seed, spread: scale * spread * _normal(seed, shape), seeds, spreads)


@functools.cache
def weights(*shape: int):
    """Float64 arrays of which no entry is zero: for parameters, whose zeros would hide swapped biases."""
    return st.builds(lambda seed: _nonzero(_normal(seed, shape)), seeds)


@functools.cache
def keys():
    """JAX random keys."""
    return st.builds(jax.random.key, seeds)


def normal(key, shape, dtype=jnp.float64):
    """What `jax.random.normal` draws, drawn by NumPy: JAX compiles for each shape, which takes a tenth of a second."""
    return jnp.asarray(_generator(key, *shape).standard_normal(shape), dtype)


def normals(key, shapes, dtype=jnp.float64):
    """An array for each of several shapes."""
    rng = _generator(key, len(shapes))
    return tuple(jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)


def uniform(key, shape, dtype=jnp.float64):
    """Numbers between 0 and 1, drawn likewise."""
    return jnp.asarray(_generator(key, 0, *shape).random(shape), dtype)


def shaken(params, rng, spread=0.5):
    """Float64 parameters near those given, of which nothing is zero. (NumPy adds, or each shape would be compiled.)"""
    return jax.tree.map(lambda p: jnp.asarray(np.asarray(p) + spread * rng.standard_normal(p.shape)), params)


def sizes(*choices: tuple):
    """One of a few tuples of sizes: each is compiled anew, so a record names about three, and other shapes follow."""
    return st.sampled_from(choices)


def mask_and_bias(draw, g, r, t, s):
    """A mask that leaves rows empty, and a bias. They broadcast in several ways: the number of heads says in which."""
    whole, shared, by_head = (g, r, t, s), (t, s), (g, 1, 1, s)
    of_mask, of_bias = {1: (shared, shared), 2: (whole, by_head), 3: (shared, whole)}[g]
    mask = np.random.default_rng(draw(seeds)).random(of_mask) < 0.6
    mask[..., draw(st.integers(0, t - 1)), :] &= draw(st.booleans())
    return mask, draw(arrays(*of_bias))


seeds = st.integers(0, 2**31 - 1)
spreads = st.sampled_from([0.1, 1.0, 3.0])


def _generator(key, *purpose):
    return np.random.default_rng([*np.asarray(jax.random.key_data(key)), *purpose])


def _normal(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape)


def _nonzero(x):
    return np.where(np.abs(x) < 0.01, 0.5, x)
