"""PyTorch's flex_attention, not compiled, in float64: attention whose scores are any function of score and place."""

import numpy as np

FLEX = "torch.nn.attention.flex_attention"


def flex_attention(q, k, v, mask, bias, of_score=lambda score: score):
    """The output `(g, r, t, v)` and the logarithm of each softmax's denominator, `(g, r, t)`.

    A `score_mod` makes of every score `of_score(score) + bias`, or minus infinity where it is masked.
    """
    import torch
    from torch.nn.attention import flex_attention as flex

    flex._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = True  # eager, without a warning that it is
    g, r, t, width = q.shape
    shape = (g * r, t, k.shape[1])
    mask, bias = (torch.tensor(np.broadcast_to(x, (g, r, *shape[1:])).reshape(shape)) for x in (mask, bias))

    def score_mod(score, _, h, t, s):
        return torch.where(mask[h, t, s], of_score(score) + bias[h, t, s], -torch.inf)

    q, k, v = (torch.tensor(x)[None] for x in (q.reshape(g * r, t, width), k, v))
    out, aux = flex.flex_attention(q, k, v, score_mod=score_mod, enable_gqa=True, return_aux=flex.AuxRequest(lse=True))
    return out.numpy().reshape(g, r, t, -1), aux.lse.numpy().reshape(g, r, t)
