"""Feed-forward layers: maps and activations one after the other, and their gradients in the opposite order.

An `activation` is a function of `minilm.reference.activation`; its gradient is the one named `..._backward` beside it.
"""

from minilm.reference import activation as activations
from minilm.reference.activation import gelu, gelu_tanh, relu, sigmoid, silu
from minilm.reference.linear import matmul, matmul_backward


def mlp(params, x, activation=gelu_tanh):
    """y = act(x w_up + b_up) w_down + b_down, where a bias may be absent."""
    u, saved_u = matmul(x, params.w_up)
    h, saved_h = activation(u if params.b_up is None else u + params.b_up)
    y, saved_y = matmul(h, params.w_down)
    y = y if params.b_down is None else y + params.b_down
    return y, (params, activation, saved_u, saved_h, saved_y)


def mlp_backward(saved, d_y):
    """Gradients with respect to (params, x), from the last line of `mlp` to its first.

    y = h w_down + b_down   gives  d_b_down = d_y over all rows;  d_h and d_w_down as of any product
    h = act(u)              gives  d_u = d_h act'(u)
    u = x w_up + b_up       gives  d_b_up = d_u over all rows;  d_x and d_w_up as of any product
    """
    params, activation, saved_u, saved_h, saved_y = saved
    d_b_down = None if params.b_down is None else _over_rows(d_y)
    d_h, d_w_down = matmul_backward(saved_y, d_y)
    d_u = _backward_of(activation)(saved_h, d_h)
    d_b_up = None if params.b_up is None else _over_rows(d_u)
    d_x, d_w_up = matmul_backward(saved_u, d_u)
    return type(params)(w_up=d_w_up, b_up=d_b_up, w_down=d_w_down, b_down=d_b_down), d_x


def glu(params, x, activation=sigmoid):
    """y = (act(x w_gate) * (x w_up)) w_down, the star taken entry by entry."""
    a, saved_a = matmul(x, params.w_gate)
    gate, saved_gate = activation(a)
    up, saved_up = matmul(x, params.w_up)
    y, saved_down = matmul(gate * up, params.w_down)
    return y, (params, activation, saved_a, gate, saved_gate, up, saved_up, saved_down)


def glu_backward(saved, d_y):
    """Gradients with respect to (params, x), from the last line of `glu` to its first.

    y = h w_down        gives  d_h and d_w_down as of any product
    h = gate * up       gives  d_gate = d_h up,  d_up = d_h gate
    gate = act(a)       gives  d_a = d_gate act'(a)
    a = x w_gate and up = x w_up read the same x, so their two gradients of it add up
    """
    params, activation, saved_a, gate, saved_gate, up, saved_up, saved_down = saved
    d_h, d_w_down = matmul_backward(saved_down, d_y)
    d_a = _backward_of(activation)(saved_gate, d_h * up)
    d_x_up, d_w_up = matmul_backward(saved_up, d_h * gate)
    d_x_gate, d_w_gate = matmul_backward(saved_a, d_a)
    return type(params)(w_gate=d_w_gate, w_up=d_w_up, w_down=d_w_down), d_x_gate + d_x_up


def reglu(params, x):
    """y = (max(x w_gate, 0) * (x w_up)) w_down."""
    return glu(params, x, relu)


def reglu_backward(saved, d_y):
    """Gradients with respect to (params, x): those of `glu`."""
    return glu_backward(saved, d_y)


def geglu(params, x):
    """y = (gelu(x w_gate) * (x w_up)) w_down."""
    return glu(params, x, gelu)


def geglu_backward(saved, d_y):
    """Gradients with respect to (params, x): those of `glu`."""
    return glu_backward(saved, d_y)


def swiglu(params, x):
    """y = (silu(x w_gate) * (x w_up)) w_down."""
    return glu(params, x, silu)


def swiglu_backward(saved, d_y):
    """Gradients with respect to (params, x): those of `glu`."""
    return glu_backward(saved, d_y)


def _backward_of(activation):
    return getattr(activations, f"{activation.__name__}_backward")


def _over_rows(d):
    return d.reshape(-1, d.shape[-1]).sum(0)
