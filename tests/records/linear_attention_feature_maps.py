from hypothesis import strategies as st

from minilm.layers.linear_attention import feature_maps
from minilm.reference.linear_attention import feature_maps as reference
from tests.records import Record
from tests.strategies import arrays, sizes, weights

SIZES = sizes((2, 3, 3, 5), (1, 4, 1, 2), (3, 1, 4, 3))  # rows along two axes, k, m


@st.composite
def x_arguments(draw):
    *rows, k, _ = draw(SIZES)
    return (draw(arrays(*rows, k)),)


@st.composite
def projection_arguments(draw):
    *rows, k, m = draw(SIZES)
    return draw(weights(m, k)), draw(arrays(*rows, k))


def torch_elu(x):
    import torch

    return torch.nn.functional.elu(x) + 1


def torch_taylor(x):
    """A Kronecker product of each row with itself."""
    import torch

    rows = x.flatten(0, -2) / x.shape[-1] ** 0.25
    features = [torch.cat([torch.ones(1), z, torch.kron(z, z) / 2**0.5]) for z in rows]
    return torch.stack(features).unflatten(0, x.shape[:-1])


def torch_exponents(projection, x):
    """Half a difference of squared distances, from the origin and from x."""
    w, z = projection, x / x.shape[-1] ** 0.25
    return ((w**2).sum(-1) - ((z[..., None, :] - w) ** 2).sum(-1)) / 2


def torch_random(projection, x):
    return torch_exponents(projection, x).exp() / len(projection) ** 0.5


def record(name, arguments, oracle, **rest):
    function, backward = getattr(reference, name), getattr(reference, f"{name}_backward")
    return Record(getattr(feature_maps, name), function, backward, arguments, oracles={"torch": oracle}, **rest)


RECORDS = (
    # The slope is continuous at 0 and its slope is not, of which a difference still sees nothing at 1e-5.
    record("elu_plus_one", x_arguments(), torch_elu, batched=0),
    record("taylor_features", x_arguments(), torch_taylor, batched=0),
    record("random_features", projection_arguments(), torch_random, batched=1),
    record("random_exponents", projection_arguments(), torch_exponents, batched=1),
)
