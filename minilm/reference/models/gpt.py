"""GPT-2 by hand: forward, backward and training, without automatic differentiation.

Every function is a list of forward lines; its gradient is the same list read upwards. Parameters are the NamedTuples of
`minilm.models.gpt`, whose fields hold NumPy arrays here; gradients come in the same structure. There is no dropout.
"""

from typing import NamedTuple

import numpy as np

from minilm.reference.attention.core import Dense
from minilm.reference.attention.masks import Causal
from minilm.reference.attention.multi_head import multi_head, multi_head_backward
from minilm.reference.embedding import embed, embed_backward, unembed, unembed_backward
from minilm.reference.feed_forward import mlp, mlp_backward
from minilm.reference.losses import Metrics, cross_entropy, cross_entropy_backward
from minilm.reference.normalization import layer_norm, layer_norm_backward
from minilm.reference.optimizers import adamw, clip_by_global_norm, linear_warmup


class Tokens(NamedTuple):
    """Where tokens stand, as in `minilm.shapes`."""

    position: np.ndarray
    document: np.ndarray


def apply(params, tokens):
    """x = E[tokens] + P[positions];  x = block(x) for each block;  logits = norm(x) U^T, with U = E where tied."""
    position = np.arange(tokens.shape[-1])
    e, saved_e = embed(params.embedding, tokens)
    p, saved_p = embed(params.position_embedding, position)
    x, saved_blocks = e + p, []
    for block_params in params.blocks:
        x, saved_block = block(block_params, x, Tokens(position, np.zeros_like(position)))
        saved_blocks.append(saved_block)
    normal, saved_norm = layer_norm(params.norm, x)
    tied = params.unembedding is None
    logits, saved_u = unembed(params.embedding if tied else params.unembedding, normal)
    return logits, (params, saved_e, saved_p, saved_blocks, saved_norm, saved_u, tied)


def apply_backward(saved, d_logits):
    """Gradients with respect to (params, tokens), the lines of `apply` upwards.

    logits = norm(x) U^T   gives  d_U and, through the norm, d_x;
    x = block(x)           gives  d_x before the block from d_x after it, last block first;
    x = e + p              gives  d_e = d_x,  d_p = d_x summed over the sequences, which share their positions;
    U = E, where tied      gives  d_E a second part: the embedding is read at both ends of the model.
    """
    params, saved_e, saved_p, saved_blocks, saved_norm, saved_u, tied = saved
    d_unembedding, d_normal = unembed_backward(saved_u, d_logits)
    d_norm, d_x = layer_norm_backward(saved_norm, d_normal)
    d_blocks = []
    for saved_block in reversed(saved_blocks):
        d_block, d_x = block_backward(saved_block, d_x)
        d_blocks = [d_block, *d_blocks]
    d_p = d_x.reshape(-1, *d_x.shape[-2:]).sum(0)
    d_position_embedding, _ = embed_backward(saved_p, d_p)
    d_embedding, _ = embed_backward(saved_e, d_x)
    d_params = type(params)(
        embedding=d_embedding + d_unembedding if tied else d_embedding,
        position_embedding=d_position_embedding,
        blocks=tuple(d_blocks),
        norm=d_norm,
        unembedding=None if tied else d_unembedding,
    )
    return d_params, None


def block(params, x, tokens):
    """x = x + attention(norm(x));  x = x + mlp(norm(x))."""
    normal, saved_attention_norm = layer_norm(params.attention_norm, x)
    branch, saved_attention = multi_head(params.attention, normal, tokens, Dense(Causal()))
    x = x + branch
    normal, saved_feed_forward_norm = layer_norm(params.feed_forward_norm, x)
    branch, saved_feed_forward = mlp(params.feed_forward, normal)
    x = x + branch
    return x, (params, saved_attention_norm, saved_attention, saved_feed_forward_norm, saved_feed_forward)


def block_backward(saved, d_x):
    """Gradients with respect to (params, x), the lines of `block` upwards.

    x' = x + branch(norm(x))   gives  d_x = d_x' + (the branch's d_x): the gradient passes by every branch undiminished,
                               which is why deep stacks of residual blocks can be trained.
    """
    params, saved_attention_norm, saved_attention, saved_feed_forward_norm, saved_feed_forward = saved
    d_feed_forward, d_normal = mlp_backward(saved_feed_forward, d_x)
    d_feed_forward_norm, d_branch = layer_norm_backward(saved_feed_forward_norm, d_normal)
    d_x = d_x + d_branch
    d_attention, d_normal, *_ = multi_head_backward(saved_attention, d_x)
    d_attention_norm, d_branch = layer_norm_backward(saved_attention_norm, d_normal)
    d_x = d_x + d_branch
    d_params = type(params)(
        attention_norm=d_attention_norm,
        attention=d_attention,
        feed_forward_norm=d_feed_forward_norm,
        feed_forward=d_feed_forward,
    )
    return d_params, d_x


def loss(params, batch):
    """The mean cross-entropy of the batch: ((loss, metrics), saved)."""
    logits, saved_logits = apply(params, batch.tokens)
    out, saved_loss = cross_entropy(logits, batch.targets, batch.weights)
    return out, (saved_logits, saved_loss)


def loss_backward(saved, d_loss=1.0):
    """The gradient of every parameter, in the structure of the parameters."""
    saved_logits, saved_loss = saved
    d_logits, _, _ = cross_entropy_backward(saved_loss, (d_loss, Metrics(0.0, 0.0, 0.0)))
    d_params, _ = apply_backward(saved_logits, d_logits)
    return d_params


def train(params, batches, peak, warmup, decay, largest):
    """Train on each of the batches once: AdamW after a warm-up, clipped gradients, decay of the fields `w_*` alone.

    Returns:
      (params, losses): the trained parameters, and the loss at every step before its update.
    """
    names, losses = list(field_names(params)), []
    states: list = [None] * len(names)
    for step, batch in enumerate(batches):
        (value, _), saved = loss(params, batch)
        gradients = clip_by_global_norm(list(arrays(loss_backward(saved))), largest)
        rate, weights = linear_warmup(step, peak, warmup), list(arrays(params))
        for i, name in enumerate(names):
            shrink = decay if name.startswith("w_") else 0.0
            states[i], update = adamw(states[i], gradients[i], rate, weights[i], shrink)
            weights[i] = weights[i] + update
        params = rebuilt(params, iter(weights))
        losses.append(value)
    return params, losses


def arrays(tree):
    """The arrays of nested tuples, from first to last; None is no array."""
    if isinstance(tree, tuple):
        for branch in tree:
            yield from arrays(branch)
    elif tree is not None:
        yield tree


def field_names(tree, name=""):
    """For each of the arrays, in the same order, the name of the field that holds it."""
    if isinstance(tree, tuple):
        for field, branch in zip(getattr(tree, "_fields", [name] * len(tree)), tree, strict=True):
            yield from field_names(branch, field)
    elif tree is not None:
        yield name


def rebuilt(tree, new):
    """The same nested tuples around new arrays, taken from an iterator in order."""
    if isinstance(tree, tuple):
        branches = [rebuilt(branch, new) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
    return None if tree is None else next(new)
