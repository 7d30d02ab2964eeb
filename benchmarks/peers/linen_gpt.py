"""GPT-2 in Flax linen, as its examples write a Transformer."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn


class Block(nn.Module):
    """Pre-norm attention and MLP, each on a residual branch."""

    heads: int

    @nn.compact
    def __call__(self, x):
        """(b, t, d) -> (b, t, d)."""
        d = x.shape[-1]
        mask = nn.make_causal_mask(jnp.ones(x.shape[:2]))
        x = x + nn.MultiHeadDotProductAttention(num_heads=self.heads)(nn.LayerNorm()(x), mask=mask)
        return x + nn.Dense(d)(nn.gelu(nn.Dense(4 * d)(nn.LayerNorm()(x))))


class GPT(nn.Module):
    """Learned positions, tied embedding."""

    vocab: int
    context: int
    layers: int
    heads: int
    d: int

    @nn.compact
    def __call__(self, tokens):
        """Logits."""
        embedding = nn.Embed(self.vocab, self.d)
        x = embedding(tokens) + nn.Embed(self.context, self.d)(jnp.arange(tokens.shape[1]))
        for _ in range(self.layers):
            x = Block(self.heads)(x)
        return embedding.attend(nn.LayerNorm()(x))


def stepper(vocab, context, layers, heads, d):
    """A function (tokens, targets) -> loss that takes one AdamW step."""
    model = GPT(vocab, context, layers, heads, d)
    params = model.init(jax.random.key(0), jnp.zeros((1, context), jnp.int32))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, b2=0.95, weight_decay=0.1))
    state = (params, optimizer.init(params))

    def loss(params, tokens, targets):
        logits = jnp.asarray(model.apply(params, tokens))
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def update(state, tokens, targets):
        params, memory = state
        value, gradient = jax.value_and_grad(loss)(params, tokens, targets)
        updates, memory = optimizer.update(gradient, memory, params)
        return (optax.apply_updates(params, updates), memory), value

    update = jax.jit(update, donate_argnums=0)

    def step(tokens, targets):
        nonlocal state
        state, value = update(state, tokens, targets)
        return float(value)

    return step
