"""What every mixer promises, in the two ways in which it reads: a sequence at once, and chunk by chunk."""

import jax
import jax.numpy as jnp
import numpy as np

from minilm import laws
from minilm.shapes import Tokens
from tests.tolerances import FORMULA, LAYER, assert_close

FEW = laws.Search(lengths=(2, 5), examples=5)
SIZE = 8


def drawn_params(mixer, d: int, seed: int = 0, dtype=jnp.float64):
    """Its initial parameters, shaken, so that nothing in them is zero."""
    leaves, structure = jax.tree.flatten(mixer.init(jax.random.key(seed), d))
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    shaken = [w + 0.3 * jax.random.normal(key, w.shape) for key, w in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, [w.astype(dtype) for w in shaken])


def assert_lawful(mixer, d: int):
    """Every law of `minilm.laws` on a causal mixer that keeps documents apart."""
    params = drawn_params(mixer, d)
    compiled = {name: jax.jit(getattr(mixer, name)) for name in ("apply", "step")}

    def at(x, position, document):
        places = (jnp.asarray(np.broadcast_to(p, x.shape[:-1]), jnp.int32) for p in (position, document))
        return compiled["apply"](params, jnp.asarray(x), Tokens(*places))

    def mix(x):
        return at(x, np.arange(x.shape[-2]), 0)

    def step(state, x):
        position, inner = state
        inner, y = compiled["step"](params, inner, jnp.asarray(x), Tokens.arange(len(x), position))
        return (position + len(x), inner), y

    laws.check(
        mix,
        d=d,
        causal=True,
        step=step,
        init_state=lambda: (0, mixer.init_state(params, SIZE, jnp.float64)),
        padded=lambda x, real: at(x, np.where(real, np.cumsum(real) - 1, -1), 0),
        packed=lambda x, document: at(x, np.arange(len(x)) - np.searchsorted(document, document), document),
        batched=mix,
        grad=jax.jit(lambda x, d_y: jax.vjp(mix, jnp.asarray(x))[1](jnp.asarray(d_y))[0]),
        search=FEW,
    ).raise_if_broken()


def assert_padding_is_never_read(mixer, d: int, seed: int):
    """Padding before, between and after the tokens of a chunk changes neither the state nor what they get."""
    params, rng = drawn_params(mixer, d, seed), np.random.default_rng(seed)
    first, x = (jnp.asarray(rng.standard_normal((n, d))) for n in (2, 3))
    state, _ = mixer.step(params, mixer.init_state(params, SIZE, jnp.float64), first, Tokens.arange(2))
    expected_state, expected = mixer.step(params, state, x, Tokens.arange(3, start=2))
    real = np.array([1, 3, 4])
    chunk = jnp.asarray(1e2 * rng.standard_normal((6, d))).at[real].set(x)
    position = jnp.full(6, -1, jnp.int32).at[real].set(jnp.arange(2, 5, dtype=jnp.int32))
    padded_state, y = mixer.step(params, state, chunk, Tokens(position, jnp.zeros_like(position)))
    assert_close(y[real], expected, FORMULA)
    assert_close(padded_state, expected_state, FORMULA)


def assert_precise_in_float32(mixer, d: int):
    """Outputs have the dtype of the input, and in float32 are as good as float32 is."""
    params = drawn_params(mixer, d, dtype=jnp.float32)
    x = jnp.asarray(np.random.default_rng(2).standard_normal((2, 5, d)), jnp.float32)
    y = mixer.apply(params, x, Tokens.arange(5))
    assert y.dtype == jnp.float32
    _, stepped = mixer.step(params, mixer.init_state(params, SIZE), x[0], Tokens.arange(5))
    assert stepped.dtype == jnp.float32
    wide, wide_x = jax.tree.map(lambda a: a.astype(jnp.float64), (params, x))
    expected = mixer.apply(wide, wide_x, Tokens.arange(5))
    assert_close(y, expected, LAYER, jnp.float32)
    assert_close(stepped, expected[0], LAYER, jnp.float32)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    assert mixer.apply(half, x, Tokens.arange(5)).dtype == jnp.float32
    assert mixer.apply(half, x.astype(jnp.bfloat16), Tokens.arange(5)).dtype == jnp.bfloat16
    assert mixer.step(half, mixer.init_state(half, SIZE), x[0], Tokens.arange(5))[1].dtype == jnp.float32
