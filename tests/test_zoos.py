"""Attention beside the zoos of variants in PyTorch: x-transformers, and performer-pytorch, in float64."""

import warnings
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minilm.layers.attention.sigmoid import sigmoid_attention
from minilm.layers.attention.talking_heads import TalkingHeadsParams, talking_heads_attention
from minilm.layers.attention.top_k import top_k_attention
from minilm.layers.linear_attention.feature_maps import random_features
from minilm.layers.linear_attention.linear import linear_attention
from tests.in_double import in_double
from tests.strategies import seeds
from tests.torch_oracle import assert_same_with_gradients

G, T, K, V, FEATURES = 3, 5, 4, 6, 7
SEEN = np.tri(T, dtype=bool)
few = settings(max_examples=3)
torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def precise(monkeypatch):
    in_double(monkeypatch)


@cache
def zoo(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs are of older ways of PyTorch and of Python
        return pytest.importorskip(name)


def attend(module, q, k, v, bias):
    """One of theirs, of one sequence, causal."""
    return module(q[None], k[None], v[None], attn_bias=bias[None])[0][0]


def their_sigmoid(shift, q, k, v, bias):
    module = zoo("x_transformers.attend").Attend(heads=G, causal=True, sigmoid=True)
    return attend(module, q, k, v, bias + shift[:, None, None])


def their_top_k(q, k, v, bias):
    return attend(zoo("x_transformers.attend").Attend(heads=G, causal=True, sparse_topk=2), q, k, v, bias)


def their_talking_heads(w_scores, w_weights, q, k, v, bias):
    """Convolutions, output heads first; the mixture before the softmax is added to the scores there."""
    module = zoo("x_transformers.attend").Attend(heads=G, causal=True, pre_talking_heads=True, post_talking_heads=True)
    weights = {
        "pre_softmax_talking_heads.weight": (w_scores - torch.eye(G)).T[:, :, None, None],
        "post_softmax_talking_heads.weight": w_weights.T[:, :, None, None],
    }
    inputs = {"attn_bias": bias[None]}
    return torch.func.functional_call(module, weights, (q[None], k[None], v[None]), inputs)[0][0]


def our_talking_heads(w_scores, w_weights, q, k, v, bias):
    params = TalkingHeadsParams(w_scores.reshape(G, 1, G, 1), w_weights.reshape(G, 1, G, 1))
    return talking_heads_attention(params, q[:, None], k, v, SEEN, bias[:, None])[:, 0]


def their_performer(projection, q, k, v):
    performer = zoo("performer_pytorch.performer_pytorch")
    q, k = (
        performer.softmax_kernel(x[None], projection_matrix=projection, is_query=asks, eps=0)
        for x, asks in ((q, True), (k, False))
    )
    return performer.causal_linear_attention_noncuda(q, k, v[None], chunk_size=1, eps=0)[0]


def our_performer(projection, q, k, v):
    q, k = random_features(projection, q), random_features(projection, k)
    return linear_attention(jnp.zeros((G, FEATURES, V + 1)), q, k, v, chunk=2)[1]


QKV = {"q": (G, T, K), "k": (G, T, K), "v": (G, T, V)}
VARIANTS = {
    "sigmoid": (
        lambda shift, q, k, v, bias: sigmoid_attention(shift[:, None], q[:, None], k, v, SEEN, bias[:, None])[:, 0],
        their_sigmoid,
        {"shift": (G,), **QKV, "bias": (G, T, T)},
    ),
    "top-k": (
        lambda q, k, v, bias: top_k_attention(q[:, None], k, v, SEEN, bias[:, None], n=2)[:, 0],
        their_top_k,
        {**QKV, "bias": (G, T, T)},
    ),
    "talking heads": (
        our_talking_heads,
        their_talking_heads,
        {"w_scores": (G, G), "w_weights": (G, G), **QKV, "bias": (G, T, T)},
    ),
    "Performer": (our_performer, their_performer, {"projection": (FEATURES, K), **QKV}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
@few
@given(seed=seeds)
def test_a_variant_and_its_gradients_are_those_of_a_zoo(name, seed):
    ours, theirs, shapes = VARIANTS[name]
    rng = np.random.default_rng(seed)
    assert_same_with_gradients(ours, theirs, [rng.standard_normal(shape) for shape in shapes.values()], seed)
