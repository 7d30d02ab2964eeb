import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minilm.layers import batch_normalization as layers
from minilm.reference import batch_normalization as reference
from tests.records import Record
from tests.strategies import arrays, sizes, weights

SIZES = sizes(((), 4), ((3, 2), 5))  # leading axes, d
SEVERAL_ROWS = sizes(((6,), 3))  # PyTorch refuses a single row


@st.composite
def inference_arguments(draw, some_sizes):
    leading, d = draw(some_sizes)
    params = layers.BatchNormParams(scale=draw(weights(d)), bias=draw(weights(d)))
    state = layers.BatchNormState(mean=draw(weights(d)), variance=np.abs(draw(weights(d))))
    return params, state, draw(arrays(*leading, d))


@st.composite
def training_arguments(draw, some_sizes, masks):
    params, state, x = draw(inference_arguments(some_sizes))
    return params, state, x, draw(hnp.arrays(bool, x.shape[:-1], elements=masks))


def torch_training(params, state, x, mask, momentum=0.1, eps=1e-5):
    """PyTorch's own, which knows no mask and writes into its running statistics."""
    import torch

    running = [torch.tensor(leaf) for leaf in state]
    rows = torch.tensor(x.reshape(-1, x.shape[-1]))
    scale, bias = torch.tensor(params.scale), torch.tensor(params.bias)
    y = torch.nn.functional.batch_norm(rows, *running, scale, bias, True, momentum, eps)
    mean, variance = (leaf.numpy() for leaf in running)
    return layers.BatchNormState(mean=mean, variance=variance), y.numpy().reshape(x.shape)


def torch_inference(params, state, x, eps=1e-5):
    import torch

    rows = torch.tensor(x.reshape(-1, x.shape[-1]))
    leaves = [torch.tensor(leaf) for leaf in (state.mean, state.variance, params.scale, params.bias)]
    return torch.nn.functional.batch_norm(rows, *leaves, False, 0.0, eps).numpy().reshape(x.shape)


def flax_inference(params, state, x, eps=1e-5):
    import flax.linen

    layer = flax.linen.BatchNorm(use_running_average=True, epsilon=eps, param_dtype=x.dtype)
    return layer.apply({"params": params._asdict(), "batch_stats": {"mean": state.mean, "var": state.variance}}, x)


def training(some_sizes, masks, label, **more):
    return Record(
        layers.batch_norm_training,
        reference.batch_norm_training,
        reference.batch_norm_training_backward,
        training_arguments(some_sizes, masks),
        label=label,
        **more,
    )


RECORDS = (
    # A nearly constant column is as curved as 1/sqrt(eps): only a large eps suits differences.
    training(SIZES, st.booleans(), "masked", static={"momentum": 0.3, "eps": 0.5}),
    training(SEVERAL_ROWS, st.just(True), "", smooth=False, oracles={"torch": torch_training}),
    Record(
        layers.batch_norm_inference,
        reference.batch_norm_inference,
        reference.batch_norm_inference_backward,
        inference_arguments(SIZES),
        batched=2,
        oracles={"torch": torch_inference, "flax": flax_inference},
    ),
)
