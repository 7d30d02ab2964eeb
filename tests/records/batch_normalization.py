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


def only_gradient(formula):
    """0, but with the gradient of a formula.

    To PyTorch the running statistics are no variables: it gives no gradient to them, and none through them to x. Where
    the formula's gradient stands in, the values remain PyTorch's, as do the gradients by all that it differentiates.
    """
    return formula - formula.detach()


def torch_training(params, state, x, mask, momentum=0.1, eps=1e-5):
    """PyTorch's own, which knows no mask and writes over its running statistics."""
    import torch

    running = layers.BatchNormState(*(part.detach().clone() for part in state))
    y = torch.nn.functional.batch_norm(x, *running, *params, True, momentum, eps)
    mean = torch.lerp(state.mean, x.mean(0), momentum)
    variance = torch.lerp(state.variance, x.var(0), momentum)
    return layers.BatchNormState(running.mean + only_gradient(mean), running.variance + only_gradient(variance)), y


def torch_inference(params, state, x, eps=1e-5):
    import torch

    constants, rows = (part.detach() for part in state), x.reshape(-1, x.shape[-1])
    y = torch.nn.functional.batch_norm(rows, *constants, *params, False, 0.0, eps).reshape(x.shape)
    by_state = (x.detach() - state.mean) / torch.sqrt(state.variance + eps) * params.scale.detach()
    return y + only_gradient(by_state)


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
