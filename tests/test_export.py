"""What cannot run here is at least compiled for there: the training step of every model, for CUDA and for TPU."""

import functools
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import pytest

from minilm import models
from minilm.config import ModelConfig, OptimizerConfig
from minilm.data.batching import Batch
from minilm.models import MODELS
from minilm.optimizers import OPTIMIZERS, make_optimizer
from minilm.run_folder import model_config, model_named
from minilm.training import in_precision, init_state, make_step

MODULES = [importlib.import_module(f"minilm.models.{module.name}") for module in pkgutil.iter_modules(models.__path__)]
CONTRACT = ("Config", "Params", "init", "apply", "loss", "init_state", "step")


def test_the_table_names_every_model_that_keeps_the_contract_and_no_other():
    keep = {module.__name__.rpartition(".")[2] for module in MODULES if all(hasattr(module, name) for name in CONTRACT)}
    assert keep == set(MODELS)


# One model holds any attention: one of each family. An optimizer sees arrays, not models: all of them for one model.
NAMES = [(name, "mha") for name in sorted(MODELS)]
FAMILIES = [("mixer_lm", mixer) for mixer in ("t5", "gla", "gated-delta-net", "moba:size=4")]
OTHERS = [(*case, "adamw") for case in NAMES + FAMILIES if case != ("gpt", "mha")] + [
    ("gpt", "mha", name) for name in sorted({*OPTIMIZERS} - {"adamw"})
]
CASES = [("gpt", "mha", "adamw"), *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)]


@pytest.mark.parametrize(("name", "mixer", "optimizer"), CASES)
def test_the_training_step_is_lowered_for_other_platforms(name, mixer, optimizer):
    sizes = ModelConfig(
        name, n_layers=2, n_heads=2, d_model=32, context_length=16, dropout=0.1, remat=True, mixer=mixer
    )
    model, config = model_named(name), model_config(sizes, vocab_size=61)
    transform = make_optimizer(OptimizerConfig(optimizer=optimizer), steps=10)
    loss = in_precision(functools.partial(model.loss, config=config), jnp.bfloat16)
    state = jax.eval_shape(lambda key: init_state(model.init(key, config), transform), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((2, 1, 4, 16), jnp.int32)
    batches = Batch(tokens, tokens, jax.ShapeDtypeStruct((2, 1, 4, 16), jnp.float32))
    traced = make_step(loss, transform, seed=0).trace(state, batches)
    for platform in ("cuda", "tpu"):
        lowered = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "dot_general" in lowered, platform
        assert "bf16" in lowered, platform
