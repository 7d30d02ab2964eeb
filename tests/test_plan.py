"""Every estimate of `minilm info` against what is compiled and run."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minilm import generation, machines, plan, run_folder
from minilm.backends import Attention
from minilm.config import PRESETS, OptimizerConfig
from minilm.data.batching import Batch
from minilm.layers.attention.masks import Causal
from minilm.layers.attention.multi_head import softmax_mixer
from minilm.layers.attention.rotary import Rotary
from minilm.models import gpt, mixer_lm, modern
from minilm.optimizers import make_optimizer
from minilm.sampling import GREEDY, check_sampler
from minilm.training import KEPT_BARRIERS, in_precision, init_state, make_step
from minilm.variants import heads_of
from tests import tolerances

QUICK = dataclasses.replace(PRESETS["quick"], batch_size=6, optimization=OptimizerConfig())
MUON = dataclasses.replace(QUICK, optimization=OptimizerConfig(optimizer="muon"), compute_dtype="bfloat16")
CONFIG = gpt.Config(vocab_size=300, context_length=48, n_layers=3, n_heads=2, d_model=64)
REMAT = dataclasses.replace(CONFIG, remat=True)
MODERN = modern.Config(vocab_size=300, context_length=48, n_layers=3, n_heads=2, d_model=64, remat=True)

DTYPES = ("bfloat16", "float32")

# The other tests are compiled in haste (conftest.py); these are about what a user's compiler makes of a model.
OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


@functools.cache
def planned(config, told=QUICK):
    with jax.enable_x64(False):
        return plan.make_plan(model_of(config), config, told)


def model_of(config):
    return modern if isinstance(config, modern.Config) else gpt


def total_bytes(compiled):
    """What the compiled program holds at once; the compiler's own peak leaves temporaries out on a CPU."""
    memory = compiled.memory_analysis()
    parts = (memory.temp_size_in_bytes, memory.argument_size_in_bytes, memory.output_size_in_bytes)
    return sum(parts) - memory.alias_size_in_bytes


def test_parameters_are_counted_exactly():
    params = gpt.init(jax.random.key(0), CONFIG)
    assert sum(planned(CONFIG).parameters.values()) == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert planned(CONFIG).parameters["embedding"] == 300 * 64
    assert planned(CONFIG).parameters["blocks feed_forward"] == 3 * (2 * 64 * 256 + 64 + 256)
    assert planned(CONFIG).weights == sum(leaf.size * 4 for leaf in jax.tree.leaves(params))


def test_arithmetic_is_the_formula_of_the_page():
    L, d, t, n = 3, 64, 48, 300
    forward = 2 * (12 * L * d**2 + n * d) + 4 * L * t * d
    assert planned(CONFIG).forward_flops == forward
    assert planned(CONFIG).training_flops == 3 * forward


def by_kernels(d, heads):
    """A variant that attends by the kernels."""
    return softmax_mixer(Rotary(Attention(Causal(), backend="pallas")), **heads_of(d, heads), bias=False)


def test_of_attention_in_tiles_those_count_that_are_visited_and_within_kernels_all():
    """Tiles of 128 queries and as many keys, of which each query and key multiplies twice a head's width."""

    def flops(mixer, t):
        config = mixer_lm.Config(vocab_size=300, context_length=t, n_layers=3, n_heads=2, d_model=64, mixer=mixer)
        return plan.make_plan(mixer_lm, config, QUICK).forward_flops * t

    tile = 3 * 4 * 128**2 * 64
    assert flops("mha", 512) - flops("window:width=64", 512) == ((1 + 2 + 3 + 4) - (1 + 2 + 2 + 2)) * tile
    assert flops(f"{__name__}:by_kernels", 128) == flops("mha", 128)


def compiled_step(config, told):
    """A step as a user's compiler makes it, and the FLOPs of its gradient as that compiler counts them."""
    with jax.enable_x64(False):
        model, optimizer = model_of(config), make_optimizer(told.optimization, told.steps)
        state = jax.eval_shape(lambda: init_state(model.init(jax.random.key(0), config), optimizer))
        shape = (1, 1, 6, 48)
        batches = Batch(*(jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.int32, jnp.int32, jnp.float32)))
        loss = in_precision(functools.partial(model.loss, config=config), told.compute_dtype)
        step = make_step(loss, optimizer, seed=0, remat=config.remat).lower(state, batches).compile(OPTIMIZED)
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), batches)
        gradient = jax.jit(jax.grad(lambda p, batch: loss(p, batch)[0]), compiler_options=KEPT_BARRIERS)
        flops = gradient.lower(state.params, one).compile(OPTIMIZED).cost_analysis()["flops"]
    return step, flops / (6 * 48)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "told"),
    [(CONFIG, QUICK), (REMAT, QUICK), (MODERN, MUON)],
    ids=["plain", "remat", "modern, muon, bfloat16, remat"],
)
def test_training_is_what_the_compiler_counts_and_holds(config, told):
    (step, flops), estimate = compiled_step(config, told), planned(config, told)
    tolerances.assert_estimate(estimate.training_flops, flops, tolerances.FLOPS_ESTIMATE)
    tolerances.assert_estimate(estimate.training_bytes, total_bytes(step), tolerances.BYTES_ESTIMATE)


@pytest.mark.slow
def test_rematerialisation_holds_little_more_than_half_of_what_a_step_without_it_does():
    plain, remat = (total_bytes(compiled_step(config, QUICK)[0]) for config in (CONFIG, REMAT))
    assert remat < 0.6 * plain


@pytest.mark.parametrize("remat", [False, True])
def test_weights_that_bfloat16_copies_are_no_activations_less(remat):
    """Wide and short: there are many weights and hardly an activation."""
    config = dataclasses.replace(MODERN, vocab_size=4096, context_length=8, remat=remat)
    half, whole = (planned(config, dataclasses.replace(MUON, batch_size=1, compute_dtype=d)) for d in DTYPES)
    assert half.activations > 1.9 * (sum(half.parameters.values()) - half.parameters["embedding"])
    assert 0 < whole.activations < half.activations


@pytest.mark.slow
def test_generation_holds_its_weights_and_its_cache():
    with jax.enable_x64(False):
        params = gpt.init(jax.random.key(0), CONFIG)
        progress = generation.start(gpt, params, CONFIG, [[1, 2, 3]], max_new_tokens=4)
        arguments = (gpt, CONFIG, params, check_sampler(GREEDY), np.int32(-1), progress, 4)
        held = total_bytes(generation.advance.lower(*arguments).compile(OPTIMIZED))
    assert planned(CONFIG).cache == plan.bytes_of(progress.state)
    tolerances.assert_estimate(planned(CONFIG).generation_bytes, held, tolerances.BYTES_ESTIMATE)


def test_time_falls_with_the_machine_and_memory_decides_what_fits():
    estimate = planned(CONFIG)
    slow = machines.Machine("slow", 1e9, 1e9, 1e6, "")
    fast = machines.Machine("fast", 1e12, 1e12, 1e12, "")
    ratio = machines.training_seconds(estimate, slow, 10) / machines.training_seconds(estimate, fast, 10)
    assert round(ratio) == 1000
    assert machines.token_seconds(estimate, slow) > machines.token_seconds(estimate, fast)
    assert machines.fits(estimate.training_bytes, fast)
    assert not machines.fits(estimate.training_bytes, slow)
    # Writing one token is bound by bandwidth on anything that multiplies faster than it reads.
    assert machines.token_seconds(estimate, slow) == estimate.generation_bytes / 1e9


def test_the_table_of_machines_is_plausible():
    for machine in machines.ACCELERATORS:
        assert 1e13 < machine.flops < 1e16
        assert 1e11 < machine.bandwidth < 1e13
        assert 1e10 < machine.memory < 1e12
        assert machine.source


def test_the_preset_of_accelerators_fits_the_smallest_of_them_part_by_part_and_not_at_once():
    told, smallest = PRESETS["gpu"], min(machines.ACCELERATORS, key=lambda machine: machine.memory)
    model_config = run_folder.model_config(told.architecture, told.data.vocab_size)
    for config, fits in ((told, True), (dataclasses.replace(told, accumulate=1), False)):
        with jax.enable_x64(False):
            needed = plan.make_plan(modern, model_config, config).training_bytes
        assert machines.fits(needed, smallest) == fits
