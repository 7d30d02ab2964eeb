"""What cannot run here is at least exported for there: the training step of every model, for CUDA and for TPU."""

import functools
import importlib
import pkgutil

import jax
import jax.export
import jax.numpy as jnp
import pytest

from minilm import models
from minilm.config import ModelConfig, OptimizerConfig
from minilm.data import pairs
from minilm.data.batching import Batch
from minilm.models import MODELS, classifier, decoders, encoders, glove, scorers, seq2seq, tagger, word2vec
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
def test_the_training_step_is_exported_for_other_platforms(name, mixer, optimizer):
    sizes = ModelConfig(
        name, n_layers=2, n_heads=2, d_model=32, context_length=16, dropout=0.1, remat=True, mixer=mixer
    )
    model, config = model_named(name), model_config(sizes, vocab_size=61)
    transform = make_optimizer(OptimizerConfig(optimizer=optimizer), steps=10)
    loss = in_precision(functools.partial(model.loss, config=config), jnp.bfloat16)
    state = jax.eval_shape(lambda key: init_state(model.init(key, config), transform), jax.random.key(0))
    batches = Batch(integers(2, 1, 4, 16), integers(2, 1, 4, 16), floats(2, 1, 4, 16))
    program = exported(make_step(loss, transform, seed=0), state, batches)
    assert "dot_general" in program
    assert "bf16" in program


def exported(step, *arguments):
    """The program of a step, as it would be sent to a machine of either platform."""
    found = jax.export.export(step, platforms=("cuda", "tpu"))(*arguments)
    assert found.platforms == ("cuda", "tpu")
    assert "stablehlo.while" in found.mlir_module(), "one turn a step"
    return found.mlir_module()


def integers(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


READER = encoders.recurrent(encoders.Config(vocab_size=11, d_model=8, cell="lstm", d_hidden=8))
WRITER = decoders.bahdanau(decoders.Config(d_hidden=8, cell="gru"), scorers.additive(8))
LONG, SHORT = (2, 1, 4, 16), (2, 1, 4)  # steps, parts, rows, places
OF_TEXTS = {
    "seq2seq": (
        seq2seq,
        seq2seq.Config(READER, WRITER, vocab_size=13),
        pairs.Batch(integers(*LONG), integers(*SHORT), integers(*LONG), integers(*LONG), floats(*LONG)),
    ),
    "classifier": (
        classifier,
        classifier.Config(READER, pool="attention"),
        classifier.Batch(integers(*LONG), integers(*SHORT), integers(*SHORT), floats(*SHORT)),
    ),
    **{
        f"tagger, {name}": (
            tagger,
            tagger.Config(READER, 5, crf=crf),
            tagger.Batch(integers(*LONG), integers(*SHORT), integers(*LONG), floats(*LONG)),
        )
        for name, crf in (("softmax", False), ("crf", True))
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TEXTS)
def test_so_is_that_of_models_of_whole_texts(name):
    model, config, batches = OF_TEXTS[name]
    transform = make_optimizer(OptimizerConfig(), steps=10)
    state = jax.eval_shape(lambda key: init_state(model.init(key, config), transform), jax.random.key(0))
    step = make_step(functools.partial(model.loss, config=config), transform, seed=0)
    assert "dot_general" in exported(step, state, batches)


@pytest.mark.slow
def test_so_is_that_of_words_vectors():
    config = word2vec.Config(vocab_size=11, d_model=8)
    params = jax.eval_shape(functools.partial(word2vec.init, config=config), jax.random.key(0))
    flags = jax.ShapeDtypeStruct((2, 3, 4, 6), bool)
    output = integers(2, 3, 4, 1), integers(2, 3, 4, 1)
    batches = word2vec.Batch(integers(2, 3, 6), flags, *output, integers(2, 7), floats(2))
    for loss in (word2vec.skip_gram, word2vec.cbow):
        step = jax.jit(functools.partial(word2vec.train_steps, loss))
        assert "dot_general" in exported(step, params, batches, floats(2))
    settings = glove.Config(vocab_size=11, d_model=8)
    state = jax.eval_shape(functools.partial(glove.init, config=settings), jax.random.key(0))
    step = jax.jit(functools.partial(glove.train_steps, config=settings))
    exported(step, state, glove.Batch(integers(2, 9), integers(2, 9), floats(2, 9)))
