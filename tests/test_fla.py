"""Attention as a recurrence beside fla's: the naive loops that its kernels are tested against, in float64."""

import importlib.metadata
import importlib.util
import sys
import warnings
from functools import cache, partial
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minilm.layers.attention.block_selection import moba_attention
from minilm.layers.attention.core import dot_product_attention
from minilm.layers.attention.forgetting import forgetting_bias
from minilm.layers.attention.native_sparse import CompressParams, native_sparse_attention
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
from tests.torch_oracle import assert_same_with_gradients

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
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that FlashAttention is not there
        for missing in ("fla", "fla.ops", "fla.ops.utils", "fla.ops.utils.index", "fla.ops.utils.pooling"):
            patched.setitem(sys.modules, missing, MagicMock())
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
    assert_same_with_gradients(ours, theirs, [draw[letter]() for letter in letters], seed)


LENGTH, N_TOKENS, N_HEADS, SELECTED = 4, 22, 2, 4  # of blocks that are compressed and of those selected; six of them
SPARSE = {
    "compress_k": {"e": (LENGTH, K), "w_up": (LENGTH * K, 5), "b_up": (5,), "w_down": (5, K), "b_down": (K,)},
    "compress_v": {"e": (LENGTH, K), "w_up": (LENGTH * K, 5), "b_up": (5,), "w_down": (5, K), "b_down": (K,)},
    "gates": (3, G, N_HEADS, N_TOKENS),
    "q": (G, N_HEADS, N_TOKENS, K),
    "k": (3, G, N_TOKENS, K),
    "v": (3, G, N_TOKENS, K),
}


def their_native_sparse(compress_k, compress_v, gates, q, k, v, width):
    """Its three parts, and its sum; what compresses, of which it knows the mean alone, by PyTorch's own layers."""
    nsa, scale = fla("nsa/naive"), K**-0.5

    def compressed(params, x):
        blocks = torch.nn.functional.pad(x, (0, 0, 0, -N_TOKENS % LENGTH)).unflatten(1, (-1, LENGTH)) + params["e"]
        hidden = torch.nn.functional.linear(blocks.flatten(2), params["w_up"].T, params["b_up"])
        hidden = torch.nn.functional.gelu(hidden, approximate="tanh")
        return heads_third(torch.nn.functional.linear(hidden, params["w_down"].T, params["b_down"]))

    def heads_third(x):
        return x.transpose(0, 1)[None]

    q, k, v = heads_third(q.flatten(0, 1)), [heads_third(x) for x in k], [heads_third(x) for x in v]
    k[0], v[0] = compressed(compress_k, k[0][0].transpose(0, 1)), compressed(compress_v, v[0][0].transpose(0, 1))
    chosen = nsa.naive_nsa_topk(q, k[0], SELECTED, LENGTH, scale)
    t = torch.arange(N_TOKENS)
    near = (t[:, None] >= t) & (t[:, None] - t < width)
    window = (x.transpose(1, 2) for x in (q, k[2], v[2]))
    branches = (
        nsa.naive_nsa_compression(q, k[0], v[0], LENGTH, scale)[0],
        nsa.naive_nsa_selection(q, k[1], v[1], chosen, LENGTH, scale),
        torch.nn.functional.scaled_dot_product_attention(*window, attn_mask=near, enable_gqa=True).transpose(1, 2),
    )
    o = sum(gate.flatten(0, 1).T[..., None] * branch[0] for gate, branch in zip(gates, branches, strict=True))
    return o.transpose(0, 1).unflatten(0, (G, N_HEADS))


@pytest.mark.slow
@few
@given(seed=seeds)
def test_native_sparse_attention_and_its_gradients_are_flas(seed):
    rng = np.random.default_rng(seed)
    inputs = [
        jax.tree.map(rng.standard_normal, shapes, is_leaf=lambda shape: isinstance(shape, tuple))
        for shapes in SPARSE.values()
    ]

    def ours(compress_k, compress_v, gates, q, k, v):
        phi = CompressParams(**compress_k), CompressParams(**compress_v)
        sizes = {"stride": LENGTH, "size": LENGTH, "n": SELECTED, "width": 3}
        return native_sparse_attention(*phi, gates, q, k, v, jnp.arange(N_TOKENS), **sizes)

    assert_same_with_gradients(ours, partial(their_native_sparse, width=3), inputs, seed)


SIZE, CHOSEN = 4, 2  # of a block of MoBA's, and how many of the past a query reads


def their_moba(q, k, v, monkeypatch):
    """Its choice of blocks, on which its kernels' part is done by one softmax; and its counting, of one sequence."""
    moba, n = fla("moba/parallel"), -(-N_TOKENS // SIZE)
    ends = torch.tensor([*range(0, N_TOKENS, SIZE), N_TOKENS], dtype=torch.int32)
    chunks = ends, torch.arange(n - 1), n - 1, torch.zeros(n, dtype=torch.int32)

    def one_softmax(q, k, v, _own, _q, chosen, queries_of, keys_of, _most, _size, places):
        heads = q.shape[1]
        read = {
            (t, h): [(k[t // SIZE * SIZE : t + 1, h], v[t // SIZE * SIZE : t + 1, h])]
            for t in range(N_TOKENS)
            for h in range(heads)
        }
        for block in range(len(keys_of) - 1):
            keys, values = chosen[keys_of[block] : keys_of[block + 1], :, 0].unbind(1)
            for place in places[queries_of[block] : queries_of[block + 1]]:
                read[divmod(int(place), heads)].append((keys, values))
        out = [
            torch.nn.functional.scaled_dot_product_attention(
                q[t, h][None], *(torch.cat(x) for x in zip(*blocks, strict=True))
            )
            for (t, h), blocks in read.items()
        ]
        return torch.cat(out).unflatten(0, (N_TOKENS, heads))

    monkeypatch.setattr(moba, "flash_attn_varlen_func", one_softmax)
    monkeypatch.setattr(moba, "ParallelMoBAFunction", MagicMock(apply=one_softmax))
    monkeypatch.setattr(moba, "prepare_moba_chunks", lambda *_: chunks)
    monkeypatch.setattr(
        moba,
        "prepare_cu_seqlens_from_lens",
        lambda lengths: torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0)),
    )
    q, k, v = (x.transpose(0, 1)[None] for x in (q.flatten(0, 1), k, v))
    k, v = (x.repeat_interleave(N_HEADS, 2) for x in (k, v))
    o = moba.parallel_moba(q, k, v, torch.tensor([0, N_TOKENS]), N_TOKENS, SIZE, CHOSEN + 1)[0]
    return o.transpose(0, 1).unflatten(0, (G, N_HEADS))


@pytest.mark.slow
@few
@given(seed=seeds)
def test_a_mixture_of_blocks_and_its_gradients_are_those_of_flas_choice(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    inputs = [rng.standard_normal(shape) for shape in ((G, N_HEADS, N_TOKENS, K), (G, N_TOKENS, K), (G, N_TOKENS, K))]
    here = Tokens.arange(N_TOKENS)

    def ours(*qkv):
        return moba_attention(*qkv, here, here, size=SIZE, n=CHOSEN)

    assert_same_with_gradients(ours, partial(their_moba, monkeypatch=monkeypatch), inputs, seed)
