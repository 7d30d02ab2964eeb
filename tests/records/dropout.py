import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from minilm.layers.dropout import dropout
from minilm.reference import dropout as reference
from tests.records import Record
from tests.strategies import arrays, sizes


@st.composite
def one_array(draw):
    return (draw(arrays(*draw(sizes((7,), (2, 5), (2, 1, 4))))),)


def given_the_draw(x, rate, key):
    """The reference with the entries that this key keeps, read off an array of ones."""
    return reference.dropout(x, rate, np.asarray(dropout(jnp.ones(x.shape), rate, key) != 0))


RECORDS = (
    Record(dropout, reference.dropout, reference.dropout_backward, one_array(), static={"rate": 0.4}, batched=0),
    *(
        Record(
            dropout,
            given_the_draw,
            reference.dropout_backward,
            one_array(),
            static={"rate": rate, "key": jax.random.key(seed)},
            label=f"rate={rate}",
        )
        for seed, rate in enumerate([0.0, 0.25, 0.9])
    ),
)
