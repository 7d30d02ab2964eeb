import numpy as np
from hypothesis import strategies as st

from minilm.layers.linear_attention import convolution
from minilm.reference.linear_attention import convolution as reference
from tests.records import Record
from tests.strategies import arrays, seeds, sizes, weights

SIZES = sizes((4, 3, 7), (3, 5, 1), (1, 2, 4), (5, 1, 3))  # width, d, t


@st.composite
def arguments(draw):
    """Some tokens are padding, wherever they stand; now and then all of them."""
    width, d, t = draw(SIZES)
    real = np.random.default_rng(draw(seeds)).random(t) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    return draw(weights(width, d)), draw(arrays(width - 1, d)), draw(arrays(t, d)), real


def torch_convolution(w, state, x, real):
    """PyTorch's convolution, of a channel by itself and over the real tokens alone; its kernels run forward in time."""
    import torch

    seen, y = torch.cat([state, x[real]]), torch.zeros_like(x)
    if real.any():
        convolved = torch.nn.functional.conv1d(seen.T[None], w.flip(0).T[:, None], groups=x.shape[1])
        y[real] = convolved[0].T
    return seen[len(seen) - len(state) :], y


RECORDS = (
    Record(
        convolution.short_convolution,
        reference.short_convolution,
        reference.short_convolution_backward,
        arguments(),
        oracles={"torch": torch_convolution},
    ),
)
