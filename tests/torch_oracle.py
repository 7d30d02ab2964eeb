"""What oracles in PyTorch have in common: attention of tensors, and that values and all gradients are those of ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minilm.shapes import Tokens
from tests.tolerances import FORMULA, assert_close


def assert_same_mixer(mixer, theirs, params, x, seed):
    """That a mixer reads one sequence `(t, d)` as `theirs(params, x)` does, with every gradient."""
    apply = jax.jit(mixer.apply)
    assert_same_with_gradients(lambda params, x: apply(params, x, Tokens.arange(len(x))), theirs, (params, x), seed)


def assert_same_with_gradients(ours, theirs, inputs, seed):
    """That a function of JAX's arrays and one of tensors agree, and so do their gradients by every one of the inputs.

    Args:
      ours, theirs: functions of as many arguments as there are inputs, of one result.
      inputs: a sequence of float64 arrays, or of trees of them.
      seed: of the gradient of the result, from which both go back.
    """
    torch = pytest.importorskip("torch")
    tensors = jax.tree.map(lambda x: torch.tensor(np.asarray(x), requires_grad=True), inputs)
    leaves, structure = jax.tree.flatten(tensors)
    expected = theirs(*tensors)
    d_out = np.random.default_rng([seed, 1]).standard_normal(expected.shape)
    # Of what is not trained, or not used, it is 0.
    expected_gradients = torch.autograd.grad(expected, leaves, torch.tensor(d_out), materialize_grads=True)
    out, vjp = jax.vjp(ours, *jax.tree.map(jnp.asarray, inputs))
    assert_close(out, expected.detach().numpy(), FORMULA)
    pairs = zip(vjp(jnp.asarray(d_out)), structure.unflatten(x.numpy() for x in expected_gradients), strict=True)
    for place, (gradient, expected) in enumerate(pairs):
        assert_close(gradient, expected, FORMULA, what=f"gradient of input {place}")


def attention(q, k, v, mask, bias):
    """`scaled_dot_product_attention`, which knows no empty rows and one additive mask, as `dot_product_attention`."""
    import torch

    hidden, some = hidden_and_some(mask, bias, (*q.shape[:3], k.shape[1]))
    k, v = (x[:, None].expand(-1, q.shape[1], -1, -1) for x in (k, v))
    # PyTorch 2.13 accepts a mask of another dtype than q's, and without AVX-512 reads it wrongly.
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=hidden.to(q.dtype)) * some


def softmax(scores, mask):
    """Over the keys that a mask leaves, and 0 with a gradient of 0 where it leaves none."""
    import torch

    hidden, some = hidden_and_some(mask, torch.zeros((), dtype=scores.dtype), scores.shape)
    return torch.softmax(scores + hidden, -1) * some


def hidden_and_some(mask, bias, shape):
    """The bias, minus infinity where masked, and which rows have a key at all.

    In the others nothing is masked, for the softmax of nothing has no gradient; who calls multiplies them by 0.
    """
    import torch

    mask = mask.expand(shape)
    some = mask.any(-1, keepdim=True)
    return torch.where(mask | ~some, bias, -torch.inf), some
