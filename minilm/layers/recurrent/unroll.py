"""The loop over time, written once for every cell: unrolled, reversed, in both directions, in layers, truncated.

A cell is one step of one sequence, `(params, state, x) -> (state, y)`. Anything of that form can be unrolled.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Directions(NamedTuple):
    """Whatever a bidirectional layer holds twice, its parameters and its states: one for each direction of time."""

    forward: Any
    backward: Any


def unroll(cell: Callable, params, state, xs: Float[Array, "... t i"], length=None):
    r"""Feeds a sequence to a cell, step by step.

    $$ (s_t, y_t) = \text{cell}(\theta, s_{t-1}, x_t), \qquad t = 1, \dots, n $$

    Padding, the steps after a sequence's length n, neither changes the state nor receives a gradient, whatever stands
    there; its outputs are zero. A sequence of no steps returns the state it was given.

    Args:
      cell: `(params, state, x) -> (state, y)`, one step of one sequence.
      params: the cell's parameters θ, the same at every step.
      state: $s_0$, whose leaves have the leading axes of xs.
      xs: inputs, `(..., t, i)`.
      length: n, an integer for each sequence, `(...)`, at most t; None where nothing is padding.
    Returns:
      `(state, ys)`: $s_n$, and the outputs `(..., t, h)`.
    Raises:
      ValueError: the leading axes of state or length are not those of xs.

    Reference: `minilm.reference.recurrent.unroll.unroll`.

    >>> def running_sum(params, state, x):
    ...     return state + x, state + x
    >>> state, ys = unroll(running_sum, None, jnp.array([10.0]), jnp.array([[1.0], [2.0], [3.0]]), length=2)
    >>> state.tolist(), ys.tolist()
    ([13.0], [[11.0], [13.0], [0.0]])
    """
    _check(state, xs, length)
    return _scan(cell, params, state, xs, length)


def unroll_reverse(cell: Callable, params, state, xs: Float[Array, "... t i"], length=None):
    r"""Feeds a sequence to a cell from its true end to its beginning.

    $$ (s_t, y_t) = \text{cell}(\theta, s_{t+1}, x_t), \qquad t = n, \dots, 1 $$

    Padding is skipped before anything is read, so a ragged sequence starts at its own end. Outputs keep the place of
    their inputs.

    Args:
      cell, params, xs, length: as for `unroll`.
      state: $s_{n+1}$, whose leaves have the leading axes of xs.
    Returns:
      `(state, ys)`: $s_1$, and the outputs `(..., t, h)`.
    Raises:
      ValueError: the leading axes of state or length are not those of xs.

    Reference: `minilm.reference.recurrent.unroll.unroll_reverse`.

    >>> def running_sum(params, state, x):
    ...     return state + x, state + x
    >>> _, ys = unroll_reverse(running_sum, None, jnp.array([10.0]), jnp.array([[1.0], [2.0], [3.0]]), length=2)
    >>> ys.tolist()
    [[13.0], [12.0], [0.0]]
    """
    _check(state, xs, length)
    return _scan(cell, params, state, xs, length, reverse=True)


def bidirectional(cell: Callable, params: Directions, state: Directions, xs: Float[Array, "... t i"], length=None):
    r"""Reads a sequence in both directions, so that every output has seen the whole of it.

    $$ y_t = [\overrightarrow{y}_t, \overleftarrow{y}_t] $$

    Args:
      cell, xs, length: as for `unroll`.
      params: the cell's parameters in each direction.
      state: the state before the first step of each direction.
    Returns:
      `(state, ys)`: the last state of each direction, and the outputs `(..., t, 2 h)`.
    Raises:
      ValueError: the leading axes of state or length are not those of xs.

    Reference: `minilm.reference.recurrent.unroll.bidirectional`. Paper: Schuster and Paliwal (1997).
    """
    forward, ys_forward = unroll(cell, params.forward, state.forward, xs, length)
    backward, ys_backward = unroll_reverse(cell, params.backward, state.backward, xs, length)
    return Directions(forward, backward), jnp.concatenate([ys_forward, ys_backward], axis=-1)


def stacked(cell: Callable, params: tuple, state: tuple, xs: Float[Array, "... t i"], length=None, layer=unroll):
    r"""Several layers, each of which reads the outputs of the one below.

    $$ y^{(0)} = x, \qquad (s^{(l)}, y^{(l)}) = \text{layer}(\theta^{(l)}, s^{(l)}, y^{(l-1)}) $$

    Args:
      cell, xs, length: as for `unroll`.
      params: the parameters of each layer, from the bottom.
      state: the state of each layer before the first step.
      layer: `unroll`, `unroll_reverse` or `bidirectional`.
    Returns:
      `(state, ys)`: the last state of each layer, and the outputs of the top one.
    Raises:
      ValueError: params and state are not of the same number of layers, or as the layer raises it.

    Reference: `minilm.reference.recurrent.unroll.stacked`.
    """
    if len(params) != len(state):
        raise ValueError(
            f"expected a state for each of the {len(params)} layers of params, got {len(state)}: give one a layer."
        )
    after, ys = [], xs
    for layer_params, layer_state in zip(params, state, strict=True):
        layer_state, ys = layer(cell, layer_params, layer_state, ys, length)
        after.append(layer_state)
    return tuple(after), ys


def truncated_unroll(cell: Callable, params, state, xs: Float[Array, "... t i"], length=None, *, segment: int):
    r"""Unrolls with truncated backpropagation through time: states cross a segment's border, gradients do not.

    $$ (s_t, y_t) = \text{cell}(\theta, \bar s_{t-1}, x_t) $$

    Here $\bar s_t$ is $s_t$, taken as a constant wherever t > 0 is a multiple of the segment's length. Values are
    those of `unroll`. To go on over more text than one call holds, hand the returned state to the next call: to the
    gradient with respect to the parameters, it is a constant there.

    Args:
      cell, params, state, xs, length: as for `unroll`.
      segment: steps between borders.
    Returns:
      `(state, ys)`: as `unroll`.
    Raises:
      ValueError: segment is less than 1, or the leading axes of state or length are not those of xs.

    Reference: `minilm.reference.recurrent.unroll.truncated_unroll`. Paper: Williams and Peng (1990).
    """
    if segment < 1:
        raise ValueError(f"expected a segment of at least 1 step, got {segment}: choose how far gradients may reach.")
    _check(state, xs, length)
    return _scan(cell, params, state, xs, length, segment=segment)


# Compiled once for each cell, so that calling `unroll` again costs no second trace. No faster on a CPU were: all inputs
# in one product before the loop, several steps at each turn, and the weights' gradient from saved states after it.
@partial(jax.jit, static_argnames=("cell", "segment", "reverse"))
def _scan(cell, params, state, xs, length, *, segment=None, reverse=False):
    cell = jax.checkpoint(cell, policy=_is_expensive, prevent_cse=False)
    weights, structure = jax.tree.flatten(params)
    pieces = [_in_pieces(w) for w in weights]

    def one_sequence(state, xs, length):
        def step(state, inputs):
            x, is_border, is_inside = inputs
            params = structure.unflatten(_joined(*piece) for piece in pieces)
            if is_border is not None:
                state = _choose(is_border, jax.lax.stop_gradient(state), state)
            if is_inside is None:
                return cell(params, state, x)
            # Padding is replaced as well as masked: the gradient of a masked NaN would still be NaN.
            after, y = cell(params, state, jnp.where(is_inside, x, 0))
            return _choose(is_inside, after, state), _choose(is_inside, y, jax.tree.map(jnp.zeros_like, y))

        t = jnp.arange(xs.shape[0])
        is_inside = None if length is None else t < length
        # A sequence that has ended crosses no more borders: its state stays, and so does the state's gradient.
        is_border = None if segment is None else (t % segment == 0) & (t > 0) & (True if length is None else is_inside)
        return jax.lax.scan(step, state, (xs, is_border, is_inside), reverse=reverse)

    for _ in xs.shape[:-2]:
        one_sequence = jax.vmap(one_sequence)
    return one_sequence(state, xs, length)


def _in_pieces(w):
    """The first row of a matrix and the rest, joined inside the loop; what is none, or may be divided, stays whole.

    The backward pass adds the gradient of each step to what its loop carries. XLA on a CPU, up to JAX 0.10, adds a bare
    product one number at a time, but the two slices of one sixteen at a time. The joined matrix is the same at every
    step, so it is made once. Of what is divided over devices, a row would have to be sent to the others.

    >>> [_joined(*_in_pieces(jnp.ones(shape))).shape for shape in ((), (2,), (1, 2), (0, 2), (3, 2))]
    [(), (2,), (1, 2), (0, 2), (3, 2)]
    """
    return (w[:1], w[1:]) if jnp.ndim(w) > 1 and jax.device_count() == 1 else (w, None)


def _joined(first, rest):
    return first if rest is None else jnp.concatenate([first, rest])


def _is_expensive(primitive, *_, **__):
    """What the backward pass keeps of each step; sums and products of gates it computes again, for less than a read."""
    return primitive.name in ("dot_general", "tanh", "logistic")


def _choose(condition, if_true, if_false):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)


def _check(state, xs, length):
    leading = xs.shape[:-2]
    for leaf in jax.tree.leaves(state):
        if leaf.shape[: len(leading)] != leading:
            raise ValueError(
                f"expected a state for each sequence, with the leading axes {leading} of xs, got the shape "
                f"{leaf.shape}: repeat it, with jnp.broadcast_to for instance."
            )
    if length is not None and jnp.shape(length) != leading:
        raise ValueError(
            f"expected a length for each sequence, of the leading axes {leading} of xs, got the shape "
            f"{jnp.shape(length)}: give one integer a sequence."
        )
