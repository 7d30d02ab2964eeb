"""GPT-2 in Flax nnx, as its examples write a Transformer."""

import jax.numpy as jnp
import optax
from flax import nnx


class Block(nnx.Module):
    """Pre-norm attention and MLP, each on a residual branch."""

    def __init__(self, d, heads, rngs):
        self.norm_1, self.norm_2 = nnx.LayerNorm(d, rngs=rngs), nnx.LayerNorm(d, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(num_heads=heads, in_features=d, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(d, 4 * d, rngs=rngs), nnx.Linear(4 * d, d, rngs=rngs)

    def __call__(self, x):
        """(b, t, d) -> (b, t, d)."""
        x = x + self.attention(self.norm_1(x), mask=nnx.make_causal_mask(jnp.ones(x.shape[:2])))
        return x + self.down(nnx.gelu(self.up(self.norm_2(x))))


class GPT(nnx.Module):
    """Learned positions, tied embedding."""

    def __init__(self, vocab, context, layers, heads, d, rngs):
        self.embedding, self.position = nnx.Embed(vocab, d, rngs=rngs), nnx.Embed(context, d, rngs=rngs)
        self.blocks = nnx.List([Block(d, heads, rngs) for _ in range(layers)])
        self.norm = nnx.LayerNorm(d, rngs=rngs)

    def __call__(self, tokens):
        """Logits."""
        x = self.embedding(tokens) + self.position(jnp.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.embedding.attend(self.norm(x))


def stepper(vocab, context, layers, heads, d):
    """A function (tokens, targets) -> loss that takes one AdamW step."""
    model = GPT(vocab, context, layers, heads, d, nnx.Rngs(0))
    transform = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, b2=0.95, weight_decay=0.1))
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)

    def loss(model, tokens, targets):
        return optax.softmax_cross_entropy_with_integer_labels(model(tokens), targets).mean()

    @nnx.jit
    def update(model, optimizer, tokens, targets):
        value, gradient = nnx.value_and_grad(loss)(model, tokens, targets)
        optimizer.update(model, gradient)
        return value

    return lambda tokens, targets: float(update(model, optimizer, jnp.asarray(tokens), jnp.asarray(targets)))
