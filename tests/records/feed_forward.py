from hypothesis import strategies as st

from minilm.layers import activation, feed_forward
from minilm.reference import activation as reference_activation
from minilm.reference import feed_forward as reference
from tests.records import Record
from tests.strategies import arrays, sizes, weights

SIZES = sizes(((), 3, 5), ((2,), 4, 1), ((3, 2), 1, 2))  # leading axes, d, f


@st.composite
def mlp_arguments(draw):
    leading, d, f = draw(SIZES)
    b_up, b_down = (draw(weights(f)), draw(weights(d))) if d < 4 else (None, None)
    params = feed_forward.MLPParams(w_up=draw(weights(d, f)), b_up=b_up, w_down=draw(weights(f, d)), b_down=b_down)
    return params, draw(arrays(*leading, d))


@st.composite
def glu_arguments(draw):
    leading, d, f = draw(SIZES)
    params = feed_forward.GLUParams(w_gate=draw(weights(d, f)), w_up=draw(weights(d, f)), w_down=draw(weights(f, d)))
    return params, draw(arrays(*leading, d))


def with_its_activation(function):
    """The reference takes the reference's activation of the same name."""
    return lambda params, x, activation: function(params, x, getattr(reference_activation, activation.__name__))


def in_torch(layer, phi):
    def oracle(params, x, **static):
        from torch.nn import functional

        return layer(functional.linear, getattr(functional, phi), params, x)

    return {"torch": oracle}


def torch_mlp(linear, phi, params, x):
    return linear(phi(linear(x, params.w_up.T, params.b_up)), params.w_down.T, params.b_down)


def torch_glu(linear, phi, params, x):
    return linear(phi(linear(x, params.w_gate.T)) * linear(x, params.w_up.T), params.w_down.T)


RECORDS = (
    Record(feed_forward.mlp, reference.mlp, reference.mlp_backward, mlp_arguments(), batched=1),
    Record(
        feed_forward.mlp,
        with_its_activation(reference.mlp),
        reference.mlp_backward,
        mlp_arguments(),
        static={"activation": activation.silu},
        batched=1,
        oracles=in_torch(torch_mlp, "silu"),
        label="silu",
    ),
    Record(
        feed_forward.glu,
        reference.glu,
        reference.glu_backward,
        glu_arguments(),
        batched=1,
        oracles=in_torch(torch_glu, "sigmoid"),
    ),
    Record(
        feed_forward.glu,
        with_its_activation(reference.glu),
        reference.glu_backward,
        glu_arguments(),
        static={"activation": activation.tanh},
        batched=1,
        oracles=in_torch(torch_glu, "tanh"),
        label="tanh",
    ),
    *(
        Record(
            getattr(feed_forward, name),
            getattr(reference, name),
            getattr(reference, f"{name}_backward"),
            glu_arguments(),
            batched=1,
            oracles=in_torch(torch_glu, phi),
            smooth=phi != "relu",
        )
        for name, phi in [("reglu", "relu"), ("geglu", "gelu"), ("swiglu", "silu")]
    ),
)
