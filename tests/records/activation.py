import jax
import numpy as np
from hypothesis import strategies as st

from minilm.layers import activation
from minilm.reference import activation as reference
from tests.records import Record
from tests.strategies import arrays, sizes

SIZES = sizes((3,), (2, 5), (2, 1, 4))
ELEMENTWISE = {
    "relu": lambda torch, x: torch.relu(x),
    "squared_relu": lambda torch, x: torch.relu(x) ** 2,
    "gelu": lambda torch, x: torch.nn.functional.gelu(x),
    "gelu_tanh": lambda torch, x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": lambda torch, x: torch.nn.functional.silu(x),
    "sigmoid": lambda torch, x: torch.sigmoid(x),
    "tanh": lambda torch, x: torch.tanh(x),
}
KINKED = ("relu", "squared_relu")
ROWWISE = {
    "log_softmax": lambda torch, x: torch.log_softmax(x, -1),
    "logsumexp": lambda torch, x: torch.logsumexp(x, -1),
}


@st.composite
def one_array(draw):
    # Numbers up to 4: where a function saturates, its gradient is a small difference and no longer good to all digits.
    # `tests/test_activation.py` goes there, and measures against the gradient's largest value.
    return (draw(arrays(*draw(SIZES))),)


@st.composite
def softmax_arguments(draw):
    (x,) = draw(one_array())
    rng = np.random.default_rng(draw(st.integers(0, 2**31 - 1)))
    return x, rng.random(x.shape) < draw(st.sampled_from([0.0, 0.5, 1.0]))


def in_torch(function):
    def oracle(x):
        import torch

        return function(torch, x)

    return oracle


def jax_softmax(x, where):
    return jax.nn.softmax(x, axis=-1, where=where)


RECORDS = (
    *(
        Record(
            getattr(activation, name),
            getattr(reference, name),
            getattr(reference, f"{name}_backward"),
            one_array(),
            batched=0,
            oracles={"torch": in_torch(function)},
            smooth=name not in KINKED,
        )
        for name, function in (ELEMENTWISE | ROWWISE).items()
    ),
    Record(
        activation.softmax,
        reference.softmax,
        reference.softmax_backward,
        softmax_arguments(),
        batched=0,
        oracles={"jax": jax_softmax},
    ),
)
