"""PyTorch's attention, of tensors and with its gradients: what the oracles of many records have in common."""


def attention(q, k, v, mask, bias):
    """`scaled_dot_product_attention`, which knows no empty rows and one additive mask, as `dot_product_attention`."""
    import torch

    hidden, some = hidden_and_some(mask, bias, (*q.shape[:3], k.shape[1]))
    k, v = (x[:, None].expand(-1, q.shape[1], -1, -1) for x in (k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=hidden) * some


def softmax(scores, mask):
    """Over the keys that a mask leaves, and 0 with a gradient of 0 where it leaves none."""
    import torch

    hidden, some = hidden_and_some(mask, torch.zeros((), dtype=scores.dtype), scores.shape)
    return torch.softmax(scores + hidden, -1) * some


def hidden_and_some(mask, bias, shape):
    """The bias, minus infinity where masked; but not in rows without any key, which the second result would erase."""
    import torch

    mask = mask.expand(shape)
    some = mask.any(-1, keepdim=True)
    return torch.where(mask | ~some, bias, -torch.inf), some
