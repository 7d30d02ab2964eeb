"""The laws that every layer obeys, run on every record of the table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.records import all_records
from tests.tolerances import DIFFERENCE, FORMULA, LAYER, assert_close

RECORDS = all_records()
STEP = 1e-5


def every(records):
    return pytest.mark.parametrize("record", records, ids=[record.name for record in records])


def differentiable(records):
    return [record for record in records if record.backward is not None]


def is_float(leaf):
    return jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.floating)


def split(arguments):
    """The float leaves, which have gradients, and a function that puts them back between the others."""
    leaves, structure = jax.tree.flatten(arguments)
    floats = [leaf for leaf in leaves if is_float(leaf)]

    def join(floats):
        remaining = iter(floats)
        return jax.tree.unflatten(structure, [next(remaining) if is_float(leaf) else leaf for leaf in leaves])

    return floats, join


def cast(arguments, dtype):
    """To JAX arrays, the floats among them in `dtype`."""
    # NumPy rounds and a device takes it as it is, for `jnp.asarray` would compile a program for each shape.
    return jax.tree.map(lambda a: jax.device_put(np.asarray(a, dtype) if is_float(a) else a), arguments)


def float_dtypes(tree):
    return {leaf.dtype for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)}


def exact(leaf):
    """A rounded array's own values, in NumPy's float64 where they are floats."""
    return np.asarray(leaf, np.float64 if jnp.issubdtype(leaf.dtype, jnp.floating) else None)


@functools.cache
def pullback(record_name):
    """The gradients of a record's layer with respect to the float leaves, in one program."""
    (record,) = (record for record in RECORDS if record.name == record_name)

    @jax.jit
    def gradients(arguments, d_out):
        floats, join = split(arguments)
        (d_floats,) = jax.vjp(lambda floats: record.layer(*join(floats), **record.static), floats)[1](d_out)
        return d_floats

    return gradients


def cotangents(data, out):
    """A random gradient of a random scalar with respect to `out`, in its structure."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31 - 1), label="cotangent seed"))
    return jax.tree.map(lambda leaf: rng.standard_normal(np.shape(leaf)), out)


def inner(tree, other):
    """The inner product of two trees of arrays."""
    return sum(np.vdot(a, b) for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True))


def absolute(tree):
    return jax.tree.map(np.abs, tree)


def reference_gradients(record, saved, d_out, arguments):
    """The hand-derived gradients of the float leaves, in order; a gradient given as None stands for zero."""
    gradients = record.backward(saved, d_out)
    gradients = gradients if len(arguments) > 1 or type(gradients) is tuple else (gradients,)
    found = []
    for argument, gradient in zip(arguments, gradients, strict=True):
        leaves, structure = jax.tree.flatten(argument)
        zeros = [np.zeros(np.shape(leaf)) for leaf in leaves]
        filled = zeros if gradient is None else structure.flatten_up_to(gradient)
        found += [g for leaf, g in zip(leaves, filled, strict=True) if is_float(leaf)]
    return found


@every(RECORDS)
@given(data=st.data())
def test_layer_equals_its_reference(record, data):
    arguments = data.draw(record.arguments)
    expected, _ = record.reference(*arguments, **record.static)
    actual = record.layer(*cast(arguments, jnp.float64), **record.static)
    assert_close(actual, expected, FORMULA)
    assert not record.typed or float_dtypes(actual) <= {jnp.dtype(jnp.float64)}


@every(differentiable(RECORDS))
@given(data=st.data())
def test_gradient_equals_the_hand_derived_one(record, data):
    arguments = data.draw(record.arguments)
    out, saved = record.reference(*arguments, **record.static)
    d_out = cotangents(data, out)
    actual = pullback(record.name)(*cast((arguments, d_out), jnp.float64))
    assert_close(actual, reference_gradients(record, saved, d_out, arguments), FORMULA)


@every([record for record in differentiable(RECORDS) if record.smooth])
@given(data=st.data())
def test_reference_gradient_equals_central_differences(record, data):
    arguments = data.draw(record.arguments)
    out, saved = record.reference(*arguments, **record.static)
    d_out = cotangents(data, out)
    floats, join = split(arguments)
    gradients = reference_gradients(record, saved, d_out, arguments)
    direction = cotangents(data, floats)

    def along(h):
        moved, _ = record.reference(*join([x + h * v for x, v in zip(floats, direction, strict=True)]), **record.static)
        return inner(d_out, moved)

    slope = inner(gradients, direction)
    # What the difference is off by does not vanish where gradient and output do: hence the one beside each output.
    magnitude = inner(absolute(gradients), absolute(direction))
    magnitude += inner(absolute(d_out), jax.tree.map(lambda y: 1 + np.abs(y), out))
    difference = (along(STEP) - along(-STEP)) / (2 * STEP)
    assert_close([slope, magnitude], [difference, magnitude], DIFFERENCE)


NARROW = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=["bf16", "f32"])


@every([record for record in RECORDS if record.typed])
@NARROW
@settings(max_examples=3)
@given(data=st.data())
def test_layer_preserves_its_dtype(record, dtype, data):
    rounded = cast(data.draw(record.arguments), dtype)
    promised = jax.eval_shape(lambda: record.layer(*rounded, **record.static))  # traced, not compiled
    assert float_dtypes(promised) <= {jnp.dtype(jnp.float32 if record.statistic else dtype)}


@pytest.mark.slow
@every([record for record in RECORDS if record.typed])
@NARROW
@settings(max_examples=3)
@given(data=st.data())
def test_layer_keeps_its_promise_and_stays_close_in_a_narrower_dtype(record, dtype, data):
    rounded = cast(data.draw(record.arguments), dtype)
    actual = record.layer(*rounded, **record.static)
    assert float_dtypes(actual) <= {jnp.dtype(jnp.float32 if record.statistic else dtype)}
    if record.precise:
        expected, _ = record.reference(*jax.tree.map(exact, rounded), **record.static)
        assert_close(actual, expected, LAYER, dtype)


@every([record for record in RECORDS if record.batched is not None])
@given(data=st.data())
def test_a_batch_equals_one_by_one(record, data):
    arguments = list(data.draw(record.arguments))
    x = arguments[record.batched]

    def apply(x):
        replaced = [*arguments[: record.batched], x, *arguments[record.batched + 1 :]]
        return record.layer(*cast(replaced, jnp.float64), **record.static)

    batch = np.stack([x, 2 * x + 1, -x])
    assert_close(apply(batch), jax.tree.map(lambda *rows: np.stack(rows), *map(apply, batch)), FORMULA)


OTHERS = [(record, oracle) for record in RECORDS for oracle in record.oracles if oracle != "torch"]


@pytest.mark.parametrize(("record", "oracle"), OTHERS, ids=[f"{record.name}-{oracle}" for record, oracle in OTHERS])
@given(data=st.data())
def test_layer_equals_an_independent_oracle(record, oracle, data):
    pytest.importorskip(oracle)
    arguments = data.draw(record.arguments)
    expected = record.oracles[oracle](*arguments, **record.static)
    assert_close(record.layer(*cast(arguments, jnp.float64), **record.static), expected, FORMULA)


@every([record for record in RECORDS if "torch" in record.oracles])
@given(data=st.data())
def test_layer_and_its_gradients_are_those_that_pytorch_finds(record, data):
    torch = pytest.importorskip("torch")
    arguments = data.draw(record.arguments)
    tensors = jax.tree.map(lambda a: torch.tensor(np.asarray(a), requires_grad=is_float(a)), arguments)
    out = record.oracles["torch"](*tensors, **record.static)
    expected = jax.tree.map(lambda y: y.detach().numpy(), out)
    assert_close(record.layer(*cast(arguments, jnp.float64), **record.static), expected, FORMULA)
    if record.backward is None:
        return
    d_out = cotangents(data, expected)
    floats = [x for x in jax.tree.leaves(tensors) if x.requires_grad]
    product = sum(0 * x.sum() for x in floats)  # a gradient of 0, where all that is computed depends on none
    product += sum((y * torch.tensor(d)).sum() for y, d in zip(*map(jax.tree.leaves, (out, d_out)), strict=True))
    gradients = torch.autograd.grad(product, floats)
    actual = pullback(record.name)(*cast((arguments, d_out), jnp.float64))
    assert_close(actual, [gradient.numpy() for gradient in gradients], FORMULA)
