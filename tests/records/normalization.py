from hypothesis import strategies as st

from minilm.layers import normalization
from minilm.reference import normalization as reference
from tests.records import Record
from tests.strategies import arrays, sizes, weights

SIZES = sizes(((), 4), ((2,), 3), ((3, 2), 5))  # leading axes, d


@st.composite
def layer_norm_arguments(draw):
    leading, d = draw(SIZES)
    return normalization.LayerNormParams(scale=draw(weights(d)), bias=draw(weights(d))), draw(arrays(*leading, d))


@st.composite
def rms_norm_arguments(draw):
    leading, d = draw(SIZES)
    return normalization.RMSNormParams(scale=draw(weights(d))), draw(arrays(*leading, d))


def torch_layer_norm(params, x, eps=1e-5):
    import torch

    return torch.nn.functional.layer_norm(x, params.scale.shape, *params, eps)


def torch_rms_norm(params, x, eps=1e-6):
    import torch

    return torch.nn.functional.rms_norm(x, params.scale.shape, *params, eps)


def flax_layer_norm(params, x, eps=1e-5):
    import flax.linen

    layer = flax.linen.LayerNorm(epsilon=eps, use_fast_variance=False, param_dtype=x.dtype)
    return layer.apply({"params": params._asdict()}, x)


def flax_rms_norm(params, x, eps=1e-6):
    import flax.linen

    return flax.linen.RMSNorm(epsilon=eps, param_dtype=x.dtype).apply({"params": params._asdict()}, x)


RECORDS = tuple(
    Record(
        layer,
        getattr(reference, layer.__name__),
        getattr(reference, f"{layer.__name__}_backward"),
        arguments(),
        static=static,
        # A nearly constant row is as curved as 1/sqrt(eps): only a large eps suits differences.
        smooth="eps" in static,
        batched=1,
        oracles={"torch": torch, "flax": flax},
        label=label,
    )
    for layer, arguments, torch, flax in [
        (normalization.layer_norm, layer_norm_arguments, torch_layer_norm, flax_layer_norm),
        (normalization.rms_norm, rms_norm_arguments, torch_rms_norm, flax_rms_norm),
    ]
    for label, static in [("", {}), ("eps=0.5", {"eps": 0.5})]
)
