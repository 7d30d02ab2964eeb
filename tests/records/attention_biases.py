import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import biases
from minilm.reference.attention import biases as reference
from minilm.shapes import Tokens
from tests.records import Record
from tests.strategies import arrays, seeds, sizes


@st.composite
def tokens(draw, length):
    """Tokens anywhere, in any order."""
    rng = np.random.default_rng(draw(seeds))
    return Tokens(rng.integers(0, draw(st.sampled_from([4, 50, 300])), length), rng.integers(0, 3, length))


@st.composite
def alibi_arguments(draw):
    g, r, t, s = draw(sizes((2, 3, 4, 5), (1, 4, 1, 3), (3, 1, 5, 2)))
    return draw(arrays(g, r)), draw(tokens(t)), draw(tokens(s))


@st.composite
def t5_arguments(draw):
    g, r, t, s = draw(sizes((2, 3, 4, 5), (1, 4, 1, 3)))
    return draw(arrays(32, g, r)), draw(tokens(t)), draw(tokens(s))


@st.composite
def bucket_arguments(draw):
    shape = draw(sizes((), (5,), (2, 3)))
    return (np.random.default_rng(draw(seeds)).integers(-300, 300, shape),)


def torch_alibi(slopes, query, key):
    """A row of distances times a column of slopes."""
    import torch

    return torch.kron(-slopes[:, :, None, None], (query.position[:, None] - key.position).abs().double())


def torch_t5(table, query, key, *, bidirectional=True, max_distance=128):
    """As T5 spells it: how far behind; half of the buckets for what is ahead; small distances, and then logarithms."""
    import torch

    n, distance = len(table), key.position - query.position[:, None]
    ahead = n // 2 * (distance > 0) if bidirectional else 0
    n, far = (n // 2, distance.abs()) if bidirectional else (n, (-distance).clamp(min=0))
    exact = n // 2
    steps = torch.log(far.clamp(min=1) / exact) / np.log(max_distance / exact) * (n - exact)
    bucket = ahead + torch.where(far < exact, far, (exact + steps.long()).clamp(max=n - 1))
    return torch.nn.functional.embedding(bucket, table.flatten(1)).movedim(-1, 0).unflatten(0, table.shape[1:])


def t5(label, **static):
    return Record(
        biases.t5_relative,
        reference.t5_relative,
        reference.t5_relative_backward,
        t5_arguments(),
        static=static,
        oracles={"torch": torch_t5},
        label=label,
    )


def bucket(label, **static):
    return Record(biases.t5_bucket, reference.t5_bucket, None, bucket_arguments(), static=static, label=label)


RECORDS = (
    Record(biases.alibi, reference.alibi, reference.alibi_backward, alibi_arguments(), oracles={"torch": torch_alibi}),
    t5("encoder"),
    t5("decoder", bidirectional=False, max_distance=40),
    bucket("encoder"),
    bucket("decoder", bidirectional=False),
    bucket("uneven", n_buckets=14, max_distance=50),
    bucket("tight", n_buckets=8, max_distance=3),
)
