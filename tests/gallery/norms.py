"""Planted bugs of normalization."""

import numpy as np

from minilm import laws
from tests.gallery import plant

WIDTH = 7


def layer_norm(x, eps=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)


def rms_norm(x, eps=1e-5):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


@plant(laws.scale_invariance, d=WIDTH)
def divided_by_the_reciprocal():
    """`x / rsqrt(...)` where `x * rsqrt(...)` was meant; training diverged: llm-foundry issue 371."""
    return lambda x: x * np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5), rms_norm


@plant(laws.unit_output, d=WIDTH)
def bessels_correction():
    """`x.std()` divides by d - 1; four entries give 1.5 where nn.LayerNorm gives 1.73: annotated-transformer pull
    request 119."""
    return lambda x: (x - x.mean(-1, keepdims=True)) / (x.std(-1, ddof=1, keepdims=True) + 1e-6), layer_norm


@plant(laws.unit_output, d=WIDTH)
def the_variance_in_an_rms_norm():
    """`torch.var` where the mean square was meant, so that a mean inflates the output: timm issue 2380, Keras issue
    21234."""
    return lambda x: x / np.sqrt(x.var(-1, keepdims=True) + 1e-5), rms_norm


@plant(laws.finite_on_constants, d=WIDTH)
def an_epsilon_never_added():
    """Equal numbers have deviation 0; without the epsilon 0/0: torchcvnn issue 32."""

    def bare(x):
        with np.errstate(invalid="ignore"):
            return layer_norm(x, eps=0)

    return bare, layer_norm


@plant(laws.shift_invariance, d=WIDTH)
def a_layer_norm_that_does_not_centre():
    """Dividing by the deviation but forgetting to subtract the mean; timm's RMS norm was this one until issue 2380."""
    return lambda x: x / np.sqrt(x.var(-1, keepdims=True) + 1e-5), layer_norm


@plant(laws.accurate_far_from_zero, d=WIDTH, search=laws.Search(dtype="float32"))
def the_mean_of_squares_less_the_square_of_the_mean():
    """One pass over the data, catastrophic when the mean is large: burn issue 5607, onnxruntime issue 21935, tt-metal
    issue 45968,
    sherpa-onnx pull request 3857."""

    def one_pass(x):
        mean = x.mean(-1, keepdims=True)
        variance = (x * x).mean(-1, keepdims=True) - mean * mean
        with np.errstate(invalid="ignore"):
            return (x - mean) / np.sqrt(variance + np.float32(1e-5))

    return one_pass, layer_norm


@plant(laws.direction_kept, d=WIDTH)
def a_sign_that_is_lost():
    """The root of the square in place of the number itself. (No thread known to us.)"""
    return lambda x: np.abs(rms_norm(x)), rms_norm


@plant(laws.direction_kept, d=WIDTH)
def rows_written_where_others_belong():
    """A kernel of rows whose output counts them from the end. (No thread known to us.)"""
    return lambda x: rms_norm(x).reshape(-1, WIDTH)[::-1].reshape(x.shape), rms_norm


@plant(laws.direction_kept, d=WIDTH, centred=True)
def the_scale_without_the_row():
    """The product with the row forgotten, a scale of ones has mean square 1, for any scale and shift. (No thread known
    to us.)"""
    return np.ones_like, layer_norm
