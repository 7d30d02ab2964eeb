"""What every mixer promises, in the two ways in which it reads: a sequence at once, and chunk by chunk.

Nearly all is checked at one length, for each other one would be compiled anew. What is shorter is filled up with
padding, as loud as it may be, since that nothing reads padding is the promise on which the others then rest; and
`laws_hold` lets lengths vary. What is not the mixer's own is done by NumPy, for the same reason.
"""

from collections.abc import Callable
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minilm import laws
from minilm.shapes import Mixer, Tokens
from tests.tolerances import DIFFERENCE, FORMULA, LAYER, assert_close

T = 11  # tokens of a text, of a chunk, and of a cache
LOUD = 1e3
STEP = 1e-5


def slow(*values):
    """Parameters of a test, each of them a program more, that are asked among the slow proofs."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


class Subject(NamedTuple):
    """A mixer of width d with parameters of which none is zero, its empty state, and its two ways to read, compiled."""

    mixer: Mixer
    d: int
    params: Any
    state: Callable
    apply: Callable
    step: Callable

    def __repr__(self):
        return f"a mixer of width {self.d}"  # Hypothesis prints what failed, and the arrays are many

    def whole(self, x):
        return np.asarray(self.apply(self.params, x, placed(np.arange(len(x)))))

    def read(self, x, cuts, rng):
        """The state and the outputs after pieces, each somewhere in a chunk of padding."""
        state, start, outputs = self.state(), 0, []
        for piece in np.split(np.asarray(x), cuts):
            where = np.sort(rng.permutation(T)[: len(piece)])
            chunk, position = LOUD * rng.standard_normal((T, self.d)), np.full(T, -1, np.int32)
            chunk[where], position[where] = piece, np.arange(start, start + len(piece))
            state, y = self.step(self.params, state, chunk, placed(position))
            start, outputs = start + len(piece), [*outputs, np.asarray(y)[where]]
        return state, np.concatenate(outputs)


def subject(mixer: Mixer, d: int, seed: int = 0) -> Subject:
    params = drawn_params(mixer, d, seed)
    state = jax.jit(lambda: mixer.init_state(params, T, jnp.float64))
    return Subject(mixer, d, params, state, compiled(mixer.apply), compiled(mixer.step))


def compiled(f: Callable) -> Callable:
    """`jax.jit` that makes arrays of JAX of its arguments even where it is disabled, as it is under mutants."""
    jitted = jax.jit(f)
    return lambda *args: jitted(*jax.tree.map(jnp.asarray, args))


def drawn_params(mixer, d: int, seed: int = 0, dtype=jnp.float64):
    """Its initial parameters, shaken, so that nothing in them is zero."""
    # Uncompiled, each of a row's shapes would be compiled for itself.
    leaves, structure = jax.tree.flatten(jax.jit(mixer.init, static_argnums=1)(jax.random.key(seed), d))
    rng = np.random.default_rng(seed)
    shaken = [np.asarray(w) + 0.3 * rng.standard_normal(w.shape) for w in leaves]
    return structure.unflatten([jnp.asarray(w.astype(dtype)) for w in shaken])


def assert_one_mixer(mixer: Mixer, other: Mixer, d: int):
    """Both begin with the same parameters, and compute the same, at once and in steps."""
    params, x, tokens = drawn_params(mixer, d), np.random.default_rng(0).standard_normal((T, d)), Tokens.arange(T)
    for begun in zip(*(jax.tree.leaves(drawn_params(one, d)) for one in (mixer, other)), strict=True):
        np.testing.assert_array_equal(*begun)
    whole = other.apply(params, jnp.asarray(x), tokens)
    assert_close(mixer.apply(params, jnp.asarray(x), tokens), whole, FORMULA)
    assert_close(mixer.step(params, mixer.init_state(params, T, x.dtype), jnp.asarray(x), tokens)[1], whole, FORMULA)


def placed(position, document=0) -> Tokens:
    return Tokens(*(np.broadcast_to(n, np.shape(position)).astype(np.int32) for n in (position, document)))


def numbered(real) -> Tokens:
    """Tokens that count the real places and mark the others as padding."""
    real = np.asarray(real)
    return placed(np.where(real, real.cumsum(-1) - 1, -1))


def drawn(s: Subject, seed: int):
    rng = np.random.default_rng(seed)
    return rng, rng.standard_normal((T, s.d))


def assert_the_future_is_not_seen(s: Subject, seed: int):
    """Not in the last bit, though it be a thousand times as loud."""
    rng, x = drawn(s, seed)
    first = rng.integers(1, T)
    changed = np.concatenate([x[:first], LOUD * rng.standard_normal((T - first, s.d))])
    np.testing.assert_array_equal(s.whole(changed)[:first], s.whole(x)[:first])
    assert np.abs(s.whole(changed)[first] - s.whole(x)[first]).max() > 0


def assert_pieces_make_the_whole(s: Subject, seed: int):
    """However a text is cut and wherever its pieces stand in their chunks, outputs and the state are the same."""
    rng, x = drawn(s, seed)
    cuts = np.flatnonzero(rng.random(T - 1) < rng.choice([0.2, 0.8])) + 1
    expected_state, expected = s.step(s.params, s.state(), x, placed(np.arange(T)))
    assert_close(expected, s.whole(x), FORMULA)
    assert_close(s.read(x, cuts, rng), (expected_state, expected), FORMULA)


def assert_tokens_make_the_whole(s: Subject, seed: int):
    """One by one, in chunks that hold nothing else, as generation reads them."""
    _, x = drawn(s, seed)
    state, outputs = s.state(), []
    for t in range(T):
        state, y = s.step(s.params, state, x[t : t + 1], placed([t]))
        outputs.append(y)
    assert_close(np.concatenate(outputs), s.whole(x), FORMULA)


def assert_padding_is_never_read(s: Subject, seed: int):
    """Before, between and after tokens: these get what they would get without it, and a state is kept bit for bit."""
    rng, x = drawn(s, seed)
    real = rng.random(T) < 0.6
    real[rng.integers(T)] = True
    y = np.asarray(s.apply(s.params, np.where(real[:, None], x, LOUD * x), numbered(real)))
    assert np.isfinite(y).all()
    in_front = np.concatenate([x[real], LOUD * x[~real]])
    assert_close(y[real], s.whole(in_front)[: real.sum()], FORMULA)
    state, _ = s.read(x[:3], (), rng)
    after, _ = s.step(s.params, state, LOUD * x, numbered(np.zeros(T, bool)))
    jax.tree.map(np.testing.assert_array_equal, after, state)


def assert_a_batch_is_one_by_one(s: Subject, seed: int, *, shared: bool):
    """With two leading axes, of which all sequences stand at the same places, or each at its own."""
    rng = np.random.default_rng(seed)
    x, real = rng.standard_normal((2, 3, T, s.d)), rng.random((2, 3, T)) < (1.0 if shared else 0.7)
    tokens = numbered(real)
    y = np.asarray(s.apply(s.params, x, placed(np.arange(T)) if shared else tokens))
    for at in np.ndindex(2, 3):
        alone = np.asarray(s.apply(s.params, x[at], jax.tree.map(lambda n, at=at: n[at], tokens)))
        assert_close(y[at][real[at]], alone[real[at]], FORMULA)


def assert_documents_are_kept_apart(s: Subject, seed: int):
    """For a mixer whose rule says so: of two documents in one row, each gets what it would get alone."""
    rng, x = drawn(s, seed)
    first = rng.integers(1, T)
    position, document = np.arange(T), np.arange(T) >= first
    y = s.apply(s.params, x, placed(np.where(document, position - first, position), document))
    alone = np.asarray(s.apply(s.params, np.roll(x, -first, 0), numbered(position < T - first)))
    assert_close(y, np.concatenate([s.whole(x)[:first], alone[: T - first]]), FORMULA)


def assert_weights_begin_apart(mixer: Mixer, d: int):
    """No two are drawn with one key: the first numbers of both would rise and fall together."""
    leaves = [np.ravel(w) for w in jax.tree.leaves(jax.jit(mixer.init, static_argnums=1)(jax.random.key(0), d))]
    several = [w for w in leaves if w.size > 5 and len(set(w.tolist())) == w.size]
    for a, b in combinations(several, 2):
        n = min(a.size, b.size)
        assert (np.argsort(a[:n]) != np.argsort(b[:n])).any()


def assert_lawful(mixer: Mixer, d: int, *, documents: bool = True):
    """All of the above, and dtypes, for a mixer whose sizes are all different."""
    assert_weights_begin_apart(mixer, d)
    s = subject(mixer, d)
    promises = [assert_the_future_is_not_seen, assert_pieces_make_the_whole, assert_padding_is_never_read]
    for promise in [*promises, *[assert_documents_are_kept_apart] * documents]:
        for seed in range(3):
            promise(s, seed)
    assert_dtypes(s, (jnp.bfloat16, jnp.float32), (jnp.float32, jnp.bfloat16), (jnp.float32, jnp.float64))


def assert_dtypes(s: Subject, *dtypes):
    """An output has the dtype of its input, and a state that of its parameters, or float32, before and after a step."""
    for weights, inputs in dtypes:
        params = jax.tree.map(lambda w, dtype=weights: jax.ShapeDtypeStruct(w.shape, dtype), s.params)
        x, tokens = jax.ShapeDtypeStruct((T, s.d), inputs), Tokens.arange(T)
        state = jax.eval_shape(lambda params: s.mixer.init_state(params, T), params)
        after, stepped = traced(s.mixer.step, params, state, x, tokens)
        assert stepped.dtype == traced(s.mixer.apply, params, x, tokens).dtype == inputs
        assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
        floats = {leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)}
        assert floats <= {jnp.dtype(weights), jnp.dtype(jnp.float32)}


def traced(f: Callable, *arguments):
    """The shapes that f returns, traced anew: JAX remembers a function's trace, and a mutant is the same function."""
    return jax.eval_shape(lambda *same: f(*same), *arguments)


def assert_precise_in_float32(s: Subject):
    """At once and in a step, float32 is as good as float32 is."""
    params, x = jax.tree.map(lambda a: np.asarray(a, np.float32), (s.params, drawn(s, 2)[1]))
    y = s.apply(params, x, placed(np.arange(T)))
    _, stepped = s.step(params, s.mixer.init_state(params, T), x, placed(np.arange(T)))
    assert y.dtype == stepped.dtype == jnp.float32
    wide, wide_x = jax.tree.map(lambda a: a.astype(np.float64), (params, x))
    assert_close([y, stepped], [s.apply(wide, wide_x, placed(np.arange(T)))] * 2, LAYER, jnp.float32)


def assert_gradient(s: Subject, seed: int, *, smooth: bool = True):
    """Finite among padding and in padding alone; of parameters and input together, the slope of central differences."""
    rng, x = drawn(s, seed)
    d_y, real = rng.standard_normal(x.shape), rng.random(T) < 0.7

    @jax.jit
    def value_and_gradient(arguments, tokens):
        return jax.value_and_grad(lambda a: jnp.vdot(d_y, s.mixer.apply(*a, tokens)))(arguments)

    for tokens in (numbered(real), numbered(real & False)):
        _, gradient = value_and_gradient((s.params, x), tokens)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    if smooth:
        at = placed(np.arange(T))
        # Performer's projection is drawn and not trained.
        moving = jax.tree.map_with_path(lambda path, a: getattr(path[-1], "name", "") != "projection", (s.params, x))
        direction = jax.tree.map(lambda a, m: m * rng.standard_normal(a.shape), (s.params, x), moving)
        plus, here, minus = (
            value_and_gradient(jax.tree.map(lambda a, v, h=h: np.asarray(a) + h * v, (s.params, x), direction), at)
            for h in (STEP, 0.0, -STEP)
        )
        slope = sum(np.vdot(*pair) for pair in zip(*map(jax.tree.leaves, (here[1], direction)), strict=True))
        magnitude = sum(np.abs(g).sum() for g in jax.tree.leaves(here[1]))
        assert_close([(plus[0] - minus[0]) / (2 * STEP), magnitude], [slope, magnitude], DIFFERENCE)


def laws_hold(s: Subject, *, smooth: bool = True):
    """The laws of `minilm.laws`, at lengths from 1 to 7."""

    def padded(x, real):
        return s.apply(s.params, jnp.asarray(x), numbered(real))

    def step(state, x):
        position, inner = state
        inner, y = s.step(s.params, inner, jnp.asarray(x), Tokens.arange(len(x), position))
        return (position + len(x), inner), y

    def mix(x):
        return padded(x, np.ones(len(x), bool))

    laws.check(
        mix,
        d=s.d,
        causal=True,
        step=step,
        init_state=lambda: (0, s.state()),
        padded=padded,
        grad=jax.jit(lambda x, d_y: jax.vjp(mix, x)[1](d_y)[0]) if smooth else None,
        batched=lambda x: s.apply(s.params, jnp.asarray(x), Tokens.arange(x.shape[1])),
        search=laws.Search(lengths=(1, 2, 7), examples=5),
    ).raise_if_broken()
