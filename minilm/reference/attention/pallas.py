"""A kernel is no other mathematics: the reference of the kernels is that of blockwise attention."""

from minilm.reference.attention.blockwise import blockwise_attention, blockwise_attention_backward


def pallas_attention(q, k, v, query, key, rule, bias=None, *, t_block=64, s_block=64):
    """Blockwise attention, key by key."""
    return blockwise_attention(q, k, v, query, key, rule, bias)


def pallas_attention_backward(saved, d_out):
    """Gradients with respect to (q, k, v, query, key, rule, bias): the derivation is blockwise attention's."""
    return blockwise_attention_backward(saved, d_out)
