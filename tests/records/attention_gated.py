from hypothesis import strategies as st

from minilm.layers.attention import gated
from minilm.reference.attention import gated as reference
from tests.records import Record
from tests.strategies import arrays, sizes, weights

SHAPES = sizes(((5, 2, 3, 4, 6), (2,)), ((4, 3, 1, 2, 5), ()), ((3, 1, 2, 5, 1), (2, 1)))  # (d, g, r, v, t), leading


@st.composite
def gate_arguments(draw):
    (d, g, r, v, t), leading = draw(SHAPES)
    b_gate = draw(weights(g, r, v)) if draw(st.booleans()) else None
    params = gated.OutputGateParams(w_gate=draw(weights(d, g, r, v)), b_gate=b_gate)
    return params, draw(arrays(*leading, t, d)), draw(arrays(*leading, g, r, t, v))


def torch_gate(params, x, o):
    """One linear layer for all heads, as Qwen3-Next has it."""
    import torch

    d, *heads = params.w_gate.shape
    bias = None if params.b_gate is None else params.b_gate.flatten()
    a = torch.nn.functional.linear(x, params.w_gate.reshape(d, -1).T, bias)
    return o * torch.sigmoid(a.unflatten(-1, heads).movedim(-4, -2))


RECORDS = (
    Record(
        gated.gated_output,
        reference.gated_output,
        reference.gated_output_backward,
        gate_arguments(),
        oracles={"torch": torch_gate},
    ),
)
