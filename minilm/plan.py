r"""What a model costs before it runs: parameters, arithmetic, memory and time. `minilm info` prints it.

| estimate    | how                                                                                         |
|-------------|---------------------------------------------------------------------------------------------|
| parameters  | the shapes that `init` would give: exact                                                    |
| FLOPs       | $2 \cdot out \cdot in$ for each matrix product of the traced program, times the length of a loop |
| weights     | the parameters' bytes; as much again for gradients while a step runs                        |
| optimizer   | the shapes that its `init` would give: exact; AdamW keeps two numbers a parameter           |
| activations | what differentiation keeps between the forward and the backward pass                        |
| cache       | the shapes that `init_state` would give, for each sequence                                  |
| time        | FLOPs over a share of the machine's peak, or bytes over its bandwidth: the larger           |

For GPT-2 the second row is, per token with L blocks, width d, context t and vocabulary n,
$2\,(12 L d^2 + n d) + 4 L t d$ forward, and three times that for training: each product has two gradients. Products
with masked keys count where they are computed. What is no matrix product (norms, softmax, the optimizer) is left out.
"""

import dataclasses
import functools
from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp

from minilm.config import TrainConfig
from minilm.data.batching import Batch
from minilm.flops import executed_flops
from minilm.layers.attention.pallas import Pallas
from minilm.optimizers import make_optimizer
from minilm.training import in_precision, init_state


class Plan(NamedTuple):
    """Counts, FLOPs a token, and bytes."""

    parameters: dict[str, int]  # by part
    forward_flops: float
    training_flops: float
    weights: int
    gradients: int
    optimizer: int
    activations: int
    cache: int  # of one sequence, the whole context long

    @property
    def training_bytes(self) -> int:
        """All that a training step holds at once."""
        return self.weights + self.gradients + self.optimizer + self.activations

    @property
    def generation_bytes(self) -> int:
        """All that generation of one sequence holds."""
        return self.weights + self.cache


def make_plan(model, model_config, config: TrainConfig) -> Plan:
    """Plan a model's training and generation from shapes alone: nothing is allocated.

    Args:
      model: a namespace of `minilm.models`.
      model_config: its Config, with `context_length`.
      config: the batch, the optimizer, and the precision of the training step.
    """
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), model_config))
    b, t = config.batch_size // config.accumulate, model_config.context_length
    batch = Batch(*(jax.ShapeDtypeStruct((b, t), dtype) for dtype in (jnp.int32, jnp.int32, jnp.float32)))
    optimizer = make_optimizer(config.optimization, config.steps)
    state = jax.eval_shape(functools.partial(init_state, optimizer=optimizer), params)

    def logits(params, tokens):
        return model.apply(params, tokens, config=model_config)

    def loss(model_config):
        return in_precision(functools.partial(model.loss, config=model_config), config.compute_dtype)

    # What cannot be followed, as a kernel's loop over tiles, counts as if every tile of keys were visited.
    count = functools.partial(executed_flops, turns=-(-t // Pallas.s_block))
    return Plan(
        parameters=parameters_by_part(params),
        forward_flops=count(logits, params, batch.tokens) / (b * t),
        training_flops=count(jax.grad(loss(model_config), has_aux=True), params, batch) / (b * t),
        weights=bytes_of(params),
        gradients=bytes_of(params),
        optimizer=bytes_of(state.optimizer),
        activations=_activations(loss, model_config, params, batch),
        cache=bytes_of(jax.eval_shape(functools.partial(model.init_state, size=t, config=model_config), params)),
    )


def parameters_by_part(params) -> dict[str, int]:
    """The number of parameters under each field of the model, those of blocks by what they do.

    >>> from minilm.models import gpt
    >>> config = gpt.Config(vocab_size=11, context_length=5, n_layers=2, n_heads=1, d_model=4)
    >>> parameters_by_part(jax.eval_shape(lambda: gpt.init(jax.random.key(0), config)))["embedding"]
    44
    """
    parts: dict[str, int] = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        names = [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)]
        part = " ".join(names[:2] if names[0] == "blocks" else names[:1])
        parts[part] = parts.get(part, 0) + leaf.size
    return parts


def bytes_of(tree) -> int:
    """The bytes of all leaves, arrays or shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _activations(loss, config, params, batch) -> int:
    """What `jax.vjp` keeps for the backward pass, but for the parameters themselves; rounded copies of them count.

    With rematerialisation it keeps little, and while one block runs backwards, that block's own activations again.
    """

    def kept(config):
        residuals = jax.eval_shape(lambda p, batch: jax.vjp(lambda p: loss(config)(p, batch)[0], p)[1], params, batch)
        made, there = (Counter((x.size, x.dtype) for x in jax.tree.leaves(tree)) for tree in (residuals, params))
        return sum(count * size * dtype.itemsize for (size, dtype), count in (made - there).items())

    if not getattr(config, "remat", False):
        return kept(config)
    saved = kept(config)
    return saved + (kept(dataclasses.replace(config, remat=False)) - saved) // config.n_layers
