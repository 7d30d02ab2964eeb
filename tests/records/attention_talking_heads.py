from hypothesis import strategies as st

from minilm.layers.attention import talking_heads
from minilm.reference.attention import talking_heads as reference
from tests import torch_oracle
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

    g, r, t, _ = q.shape
    shape = (g, r, t, k.shape[1])
    mask, bias = (x.expand(shape).flatten(0, 1) for x in (mask, bias))
    k, v = (x.repeat_interleave(r, 0) for x in (k, v))
    talk_scores, talk_weights = (w.reshape(g * r, g * r).T[:, :, None, None] for w in params)
    scores = q.flatten(0, 1) @ k.mT / q.shape[-1] ** 0.5
    scores = torch.nn.functional.conv2d(scores[None], talk_scores)[0] + bias
    weights = torch.nn.functional.conv2d(torch_oracle.softmax(scores, mask)[None], talk_weights)[0]
    return (weights.masked_fill(~mask, 0) @ v).reshape(g, r, t, -1)


RECORDS = (
    Record(
        talking_heads.talking_heads_attention,
        reference.talking_heads_attention,
        reference.talking_heads_attention_backward,
        talking_heads_arguments(),
        oracles={"torch": torch_talking_heads},
    ),
)
