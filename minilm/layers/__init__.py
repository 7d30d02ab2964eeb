"""Layers: pure functions of (parameters, arrays), each with its equation in its docstring. This is what is public."""

from minilm.layers.activation import (
    gelu,
    gelu_tanh,
    log_softmax,
    logsumexp,
    relu,
    sigmoid,
    silu,
    softmax,
    squared_relu,
    tanh,
)
from minilm.layers.crf import (
    CRFParams,
    crf_log_likelihood,
    crf_log_normalizer,
    crf_marginals,
    crf_score,
    init_crf,
    viterbi,
)
from minilm.layers.dropout import dropout
from minilm.layers.embedding import embed, init_embedding, unembed
from minilm.layers.feed_forward import GLUParams, MLPParams, geglu, glu, init_glu, init_mlp, mlp, reglu, swiglu
from minilm.layers.linear import LinearParams, init_linear, linear, matmul
from minilm.layers.normalization import (
    LayerNormParams,
    RMSNormParams,
    init_layer_norm,
    init_rms_norm,
    layer_norm,
    rms_norm,
)
from minilm.layers.position import init_learned, learned, rotary, rotary_interleaved, sinusoidal

__all__ = [
    "CRFParams",
    "GLUParams",
    "LayerNormParams",
    "LinearParams",
    "MLPParams",
    "RMSNormParams",
    "crf_log_likelihood",
    "crf_log_normalizer",
    "crf_marginals",
    "crf_score",
    "dropout",
    "embed",
    "geglu",
    "gelu",
    "gelu_tanh",
    "glu",
    "init_crf",
    "init_embedding",
    "init_glu",
    "init_layer_norm",
    "init_learned",
    "init_linear",
    "init_mlp",
    "init_rms_norm",
    "layer_norm",
    "learned",
    "linear",
    "log_softmax",
    "logsumexp",
    "matmul",
    "mlp",
    "reglu",
    "relu",
    "rms_norm",
    "rotary",
    "rotary_interleaved",
    "sigmoid",
    "silu",
    "sinusoidal",
    "softmax",
    "squared_relu",
    "swiglu",
    "tanh",
    "unembed",
    "viterbi",
]
