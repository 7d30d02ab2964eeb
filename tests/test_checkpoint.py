"""A checkpoint is whole or it isn't there; what is damaged is named, and what came before it offered."""

import errno
import json
import os
import resource
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import checkpoint
from minilm.checkpoint import CheckpointError
from minilm.run_folder import latest_run, model_named
from minilm.tensor_file import DamagedFileError, read_tensors, write_tensors
from tests.strategies import seeds


class State(NamedTuple):
    params: dict
    step: np.ndarray


def state(step=0):
    rng = np.random.default_rng(step)
    weights = {
        "w": rng.standard_normal((3, 5)).astype(np.float32),
        "b": np.arange(7, dtype=np.int32),
        "one": np.float64(step),
    }
    return State({name: np.asarray(w) for name, w in weights.items()}, np.array(step, np.int32))


def equal(a, b):
    return all(
        x.dtype == y.dtype and (np.asarray(x) == y).all()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def names(run):
    return [path.name for path in checkpoint.steps(run)]


dtypes = st.sampled_from(
    ["float64", "float32", "float16", "int64", "int32", "int8", "uint16", "uint8", "bool", ml_dtypes.bfloat16]
)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@settings(max_examples=40)
@given(seed=seeds, kinds=st.lists(st.tuples(dtypes, shapes), max_size=4))
def test_what_is_written_is_read_by_us_and_by_the_safetensors_library(tmp_path_factory, seed, kinds):
    rng, path = np.random.default_rng(seed), tmp_path_factory.mktemp("tensors") / "state.safetensors"
    tensors = {
        f"tensor.{i}": np.asarray(rng.integers(0, 2, shape)).astype(dtype) for i, (dtype, shape) in enumerate(kinds)
    }
    checksums = write_tensors(path, tensors)
    ours = read_tensors(path, checksums)
    assert list(ours) == list(tensors)
    assert all(ours[name].dtype == tensors[name].dtype and ours[name].shape == tensors[name].shape for name in tensors)
    assert equal(ours, tensors)
    if ml_dtypes.bfloat16 not in [dtype for dtype, _ in kinds]:  # which the library's NumPy face cannot hold
        theirs = safetensors.numpy.load_file(path)
        assert equal([theirs[name] for name in tensors], [*tensors.values()])


def test_a_tensor_that_safetensors_cannot_hold_is_refused(tmp_path):
    with pytest.raises(TypeError, match="dtype complex64 has no place"):
        write_tensors(tmp_path / "x", {"z": np.zeros(2, np.complex64)})


def test_a_saved_state_comes_back_bit_for_bit(tmp_path):
    saved = checkpoint.save(tmp_path, state(4), step=4, validation=1.5, progress={"best": 1.5})
    loaded, manifest = checkpoint.load(saved, jax.eval_shape(lambda: jax.tree.map(jnp.asarray, state())))
    assert equal(loaded, state(4))
    assert (manifest.step, manifest.validation, manifest.progress) == (4, 1.5, {"best": 1.5})


@pytest.mark.parametrize("name", ["state.safetensors", "manifest.json"])
def test_any_flipped_bit_is_noticed(tmp_path, name):
    saved = checkpoint.save(tmp_path, state(1), step=1)
    whole = (saved / name).read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        (saved / name).write_bytes(damaged)
        try:
            tensors, manifest = checkpoint.read(saved)
        except DamagedFileError:
            continue
        # What JSON doesn't distinguish, such as one kind of white space from another, is no damage.
        assert equal(list(tensors.values()), jax.tree.leaves(state(1)))
        assert manifest == checkpoint.read_manifest(saved)
        assert manifest.step == 1


@pytest.mark.parametrize("name", ["state.safetensors", "manifest.json"])
def test_a_file_cut_short_anywhere_is_noticed(tmp_path, name):
    saved = checkpoint.save(tmp_path, state(1), step=1)
    whole = (saved / name).read_bytes()
    for length in range(len(whole)):
        (saved / name).write_bytes(whole[:length])
        with pytest.raises(DamagedFileError, match=name.replace(".", r"\.")):
            checkpoint.read(saved)


def test_a_damaged_checkpoint_is_named_with_its_tensor_and_the_whole_one_before_it_is_offered(tmp_path):
    for step in (10, 20, 30):
        last = checkpoint.save(tmp_path, state(step), step=step, keep=3)
    path = last / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    middle = checkpoint.find(tmp_path, 20) / "state.safetensors"
    content = bytearray(middle.read_bytes())
    content[content.index(np.asarray(state(20).params["w"]).tobytes())] ^= 1
    middle.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"step-00000030.* truncated: tensor 'step' .*step-00000010 .*--from-step 10"
    ):
        checkpoint.load(last, state())
    with pytest.raises(CheckpointError, match=r"step-00000020.* damaged: tensor 'params.w' .*--from-step 10"):
        checkpoint.load(middle.parent, state())


def test_a_header_that_promises_more_than_the_file_holds_is_refused_before_anything_is_allocated(tmp_path):
    path = tmp_path / "state.safetensors"
    for length in (2**63, 10**9, 9):
        path.write_bytes(length.to_bytes(8, "little") + b"{}      ")
        with pytest.raises(DamagedFileError, match="do not hold its own header"):
            read_tensors(path, {})
    for entry in [
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]},
        {"dtype": "X9", "shape": [], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        [],
    ]:
        header = json.dumps({"w": entry}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        with pytest.raises(DamagedFileError, match=r"truncated|cannot be read"):
            read_tensors(path, {"w": 0})


def test_another_architecture_is_refused_by_the_name_of_the_first_tensor_that_differs(tmp_path):
    saved = checkpoint.save(tmp_path, state(1), step=1)
    wider = state()._replace(params=state().params | {"w": np.zeros((3, 6), np.float32)})
    with pytest.raises(
        CheckpointError, match=r"another architecture: its tensor 'params.w' is float32 \(3, 5\), .* float32 \(3, 6\)"
    ):
        checkpoint.load(saved, wider)
    with pytest.raises(CheckpointError, match=r"'params\.more' is absent"):
        checkpoint.load(saved, state()._replace(params=state().params | {"more": np.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"'params\.b' is int32.* this model's is absent"):
        checkpoint.load(saved, state()._replace(params={"w": state().params["w"], "one": state().params["one"]}))


def fails_on_a_full_disk(run, step):
    with pytest.raises(
        CheckpointError, match=rf"Step {step} could not be saved .* MB are needed.*step-00000010 is intact"
    ):
        checkpoint.save(run, state(step), step=step)
    assert names(run) == ["step-00000010"]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000010"]
    loaded, _ = checkpoint.load(checkpoint.find(run), state())
    assert equal(loaded, state(10))


@pytest.mark.parametrize("moment", range(5))
def test_no_space_left_at_any_moment_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, moment):
    checkpoint.save(tmp_path, state(10), step=10)
    calls = iter(range(100))

    def full(wrapped):
        def call(*arguments):
            if next(calls) == moment:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return wrapped(*arguments)

        return call

    # Four fsyncs: tensors, manifest, their folder, the folder of them all; one rename before the last.
    monkeypatch.setattr(os, "fsync", full(os.fsync))
    monkeypatch.setattr(os, "replace", full(os.replace))
    if moment < 4:
        fails_on_a_full_disk(tmp_path, 20)
    else:
        with pytest.raises(CheckpointError, match="No space left on device"):
            checkpoint.save(tmp_path, state(20), step=20)
        assert equal(checkpoint.load(checkpoint.find(tmp_path), state())[0], state(20))


def test_a_file_that_may_not_grow_leaves_the_earlier_checkpoint(tmp_path):
    checkpoint.save(tmp_path, state(10), step=10)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limit[1]))
    try:
        fails_on_a_full_disk(tmp_path, 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_where_the_first_checkpoint_finds_no_room_nothing_is_said_to_be_there_to_go_on_with(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"There is no earlier checkpoint: make room, then begin anew\.$"):
        checkpoint.save(tmp_path, state(10), step=10)


def test_the_last_few_and_the_best_are_kept(tmp_path):
    for step, validation in [(1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 1.5), (6, 1.0)]:
        checkpoint.save(tmp_path, state(step), step=step, validation=validation, keep=2)
    assert names(tmp_path) == ["step-00000002", "step-00000005", "step-00000006"]
    assert checkpoint.find(tmp_path, "best").name == "step-00000002"
    assert checkpoint.find(tmp_path, "last").name == "step-00000006"
    assert checkpoint.find(tmp_path, 5).name == "step-00000005"
    assert checkpoint.holds(tmp_path, 5)
    assert not checkpoint.holds(tmp_path, 4)


def test_a_step_reached_again_replaces_what_stood_there_and_a_killed_writers_remains_go(tmp_path):
    saved = checkpoint.save(tmp_path, state(1), step=1)
    (saved / "state.safetensors").write_bytes(b"damaged")
    (tmp_path / "checkpoints" / ".writing-00000001").mkdir()
    checkpoint.save(tmp_path, state(1), step=1)
    assert equal(checkpoint.load(saved, state())[0], state(1))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


@pytest.fixture
def three(tmp_path):
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, state(step), step=step, keep=3)
    return tmp_path


@pytest.mark.parametrize("moment", range(4))
def test_a_course_that_was_left_comes_back_where_the_new_checkpoint_cannot_take_its_place(three, monkeypatch, moment):
    replace, calls = os.replace, iter(range(100))

    def full(*names):
        if next(calls) == moment:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if names:
            replace(*names)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match="Step 20 could not be saved"):
        checkpoint.save(three, state(7), step=20, beside=full)
    assert [path.name for path in sorted((three / "checkpoints").iterdir())] == names(three)
    for step in (10, 20, 30):
        assert equal(checkpoint.load(checkpoint.find(three, step), state())[0], state(step))


@pytest.mark.parametrize("moment", ["before the last rename", "before what is too many goes"])
def test_a_run_that_went_back_and_is_killed_as_it_saves_goes_on_without_the_course_that_it_left(
    three, monkeypatch, moment
):
    def die(*_):
        raise SystemError("as if killed")

    early = moment == "before the last rename"
    with monkeypatch.context() as patched:
        if not early:
            patched.setattr(checkpoint, "_prune", die)
        with pytest.raises(SystemError):
            checkpoint.save(three, state(7), step=20, beside=die if early else lambda: None)
    assert names(three) == (["step-00000010"] if early else ["step-00000010", "step-00000020"])
    checkpoint.save(three, state(8), step=25)
    assert [path.name for path in sorted((three / "checkpoints").iterdir())] == names(three)


def test_a_checkpoint_that_is_not_there_is_told_from_those_that_are(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint: give the folder of a run"):
        checkpoint.find(tmp_path)
    checkpoint.save(tmp_path, state(3), step=3)
    with pytest.raises(CheckpointError, match="no checkpoint of step 7; it holds steps 3"):
        checkpoint.find(tmp_path, 7)
    with pytest.raises(ValueError, match=r"has no model\.json"):
        checkpoint.load_run(tmp_path)
    with pytest.raises(ValueError, match="There is no trained run under"):
        latest_run(tmp_path / "runs")


def test_a_folder_that_is_named_like_no_checkpoint_is_none(tmp_path):
    run = tmp_path / "run"
    for name in ("step-foo", "step-", "step-00000009x"):
        (run / "checkpoints" / name).mkdir(parents=True)
        (run / "checkpoints" / name / "manifest.json").touch()
    with pytest.raises(ValueError, match="There is no trained run under"):
        latest_run(tmp_path)
    checkpoint.save(run, state(3), step=3)
    assert names(run) == ["step-00000003"]
    assert latest_run(tmp_path) == run
    with pytest.raises(CheckpointError, match="no checkpoint of step 7; it holds steps 3"):
        checkpoint.find(run, 7)


def test_what_best_passes_over_is_what_has_no_whole_manifest(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, state(step), step=step, validation=float(step), keep=3)
    assert checkpoint.passed_over(tmp_path) == []
    damaged = checkpoint.find(tmp_path, 1)
    (damaged / "manifest.json").write_text("{")
    assert checkpoint.passed_over(tmp_path) == [damaged]
    assert checkpoint.find(tmp_path, "best") == checkpoint.find(tmp_path, 2)


def test_a_checkpoint_under_the_name_of_another_step_is_refused_and_passed_over(three):
    renamed = shutil.copytree(checkpoint.find(three, 20), three / "checkpoints" / "step-00000040")
    sentence = r"40 is another checkpoint than its name says: it was saved as step-00000020\. .*30 before it is whole: "
    with pytest.raises(CheckpointError, match=sentence):
        checkpoint.load(checkpoint.find(three), state())
    assert checkpoint.passed_over(three) == [renamed]


def test_a_checkpoint_of_another_run_is_refused_by_its_tokenizer_and_where_none_was_written_down_it_is_trusted(
    tmp_path,
):
    def saved(run, step, **tokenizer):
        (tmp_path / run).mkdir(exist_ok=True)
        (tmp_path / run / "model.json").write_text(json.dumps({"model": "gpt", "config": {}, **tokenizer}))
        return checkpoint.save(tmp_path / run, state(step), step=step, keep=9)

    older, last = saved("ours", 10), saved("ours", 20, tokenizer=1)
    other = shutil.copytree(saved("theirs", 30, tokenizer=2), last.with_name("step-00000030"))
    with pytest.raises(CheckpointError, match=r"30 is of another run: .* another tokenizer\. .*20 before it is whole"):
        checkpoint.load(other, state())
    for trusted, step in ((older, 10), (last, 20)):
        assert checkpoint.load(trusted, state())[1].step == step
    saved("ours", 40)  # as a run of which model.json tells no tokenizer
    assert checkpoint.load(checkpoint.find(tmp_path / "ours"), state())[1].step == 40


def test_another_optimizer_is_named_as_that_and_as_no_other_architecture(tmp_path):
    class Both(NamedTuple):
        params: dict
        optimizer: dict

    saved = checkpoint.save(tmp_path, Both({"w": np.ones(2)}, {"mu": np.ones(3)}), step=1)
    sentence = r"saved under another optimizer: its tensor 'optimizer\.nu' is absent, .* Go on with the --optimizer"
    with pytest.raises(CheckpointError, match=sentence):
        checkpoint.load(saved, Both({"w": np.ones(2)}, {"nu": np.ones(3)}))


@pytest.mark.parametrize("name", ["nothing", "../gpt", "os.path", "", "GPT"])
def test_only_models_of_minilm_are_imported_by_name(name):
    with pytest.raises(ValueError, match="There is no model"):
        model_named(name)
