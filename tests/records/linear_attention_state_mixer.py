from hypothesis import strategies as st

from minilm.layers.linear_attention import state_mixer
from minilm.reference.linear_attention import state_mixer as reference
from tests.records import Record
from tests.strategies import arrays, sizes, weights

SIZES = sizes((2, 4, 5, 3), (3, 1, 2, 4), (1, 5, 3, 2))  # g, t, d, width of a head


@st.composite
def split_arguments(draw):
    g, t, d, k = draw(SIZES)
    return draw(weights(d, g, k)), draw(arrays(t, d))


@st.composite
def merge_arguments(draw):
    g, t, d, v = draw(SIZES)
    return draw(weights(g, v, d)), draw(arrays(g, t, v))


def torch_split(w, x):
    import torch

    return torch.einsum("td,dgk->gtk", x, w)


def torch_merge(w, o):
    import torch

    return torch.einsum("gtv,gvd->td", o, w)


def record(name, arguments, **rest):
    function, backward = getattr(reference, name), getattr(reference, f"{name}_backward")
    return Record(getattr(state_mixer, name), function, backward, arguments, batched=1, **rest)


RECORDS = (
    record("split_heads", split_arguments(), oracles={"torch": torch_split}),
    record("merge_heads", merge_arguments(), oracles={"torch": torch_merge}),
)
