import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import multiplicative
from minilm.reference.attention import multiplicative as reference
from tests import torch_oracle
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

    pairs = q[:, None].expand(-1, len(k), -1), k.expand(len(q), -1, -1)
    return torch.nn.functional.bilinear(*(x.contiguous() for x in pairs), w[None])[..., 0]


def torch_concat(params, q, k):
    import torch

    pairs = torch.cat([q.repeat_interleave(len(k), 0), k.tile(len(q), 1)], 1)
    return (torch.tanh(pairs @ params.w) @ params.v).reshape(len(q), len(k))


def torch_local_p(params, q, scores, mask, *, reach):
    """As it is printed: a window of keys about the place, a softmax in it, a normal density of deviation D / 2."""
    import torch

    mask = mask.expand(scores.shape)
    place = mask.sum(-1, keepdim=True) * torch.sigmoid(torch.tanh(q @ params.w_p) @ params.v_p)[:, None]
    distance = torch.arange(scores.shape[1]) - place
    weights = torch_oracle.softmax(scores, mask & (distance.abs() <= reach))
    return weights * torch.exp(-(distance**2) / (2 * (reach / 2) ** 2))


def record(name, arguments, **rest):
    function = getattr(multiplicative, name)
    return Record(function, getattr(reference, name), getattr(reference, f"{name}_backward"), arguments, **rest)


RECORDS = (
    record("dot_scores", dot_arguments(), statistic=True, oracles={"torch": lambda q, k: q @ k.T}),
    record("general_scores", general_arguments(), statistic=True, oracles={"torch": torch_general}),
    record("concat_scores", concat_arguments(), statistic=True, oracles={"torch": torch_concat}),
    record("location_scores", location_arguments(), statistic=True, oracles={"torch": lambda w, q: q @ w}),
    # Where a place moves across the end of a window, a difference sees a jump.
    record(
        "local_p_weights",
        local_arguments(),
        static={"reach": 1.5},
        oracles={"torch": torch_local_p},
        smooth=False,
        precise=False,
    ),
)
