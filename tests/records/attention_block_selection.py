import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import block_selection
from minilm.reference.attention import block_selection as reference
from minilm.shapes import Tokens
from tests.records import Record
from tests.strategies import arrays, seeds, sizes

SIZES = sizes((2, 3, 4, 9, 5, 1), (1, 2, 5, 8, 4, 3), (3, 1, 1, 7, 2, 4))  # g, r, t, s, k, v


@st.composite
def largest_arguments(draw):
    """Many of the entries are equal."""
    leading, i = draw(sizes(((2, 3), 5), ((), 4), ((3,), 1)))
    x = np.random.default_rng(draw(seeds)).integers(-1, 2, (*leading, i)) * draw(st.sampled_from([1.0, -1.0]))
    return (x,)


@st.composite
def moba_arguments(draw):
    """Keys in any order, some slots empty; queries anywhere, padding among them, so that rows may be empty."""
    g, r, t, s, k, v = draw(SIZES)
    rng = np.random.default_rng(draw(seeds))
    key = np.where(rng.random(s) < 0.15, -1, rng.permutation(s))
    query = Tokens(rng.integers(-1, s, t), np.zeros(t, int))
    q, keys = draw(arrays(g, r, t, k)), draw(arrays(g, s, k))
    return q, keys, draw(arrays(g, s, v)), query, Tokens(key, np.zeros(s, int))


def torch_moba(q, k, v, query, key, *, size, n):
    """The published algorithm: one gate for each block, the own block's infinite; `topk` of them; then attention."""
    import torch

    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=q.dtype)
    for g, r, t in np.ndindex(tuple(q.shape[:3])):
        p = int(query.position[t])
        seen = (key.position >= 0) & (key.position <= p)
        blocks = sorted({int(b) for b in key.position[seen] // size})
        if not blocks:
            continue
        gate = [q[g, r, t] @ k[g, seen & (key.position // size == b)].mean(0) for b in blocks]
        gate = torch.stack([torch.tensor(torch.inf, dtype=q.dtype) if b == p // size else x for b, x in
                            zip(blocks, gate, strict=True)])  # fmt: skip
        own = int(p // size in blocks)
        order = torch.sort(gate, descending=True, stable=True).indices[: n + own]
        allowed = seen & torch.isin(key.position // size, torch.tensor([blocks[i] for i in order], dtype=torch.int64))
        if allowed.any():
            query_row = q[g, r, t][None]
            attended = torch.nn.functional.scaled_dot_product_attention(query_row, k[g, allowed], v[g, allowed])
            out[g, r, t] = attended[0]
    return out


def mask_arguments():
    return moba_arguments().map(lambda drawn: (*drawn[:2], *drawn[3:]))


# Blocks of two, since a mean of three is rounded, and two sums that tie may then round apart. Where a choice changes,
# a difference sees a jump; where every block is chosen, none does.
RECORDS = (
    Record(block_selection.largest, reference.largest, None, largest_arguments(), static={"n": 2}),
    Record(block_selection.moba_mask, reference.moba_mask, None, mask_arguments(), static={"size": 2, "n": 1}),
    Record(
        block_selection.moba_attention,
        reference.moba_attention,
        reference.moba_attention_backward,
        moba_arguments(),
        static={"size": 2, "n": 1},
        oracles={"torch": torch_moba},
        smooth=False,
    ),
    Record(
        block_selection.moba_attention,
        reference.moba_attention,
        reference.moba_attention_backward,
        moba_arguments(),
        static={"size": 2, "n": 9},
        label="all blocks",
    ),
)
