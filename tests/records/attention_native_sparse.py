import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import native_sparse
from minilm.layers.attention.native_sparse import CompressParams
from minilm.reference.attention import native_sparse as reference
from tests.records import Record
from tests.strategies import arrays, seeds, sizes, weights

LENGTH = 4
SIZES = sizes((2, 3, 4, 21, 5, 1, 6), (3, 1, 5, 20, 2, 4, 3), (1, 2, 1, 3, 3, 2, 5))  # g, r, t, s, k, v, f


def compress_params(draw, k, f):
    shapes = (LENGTH, k), (LENGTH * k, f), (f,), (f, k), (k,)
    return CompressParams(*(draw(weights(*shape)) for shape in shapes))


@st.composite
def compress_arguments(draw):
    g, _, _, s, k, _, f = draw(SIZES)
    return compress_params(draw, k, f), draw(arrays(g, s, k))


@st.composite
def selected_arguments(draw):
    """Weights of sixteenths, many of them equal, whose sums are exact."""
    g, _, t, s, _, _, _ = draw(SIZES)
    rng = np.random.default_rng(draw(seeds))
    return rng.integers(0, 4, (g, t, -(-s // 2))) / 16, rng.integers(-1, s, t)


@st.composite
def native_sparse_arguments(draw):
    """Queries anywhere and padding among them; nothing that would tie, since probabilities that do are rounded."""
    g, r, t, s, k, v, f = draw(SIZES)
    position = np.random.default_rng(draw(seeds)).integers(-1, s, t)
    gates, q = draw(arrays(3, g, r, t)), draw(weights(g, r, t, k))
    keys, values = draw(weights(3, g, s, k)), draw(arrays(3, g, s, v))
    return compress_params(draw, k, f), compress_params(draw, v, f), gates, q, keys, values, position


def torch_compress(params, x, *, stride):
    import torch

    blocks = torch.nn.functional.pad(x, (0, 0, 0, LENGTH + stride)).unfold(1, LENGTH, stride)
    z = (blocks.mT + params.e)[:, : -(-x.shape[1] // stride)].flatten(2)
    hidden = torch.nn.functional.gelu(z @ params.w_up + params.b_up, approximate="tanh")
    return hidden @ params.w_down + params.b_down


def torch_native_sparse(compress_k, compress_v, gates, q, k, v, position, *, stride, size, n, width):
    """Query by query, with the paper's equation 9 as it is printed, blocks counted from 1."""
    import torch

    k_cmp, v_cmp = torch_compress(compress_k, k[0], stride=stride), torch_compress(compress_v, v[0], stride=stride)
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=q.dtype)
    for g, t in np.ndindex(q.shape[0], q.shape[2]):
        p = int(position[t])
        if p < 0:
            continue
        n_seen = max((p + 1 - LENGTH) // stride + 1, 0)
        spent = torch.softmax(q[g, :, t] @ k_cmp[g, :n_seen].T / q.shape[-1] ** 0.5, -1)
        p_cmp, own = spent.sum(0).detach(), p // size + 1
        importance = torch.zeros(own)
        for j in range(1, own + 1):
            for m, l in np.ndindex(size // stride, LENGTH // stride):
                i = size // stride * j - m - l
                importance[j - 1] += p_cmp[i - 1] if 1 <= i <= n_seen else 0.0
        importance[[0, own - 1, max(own - 2, 0)]] = torch.inf
        tokens = [torch.arange(b * size, (b + 1) * size) for b in importance.topk(min(n, own)).indices]
        tokens = torch.cat(tokens)
        tokens = tokens[tokens <= p]
        window = slice(max(p - width + 1, 0), p + 1)
        for r in range(q.shape[1]):
            query, attend = q[g, r, t][None], torch.nn.functional.scaled_dot_product_attention
            branches = (
                spent[r] @ v_cmp[g, :n_seen],
                attend(query, k[1, g, tokens], v[1, g, tokens])[0],
                attend(query, k[2, g, window], v[2, g, window])[0],
            )
            out[g, r, t] = sum(gate * branch for gate, branch in zip(gates[:, g, r, t], branches, strict=True))
    return out


def record(label, n, **how):
    return Record(
        native_sparse.native_sparse_attention,
        reference.native_sparse_attention,
        reference.native_sparse_attention_backward,
        native_sparse_arguments(),
        static={"stride": 2, "size": 4, "n": n, "width": 3},
        oracles={"torch": torch_native_sparse},
        label=label,
        **how,
    )


# Where a choice changes, a difference sees a jump, and a rounded input another block; where all are chosen, none does.
RECORDS = (
    Record(
        native_sparse.compress,
        reference.compress,
        reference.compress_backward,
        compress_arguments(),
        static={"stride": 2},
        oracles={"torch": torch_compress},
    ),
    Record(
        native_sparse.selected_blocks,
        reference.selected_blocks,
        None,
        selected_arguments(),
        static={"length": LENGTH, "stride": 2, "size": 4, "n": 4},
    ),
    record("some blocks", 4, smooth=False, precise=False),
    record("all blocks", 6),
)
