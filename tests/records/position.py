import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minilm.layers import position
from minilm.reference import position as reference
from tests.records import Record
from tests.strategies import arrays, sizes, weights

SIZES = sizes(((), (), 3, 4), ((2,), (2,), 1, 6), ((2, 3), (1,), 5, 2))  # leading axes of x, of position, t, k


@st.composite
def sinusoidal_arguments(draw):
    return (draw(arrays(*draw(sizes((3,), (2, 5), ())), scale=16.0)),)


@st.composite
def learned_arguments(draw):
    leading, p, d = draw(sizes(((3,), 5, 2), ((2, 3), 4, 1)))
    return draw(weights(p, d)), draw(hnp.arrays(np.int32, leading, elements=st.integers(-1, p - 1)))


@st.composite
def rotary_arguments(draw):
    leading, shared, t, k = draw(SIZES)
    return draw(arrays(*leading, t, k)), draw(arrays(*shared, t, scale=4.0))


@st.composite
def rotate_arguments(draw):
    """The magnitude is a number, or an array of no axes."""
    leading, shared, t, k = draw(SIZES)
    x, place = draw(arrays(*leading, t, k)), draw(arrays(*shared, t, scale=4.0))
    return x, place, draw(weights(k // 2)), draw(weights())


def complex_rotation(pairs, unpair):
    """The definition in one line of complex numbers: z exp(i p theta^(-2m/k))."""

    def oracle(x, position, theta=10000.0):
        k = x.shape[-1]
        z = pairs(x) * np.exp(1j * position[..., None] * theta ** (-2 * np.arange(k // 2) / k))
        return unpair(z, x.shape)

    return oracle


def rotated(x, position, frequencies, magnitude):
    pairs = x[..., : x.shape[-1] // 2] + 1j * x[..., x.shape[-1] // 2 :]
    z = magnitude * pairs * np.exp(1j * position[..., None] * frequencies)
    return np.concatenate([z.real, z.imag], -1)


half = complex_rotation(
    lambda x: x[..., : x.shape[-1] // 2] + 1j * x[..., x.shape[-1] // 2 :],
    lambda z, shape: np.concatenate([z.real, z.imag], -1),
)
interleaved = complex_rotation(
    lambda x: x[..., 0::2] + 1j * x[..., 1::2],
    lambda z, shape: np.stack([z.real, z.imag], -1).reshape(shape),
)

RECORDS = (
    Record(
        position.sinusoidal,
        reference.sinusoidal,
        reference.sinusoidal_backward,
        sinusoidal_arguments(),
        static={"d": 6, "dtype": jnp.float64},
        typed=False,
    ),
    Record(position.learned, reference.learned, reference.learned_backward, learned_arguments()),
    *(
        Record(
            layer,
            getattr(reference, layer.__name__),
            getattr(reference, f"{layer.__name__}_backward"),
            rotary_arguments(),
            static={"theta": 100.0},
            oracles={"numpy": oracle},
        )
        for layer, oracle in [(position.rotary, half), (position.rotary_interleaved, interleaved)]
    ),
    Record(
        position.rotate,
        reference.rotate,
        reference.rotate_backward,
        rotate_arguments(),
        oracles={"numpy": rotated},
    ),
)
