import numpy as np
from hypothesis import strategies as st

from minilm.layers.attention import talking_heads
from minilm.reference.attention import talking_heads as reference
from tests.records import Record
from tests.records.attention_core import attention_arguments
from tests.strategies import weights


@st.composite
def talking_heads_arguments(draw):
    rest = draw(attention_arguments())
    g, r = rest[0].shape[:2]
    return talking_heads.TalkingHeadsParams(draw(weights(g, r, g, r)), draw(weights(g, r, g, r))), *rest


def torch_talking_heads(params, q, k, v, mask, bias):
    """Heads as channels, mixed by convolutions of width 1."""
    import torch

    g, r, t, width = q.shape
    s, heads = k.shape[1], g * r
    mask, bias = (torch.tensor(np.broadcast_to(x, (g, r, t, s)).reshape(heads, t, s)) for x in (mask, bias))
    k, v = (torch.tensor(np.repeat(x, r, axis=0)) for x in (k, v))
    talk_scores, talk_weights = (torch.tensor(w.reshape(heads, heads).T.copy())[:, :, None, None] for w in params)
    scores = torch.tensor(q.reshape(heads, t, width)) @ k.mT / width**0.5
    scores = torch.nn.functional.conv2d(scores[None], talk_scores)[0] + bias
    weights = torch.nan_to_num(torch.softmax(scores.masked_fill(~mask, -torch.inf), -1))
    weights = torch.nn.functional.conv2d(weights[None], talk_weights)[0].masked_fill(~mask, 0)
    return (weights @ v).numpy().reshape(g, r, t, -1)


RECORDS = (
    Record(
        talking_heads.talking_heads_attention,
        reference.talking_heads_attention,
        reference.talking_heads_attention_backward,
        talking_heads_arguments(),
        oracles={"torch": torch_talking_heads},
    ),
)
