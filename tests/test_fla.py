"""Attention as a recurrence beside fla's: the naive loops that its kernels are tested against, in float64."""

import importlib.metadata
import importlib.util
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minilm.layers.attention.core import dot_product_attention
from minilm.layers.attention.forgetting import forgetting_bias
from minilm.layers.linear_attention.decay import decay_chunked
from minilm.layers.linear_attention.delta import delta_chunked
from minilm.layers.linear_attention.feature_maps import elu_plus_one, taylor_features
from minilm.layers.linear_attention.gated import gated_chunked
from minilm.layers.linear_attention.linear import linear_attention
from minilm.layers.linear_attention.retention import retention_decays
from minilm.layers.linear_attention.rwkv import rwkv6_chunked
from minilm.shapes import Tokens
from tests.in_double import in_double
from tests.strategies import seeds
from tests.tolerances import FORMULA, assert_close

G, T, K = 2, 5, 4
few = settings(max_examples=3)
torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def precise(monkeypatch):
    in_double(monkeypatch)


@cache
def fla(name):
    """A file of fla's naive loops, by itself: the package around them asks for Triton, and that for a GPU."""
    try:
        files = importlib.metadata.files("fla-core")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("fla-core is not installed")
    (path,) = (file.locate() for file in files if str(file) == f"fla/ops/{name}.py")
    spec = importlib.util.spec_from_file_location(f"naive_{name.replace('/', '_')}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def heads_first(function):
    """A function of theirs of `(b, g, t, ...)` as one of `(g, t, ...)`; of a pair, the first."""
    return lambda *inputs: only(function(*(x[None] for x in inputs)))


def heads_last(function):
    """The same of one of `(b, t, g, ...)`."""
    return lambda *inputs: only(function(*(x.transpose(0, 1)[None] for x in inputs))).transpose(0, 1)


def only(o):
    return (o[0] if isinstance(o, tuple) else o)[0]


def ours_forgetting(q, k, v, log_forget):
    tokens, seen = Tokens.arange(T), np.tri(T, dtype=bool)
    bias = forgetting_bias(log_forget[:, None], tokens, tokens)
    return dot_product_attention(q[:, None], k, v, seen, bias)[:, 0]


def ours_retention(q, k, v):
    log_decay = jnp.broadcast_to(jnp.array(retention_decays(G))[:, None], (G, T))
    return recurrent(decay_chunked)(q, k, v, log_decay)


def recurrent(chunked):
    """One of ours from an empty state, in chunks of two, and with the root that theirs have."""
    return lambda q, k, v, *rest: chunked(jnp.zeros((G, K, K + 1)), q / np.sqrt(K), k, v, *rest, chunk=2)[1]


def linear_of(features):
    def attend(q, k, v):
        q, k = features(q), features(k)
        return linear_attention(jnp.zeros((G, q.shape[-1], K + 2)), q, k, v, chunk=2)[1]

    return attend


def their_rwkv6(r, k, v, log_decay, u):
    batch = (x[None] for x in (r, k, v, log_decay))
    return only(fla("rwkv6/recurrent_naive").naive_recurrent_rwkv6(*batch, u))


def divided(add_up, q, k, v):
    """Divided by the sum of the weights, that of values of one, without the ε that they add to it."""
    o = add_up(q, k, torch.cat([v, torch.ones_like(v[..., :1])], -1))
    return o[..., :-1] / o[..., -1:]


def their_linear(q, k, v):
    q, k = (torch.nn.functional.elu(x) + 1 for x in (q, k))
    loop = fla("linear_attn/naive").naive_recurrent_linear_attn
    return divided(heads_last(lambda *qkv: loop(*qkv, scale=1.0)), q, k, v)


def their_based(q, k, v):
    loop = fla("based/naive").naive_parallel_based
    return divided(heads_first(lambda *qkv: loop(*qkv, use_norm=False)), q, k, v)


# Ours, theirs, and what both take: queries, keys and values; gates of heads and of keys, β, RWKV's bonus.
LOOPS = {
    "retention": (ours_retention, lambda *x: heads_first(fla("retention/naive").naive_retention)(*x), "qkv"),
    "one gate a head": (
        recurrent(decay_chunked),
        lambda *x: heads_last(fla("simple_gla/naive").naive_recurrent_simple_gla)(*x),
        "qkva",
    ),
    "GLA": (recurrent(gated_chunked), lambda *x: heads_last(fla("gla/naive").naive_recurrent_gla)(*x), "qkvA"),
    "RWKV-6": (recurrent(rwkv6_chunked), their_rwkv6, "qkvAu"),
    "delta rule": (
        lambda q, k, v, beta: recurrent(delta_chunked)(q, k, v, beta, jnp.zeros((G, T))),
        lambda *x: heads_first(fla("delta_rule/naive").delta_rule_recurrence)(*x),
        "qkvb",
    ),
    "gated delta rule": (
        recurrent(delta_chunked),
        lambda *x: heads_last(fla("gated_delta_rule/naive").naive_recurrent_gated_delta_rule)(*x),
        "qkvba",
    ),
    "elu + 1": (linear_of(elu_plus_one), their_linear, "qkv"),
    "Based": (linear_of(taylor_features), their_based, "qkv"),
    "forgetting": (
        ours_forgetting,
        lambda *x: heads_last(fla("forgetting_attn/naive").naive_forgetting_attn)(*x),
        "qkva",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
@few
@given(seed=seeds)
def test_a_recurrence_and_its_gradients_are_those_of_flas_loop(name, seed):
    ours, theirs, letters = LOOPS[name]
    rng = np.random.default_rng(seed)
    draw = {
        **dict.fromkeys("qk", lambda: rng.standard_normal((G, T, K)) / 2),
        "v": lambda: rng.standard_normal((G, T, K + 1)),
        "a": lambda: -rng.random((G, T)),
        "A": lambda: -rng.random((G, T, K)),
        "b": lambda: rng.random((G, T)),
        "u": lambda: rng.standard_normal((G, K)),
    }
    inputs = [draw[letter]() for letter in letters]
    d_o = rng.standard_normal((G, T, K + 1))
    their_inputs = [torch.tensor(x, requires_grad=True) for x in inputs]
    their_o = theirs(*their_inputs)
    their_o.backward(torch.tensor(d_o))
    o, vjp = jax.vjp(ours, *map(jnp.asarray, inputs))
    assert_close(o, their_o.detach().numpy(), FORMULA)
    for letter, gradient, x in zip(letters, vjp(jnp.asarray(d_o)), their_inputs, strict=True):
        assert_close(gradient, x.grad.numpy(), FORMULA, what=f"gradient of {letter}")
