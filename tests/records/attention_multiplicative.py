import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import multiplicative
from minilm.reference.attention import multiplicative as reference
from tests.records import Record
from tests.strategies import arrays, seeds, sizes, weights

SIZES = sizes((4, 5, 3, 2, 6), (5, 3, 2, 4, 1))  # t, s, h, i, k


@st.composite
def dot_arguments(draw):
    t, s, h, _, _ = draw(SIZES)
    return draw(arrays(t, h)), draw(arrays(s, h))


@st.composite
def general_arguments(draw):
    t, s, h, i, _ = draw(SIZES)
    return draw(weights(h, i)), draw(arrays(t, h)), draw(arrays(s, i))


@st.composite
def concat_arguments(draw):
    t, s, h, i, k = draw(SIZES)
    params = multiplicative.ConcatParams(draw(weights(h + i, k)), draw(weights(k)))
    return params, draw(arrays(t, h)), draw(arrays(s, i))


@st.composite
def location_arguments(draw):
    t, s, h, _, _ = draw(SIZES)
    return draw(weights(h, s)), draw(arrays(t, h))


@st.composite
def local_arguments(draw):
    """A text's end may be padding, all of it too."""
    t, s, h, _, k = draw(SIZES)
    params = multiplicative.LocalParams(draw(weights(h, k)), draw(weights(k)))
    length = np.random.default_rng(draw(seeds)).integers(0, s + 1, draw(st.sampled_from([(t, 1), (1, 1)])))
    return params, draw(weights(t, h)), draw(arrays(t, s)), np.arange(s) < length


def torch_general(w, q, k):
    """A bilinear form of every pair."""
    import torch

    pairs = np.broadcast_to(q[:, None], (len(q), len(k), q.shape[1])), np.broadcast_to(k, (len(q), *k.shape))
    q, k = (torch.tensor(x.copy()) for x in pairs)
    return torch.nn.functional.bilinear(q, k, torch.tensor(w)[None])[..., 0].numpy()


def torch_concat(params, q, k):
    import torch

    t, s = len(q), len(k)
    pairs = np.concatenate([np.repeat(q, s, axis=0), np.tile(k, (t, 1))], axis=1)
    w, v, pairs = map(torch.tensor, (*params, pairs))
    return (torch.tanh(pairs @ w) @ v).reshape(t, s).numpy()


def record(name, arguments, **rest):
    function = getattr(multiplicative, name)
    return Record(function, getattr(reference, name), getattr(reference, f"{name}_backward"), arguments, **rest)


RECORDS = (
    record("dot_scores", dot_arguments(), statistic=True),
    record("general_scores", general_arguments(), statistic=True, oracles={"torch": torch_general}),
    record("concat_scores", concat_arguments(), statistic=True, oracles={"torch": torch_concat}),
    record("location_scores", location_arguments(), statistic=True),
    # Where a place moves across the end of a window, a difference sees a jump.
    record("local_p_weights", local_arguments(), static={"reach": 1.5}, smooth=False, precise=False),
)
