"""What every mixer with a state owes, in two calls: the laws of mixers, and that padding leaves the state alone."""

import jax
import jax.numpy as jnp
import numpy as np

from minilm import laws
from minilm.shapes import Tokens
from tests.tolerances import FORMULA, assert_close

FEW = laws.Search(lengths=(1, 2, 5), examples=5)


def parameters(mixer, d, seed=0, dtype=jnp.float64):
    """A mixer's initial parameters, each moved a little, so that none is zero or equal to another."""
    leaves, structure = jax.tree.flatten(mixer.init(jax.random.key(seed), d))
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(structure, [jnp.asarray(w + 0.1 * rng.normal(size=w.shape), dtype) for w in leaves])


def numbered(real):
    """Tokens that count the real places and mark the others as padding."""
    real = jnp.asarray(real)
    return Tokens(jnp.where(real, jnp.cumsum(real, axis=-1) - 1, -1), jnp.zeros(real.shape, jnp.int32))


def check_laws(mixer, d, search=FEW):
    """Causal; whole, in pieces and token by token the same; padding ignored; a batch one by one; and differentiable."""
    params = parameters(mixer, d)

    def padded(x, real):
        return mixer.apply(params, jnp.asarray(x), numbered(real))

    def mix(x):
        return padded(x, np.ones(len(x), bool))

    def step(state, x):
        position, inner = state
        inner, y = mixer.step(params, inner, jnp.asarray(x), Tokens.arange(len(x), position))
        return (position + len(x), inner), y

    laws.check(
        jax.jit(mix),
        d=d,
        causal=True,
        step=step,
        init_state=lambda: (0, mixer.init_state(params, 1, jnp.float64)),
        padded=jax.jit(padded),
        batched=lambda x: mixer.apply(params, jnp.asarray(x), Tokens.arange(x.shape[1])),
        grad=lambda x, d_y: jax.vjp(mix, jnp.asarray(x))[1](jnp.asarray(d_y))[0],
        search=search,
    ).raise_if_broken()


def check_padding(mixer, d, seed=0):
    """Padding in the middle of a chunk, a thousand times as loud, changes neither the state nor the other outputs."""
    params, rng = parameters(mixer, d), np.random.default_rng(seed)
    real = np.array([True, False, True, True, False, False, True, False])
    x = jnp.asarray(np.where(real[:, None], 1, 1e3) * rng.normal(size=(len(real), d)))
    before, _ = mixer.step(params, mixer.init_state(params, 1), x[:3], Tokens.arange(3))
    with_padding, y = mixer.step(params, before, x, numbered(real))
    without, expected = mixer.step(params, before, x[real], numbered(real[real]))
    assert_close(with_padding, without, FORMULA)
    assert_close(y[real], expected, FORMULA)
    nothing, _ = mixer.step(params, before, x, numbered(np.zeros(len(real), bool)))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, nothing, before)))


def check_axes(mixer, d):
    """Two leading axes are as one by one, whether each sequence has tokens of its own or all share them."""
    params, rng = parameters(mixer, d), np.random.default_rng(0)
    x, real = jnp.asarray(rng.normal(size=(2, 3, 4, d))), rng.random((2, 3, 4)) < 0.7
    own = [[mixer.apply(params, x[i, j], numbered(real[i, j])) for j in range(3)] for i in range(2)]
    assert_close(mixer.apply(params, x, numbered(real)), jnp.asarray(own), FORMULA)
    shared = [[mixer.apply(params, x[i, j], numbered(real[0, 0])) for j in range(3)] for i in range(2)]
    assert_close(mixer.apply(params, x, numbered(real[0, 0])), jnp.asarray(shared), FORMULA)


def check_dtypes(mixer, d):
    """Outputs are of the input's dtype; states of float32 or wider, before a step and after it."""
    for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
        params, kept = parameters(mixer, d, dtype=dtype), jnp.promote_types(dtype, jnp.float32)
        x, state = jnp.ones((3, d), dtype), mixer.init_state(params, 1)
        after, y = mixer.step(params, state, x, Tokens.arange(3))
        assert mixer.apply(params, x, Tokens.arange(3)).dtype == y.dtype == dtype
        assert {leaf.dtype for leaf in jax.tree.leaves((state, after))} == {kept}
