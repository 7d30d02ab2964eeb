"""Many devices compute what one does; a mesh that cannot be is refused in a sentence."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minilm.layers.linear import LinearParams
from minilm.layers.recurrent.gru import GRUParams
from minilm.parallel import axis_letters, make_mesh
from tests.tolerances import MODEL, SHARDED, assert_close

MESHES = ["data=8", "data=4,model=2", "fsdp=8", "data=2,sequence=4", "data=2,fsdp=2,model=2"]
COMPARED = ("loss", "gradient", "descent", "adamw", "adamw loss", "muon", "muon loss")

# Run on eight devices that the CPU pretends to be, which JAX must be told before it starts.
PROGRAM = """
import functools, json, sys
import jax, jax.numpy as jnp, numpy as np, optax
from minilm.config import OptimizerConfig
from minilm.data.batching import Batch
from minilm.models import gpt, modern
from minilm.parallel import placement
from minilm.optimizers import OPTIMIZERS, make_optimizer
from minilm.training import init_state, make_step

def distance(tree, other):
    leaves = [[np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(t))] for t in (tree, other)]
    return float(max(np.abs(a - b).max() for a, b in zip(*leaves)) / max(np.abs(b).max() for b in leaves[1]))

# Adam divides a gradient by its size, so of one that is zero but for rounding, as a key's bias has, it makes a whole
# step in any direction, which leaves the loss alone. Such entries are compared after a descent; after Adam, those whose
# gradient is more than a thousandth of the largest.
OPTIMIZERS["descent"] = lambda config, rate: optax.sgd(rate)

def directed(params, gradient):
    params, gradient = jax.device_get((params, gradient))
    floor = 1e-3 * max(np.abs(g).max() for g in jax.tree.leaves(gradient))
    return jax.tree.map(lambda p, g: np.where(np.abs(g) > floor, p, 0), params, gradient)

found = []
for model, meshes in ((gpt, sys.argv[1:]), (modern, sys.argv[-1:])):
    config = model.Config(vocab_size=64, context_length=16, n_layers=1, n_heads=4, d_model=32)
    loss = functools.partial(model.loss, config=config)
    names = ("descent", "adamw" if model is gpt else "muon")
    optimizers = {name: make_optimizer(OptimizerConfig(optimizer=name, warmup_steps=1), 10) for name in names}
    key = jax.random.key(0)
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(key, p.shape), model.init(key, config))
    tokens = np.random.default_rng(0).integers(0, 64, (8, 17)).astype(np.int32)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], np.ones((8, 16), np.float32))
    calls = jax.tree.map(lambda leaf: leaf[None, None], batch)
    slope = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, _), gradient = slope(params, batch)
    for mesh in meshes:
        place_state, place_batch = placement(mesh)
        (value_there, _), gradient_there = slope(place_state(params), place_batch(batch))
        row = {"mesh": mesh, "model": model.__name__, "loss": distance(value_there, value)}
        row["gradient"] = distance(gradient_there, gradient)
        for name, optimizer in optimizers.items():
            step, state = make_step(loss, optimizer, seed=0), init_state(params, optimizer)
            here, _ = step(jax.tree.map(jnp.array, state), calls)
            placed = place_state(jax.tree.map(jnp.array, state))
            places = jax.tree.map(lambda leaf: leaf.sharding, placed)
            there, _ = step(placed, place_batch(calls))
            ends = (there.params, here.params)
            row[name] = distance(*(ends if name == "descent" else (directed(end, gradient) for end in ends)))
            (value_there, _), _ = slope(there.params, place_batch(batch))
            row[name + " loss"] = distance(value_there, slope(here.params, batch)[0][0])
            stays = jax.tree.map(lambda place, leaf: place.is_equivalent_to(leaf.sharding, leaf.ndim), places, there)
            row[name + " stays"] = all(jax.tree.leaves(stays))
        row["divided"] = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(there.params))
        found.append(row)
print(json.dumps(found))
"""


def on_eight_devices(program, *arguments):
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    environment = (
        os.environ
        | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        | {
            name.upper(): str(getattr(jax.config, name))
            for name in (
                "jax_compilation_cache_dir",
                "jax_persistent_cache_min_compile_time_secs",
                "jax_persistent_cache_min_entry_size_bytes",
            )
        }
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_eight_devices_compute_what_one_does_and_hold_each_parameter_where_the_mesh_says():
    rows = json.loads(on_eight_devices(PROGRAM, *MESHES))
    bound = SHARDED * float(jnp.finfo(jnp.float32).eps)
    assert [row["mesh"] for row in rows] == [*MESHES, MESHES[-1]]
    for row in rows:
        assert max(value for name, value in row.items() if name in COMPARED) <= bound, row
        assert all(value for name, value in row.items() if name.endswith("stays")), row
        assert (row["divided"] > 0) == ("model" in row["mesh"] or "fsdp" in row["mesh"]), row


# A whole run on two meshes beside one on one device, and one that is interrupted on a mesh and goes on.
RUNS = """
import json, sys
from dataclasses import replace
from pathlib import Path
from minilm import trainer
from tests.test_trainer import StopAfter, config, history, quiet, tensors

root = Path(sys.argv[1])

def train(name, mesh):
    told = config(str(root / "text"), root / name, mesh=mesh)
    trainer.train(replace(told, data=replace(told.data, tokenizer="bpe", vocab_size=300)), quiet())

for name, mesh in (("one", ""), ("model", "data=2,model=2"), ("fsdp", "fsdp=2")):
    train(name, mesh)
trainer.Interruption, whole = StopAfter(2), trainer.Interruption
train("pieces", "fsdp=2")
trainer.Interruption = whole
trainer.resume(root / "pieces", console=quiet())
same = all((a == b).all() for a, b in zip(*(tensors(root / name).values() for name in ("fsdp", "pieces"))))
print(json.dumps({name: history(root / name) for name in ("one", "model", "fsdp", "pieces")} | {"same": same}))
"""


@pytest.mark.slow
def test_a_run_on_a_mesh_learns_what_one_on_one_device_does_and_goes_on_where_it_was_interrupted(tmp_path):
    (tmp_path / "text").mkdir()
    for i, letters in enumerate(np.random.default_rng(0).choice([*"aeinst "], (40, 300))):
        (tmp_path / "text" / f"{i}.txt").write_text("".join(letters))
    found = json.loads(on_eight_devices(RUNS, str(tmp_path)).splitlines()[-1])
    assert found["pieces"] == found["fsdp"]
    assert found["same"]
    numbers = {name: [list(record.values()) for record in found[name]] for name in ("one", "model", "fsdp")}
    assert_close([numbers["model"], numbers["fsdp"]], [numbers["one"]] * 2, MODEL, jnp.float32)


def test_packed_gates_and_absent_biases_have_letters():
    gates = GRUParams(w_x=jnp.ones((2, 9)), w_h=jnp.ones((3, 9)), b_x=jnp.ones(9), b_h=jnp.ones(9))
    assert axis_letters((gates, LinearParams(jnp.ones((2, 3)), None))) == (
        GRUParams(w_x="i 3*h", w_h="h 3*h", b_x="3*h", b_h="3*h"),
        LinearParams("i o", None),
    )


@pytest.mark.parametrize("text", ["data", "data=0", "data=2,data=2", "columns=2", "data=two", ""])
def test_a_mesh_that_is_no_mesh_is_explained(text):
    with pytest.raises(ValueError, match="A mesh is written like data=4,model=2"):
        make_mesh(text)


def test_a_mesh_larger_than_the_machine_says_how_many_devices_there_are():
    with pytest.raises(ValueError, match=r"needs 4096 devices, and JAX sees \d+"):
        make_mesh("data=4096")


def refusal(statement):
    program = f"""
import jax.numpy as jnp
from minilm.layers.linear import LinearParams
from minilm.parallel import placement
try:
    {statement}
except ValueError as error:
    print(error)
"""
    return on_eight_devices(program)


def test_a_rule_that_does_not_divide_names_tensor_axis_and_sizes():
    said = refusal("placement('model=8')[0]({'head': LinearParams(jnp.ones((3, 12)), None)})")
    assert said == (
        "head.w has 12 along its axis 'o', which model=8 doesn't divide: choose a size of model that divides 12, "
        "or leave model out."
    )


def test_a_batch_that_does_not_divide_says_what_would():
    said = refusal("placement('data=4,fsdp=2')[1](jnp.ones((1, 1, 12, 5)))")
    assert said == (
        "A batch of 12 sequences, or a part of one where steps accumulate, doesn't divide over data=4 × fsdp=2: choose "
        "a batch size of which each part is a multiple of 8."
    )


def test_the_parts_of_a_batch_are_asked_before_the_corpus_is_read():
    told = "TrainConfig(mesh='data=2', batch_size=8, accumulate=8, data=DataConfig(corpus='nowhere'))"
    said = refusal(f"from minilm import trainer; from minilm.config import *; trainer.train({told})")
    assert said.startswith(
        "A batch of 1 sequences, or a part of one where steps accumulate, doesn't divide over data=2: "
    )
