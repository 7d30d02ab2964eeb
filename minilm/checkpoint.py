"""Checkpoints that survive: a kill at any moment, a full disk, a flipped bit. No pickle.

    RUN/checkpoints/step-00000400/
      state.safetensors     parameters, optimizer, step
      manifest.json         a checksum for every tensor and the tokenizer, the step, the loss on held-out text

A checkpoint is written aside, into a folder with a temporary name; the disk is asked to keep the files, then the
folder; then one rename puts it in place. Whoever looks sees a whole checkpoint or none. The best one is the
one whose manifest holds the lowest loss: there is no pointer that could point at something else.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from minilm.run_folder import (
    command_to_go_on,
    command_to_write,
    read_model,
    read_tokenizer,
    steps,
    sync_folder,
    tokenizer_of,
    write_synced,
)
from minilm.tensor_file import DamagedFileError, read_tensors, write_tensors

_FORMAT = "minilm checkpoint 1"
_TEMPORARY = ".writing-"


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, found, trusted or used; the sentence says what can be done."""


# ── a tree of arrays, by name ────────────────────────────────────────────────────────────────────────────────────────


def flatten(tree) -> dict[str, Any]:
    """The leaves of a tree by their paths, which are their names on disk.

    >>> from minilm.layers.linear import LinearParams
    >>> flatten({"layers": (LinearParams(w=1, b=None), LinearParams(w=2, b=3))})
    {'layers.0.w': 1, 'layers.1.w': 2, 'layers.1.b': 3}
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def restore(like, tensors: dict[str, np.ndarray], where) -> Any:
    """The tree `like`, its leaves replaced by the tensors of the same names, whose shapes and types must agree."""
    expected = flatten(like)
    for name in [*expected, *tensors]:
        here = _describe(expected[name]) if name in expected else "absent"
        there = _describe(tensors[name]) if name in tensors else "absent"
        if name.startswith("optimizer.") and (here == "absent") != (there == "absent"):
            raise CheckpointError(
                f"{where} was saved under another optimizer: its tensor {name!r} is {there}, and this optimizer's is "
                f"{here}. Go on with the --optimizer that it was saved under, or train a new run."
            )
        if here != there:
            raise CheckpointError(
                f"{where} is of another architecture: its tensor {name!r} is {there}, and this model's is {here}. "
                f"Load it with the config.json and model.json of its own run folder."
            )
    return jax.tree.unflatten(jax.tree.structure(like), [tensors[name] for name in expected])


def _describe(leaf):
    return f"{np.dtype(leaf.dtype).name} {tuple(leaf.shape)}"


# ── one checkpoint ───────────────────────────────────────────────────────────────────────────────────────────────────


class Manifest(NamedTuple):
    """What stands beside the tensors.

    `validation` is the loss on held-out text, None if it was not measured; `tokenizer` the checksum of the run's own,
    None where that is not known.
    """

    step: int
    validation: float | None
    progress: dict
    checksums: dict[str, int]
    tokenizer: int | None = None


def save(
    run: Path,
    state,
    *,
    step: int,
    validation: float | None = None,
    progress: dict | None = None,
    keep: int = 2,
    beside: Callable[[], object] = lambda: None,
) -> Path:
    """Write the state as checkpoint `step` of the run; then remove all but the last `keep` checkpoints and the best.

    Whatever goes wrong while writing, the checkpoints that were there remain. Where the run went back to an earlier
    checkpoint, those of later steps lose their names just before the new one gets its own: a run that is killed at
    whatever moment goes on from the course that it left, or from this one. Between the two, `beside` is called: what it
    writes of this course is followed by no checkpoint of another.
    """
    folder = run / "checkpoints"
    final, aside = folder / f"step-{step:08d}", folder / f"{_TEMPORARY}{step:08d}"
    tensors, left = {name: np.asarray(leaf) for name, leaf in flatten(state).items()}, []
    try:
        for leftover in folder.glob(f"{_TEMPORARY}*"):  # of a run that was killed as it wrote
            shutil.rmtree(leftover)
        aside.mkdir(parents=True)
        checksums = write_tensors(aside / "state.safetensors", tensors)
        _write_manifest(
            aside / "manifest.json", Manifest(step, validation, progress or {}, checksums, tokenizer_of(run))
        )
        sync_folder(aside)
        for path in [path for path in steps(run) if path.name >= final.name]:  # of a course that was left
            os.replace(path, folder / f"{_TEMPORARY}{path.name}")
            left.append(path)
        beside()
        os.replace(aside, final)
        sync_folder(folder)
    except OSError as error:
        for path in left if aside.exists() else ():
            os.replace(folder / f"{_TEMPORARY}{path.name}", path)
        shutil.rmtree(aside, ignore_errors=True)
        size = sum(tensor.nbytes for tensor in tensors.values()) / 1e6
        then = "There is no earlier checkpoint: make room, then begin anew."
        if steps(run):
            then = (
                f"The earlier checkpoint {steps(run)[-1]} is intact; make room, then continue with "
                f"`{command_to_go_on(run)}`."
            )
        raise CheckpointError(
            f"Step {step} could not be saved to {folder}: {error.strerror or error} ({size:.1f} MB are needed). {then}"
        ) from error
    _prune(run, keep)
    return final


def read(checkpoint: Path) -> tuple[dict[str, np.ndarray], Manifest]:
    """The tensors and the manifest of one checkpoint, all checksums verified; `DamagedFileError` otherwise."""
    manifest, path = read_manifest(checkpoint), checkpoint / "state.safetensors"
    try:
        return read_tensors(path, manifest.checksums), manifest
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read, nor any tensor in it: {error.strerror}.") from error


def load(checkpoint: Path, like) -> tuple[Any, Manifest]:
    """A checkpoint's state in the structure of `like` (arrays, or the shapes that `jax.eval_shape` gives).

    If it is damaged, the error names the tensor, and the checkpoint before it that is whole.
    """
    try:
        tensors, manifest = read(checkpoint)
    except DamagedFileError as error:
        run = checkpoint.parent.parent
        earlier = [other for other in steps(run) if other.name < checkpoint.name]
        offer = _offer("before it", earlier, f"continue from there with `{command_to_go_on(run)} --from-step")
        raise CheckpointError(f"{error} {offer}") from error
    return restore(like, tensors, checkpoint), manifest


def read_manifest(checkpoint: Path) -> Manifest:
    """A checkpoint's manifest, its own checksum verified, the step in its name, and the tokenizer beside it."""
    path = checkpoint / "manifest.json"
    try:
        document = json.loads(path.read_text())
        content = document["manifest"]
        if document["crc32"] != zlib.crc32(json.dumps(content).encode()):
            raise ValueError("the checksum differs")
        manifest = Manifest(**{name: content[name] for name in Manifest._fields if name in content})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{path} is missing or damaged, so that no tensor beside it can be checked.") from error
    if checkpoint.name != (saved := f"step-{manifest.step:08d}"):
        raise DamagedFileError(f"{checkpoint} is another checkpoint than its name says: it was saved as {saved}.")
    began = tokenizer_of(checkpoint.parent.parent)
    if began is not None and manifest.tokenizer not in (None, began):
        raise DamagedFileError(f"{checkpoint} is of another run: it was saved beside another tokenizer.")
    return manifest


def _write_manifest(path, manifest):
    content = {"format": _FORMAT, **manifest._asdict()}
    document = {"crc32": zlib.crc32(json.dumps(content).encode()), "manifest": content}
    write_synced(path, json.dumps(document, indent=1))


def _offer(where, others, command):
    """The latest of the other checkpoints that is whole, and what takes it."""
    for other in reversed(others):
        try:
            return f"{other} {where} is whole: {command} {read(other)[1].step}`."
        except DamagedFileError:
            continue
    return f"No checkpoint {where} is whole: train again."


# ── the checkpoints of a run ─────────────────────────────────────────────────────────────────────────────────────────


def find(run: Path, step: int | str = "last") -> Path:
    """The checkpoint of a step, or the `last`, or the `best`: that of the lowest loss on held-out text, or the last."""
    found = steps(run)
    if not found:
        raise CheckpointError(f"{run} holds no checkpoint: give the folder of a run, such as `minilm train` makes.")
    if step == "last":
        return found[-1]
    if step == "best":
        return _best(found) or found[-1]
    wanted = run / "checkpoints" / f"step-{int(step):08d}"
    if wanted not in found:
        available = ", ".join(str(int(path.name.removeprefix("step-"))) for path in found)
        raise CheckpointError(f"{run} holds no checkpoint of step {step}; it holds steps {available}.")
    return wanted


def holds(run: Path, step: int) -> bool:
    """Whether the run has a checkpoint of this step."""
    return run / "checkpoints" / f"step-{step:08d}" in steps(run)


def passed_over(run: Path) -> list[Path]:
    """The checkpoints of which `best` cannot know whether they are, for their manifests are missing or damaged."""
    return [checkpoint for checkpoint in steps(run) if not _manifest_is_whole(checkpoint)]


def _manifest_is_whole(checkpoint):
    try:
        return bool(read_manifest(checkpoint))
    except DamagedFileError:
        return False


def _best(found):
    losses = [(read_manifest(checkpoint).validation, checkpoint) for checkpoint in filter(_manifest_is_whole, found)]
    return min([pair for pair in losses if pair[0] is not None], default=(None, None))[1]


def _prune(run, keep):
    """Keep the last few and the best of them; what has a temporary name is of a course that the run has left."""
    found = steps(run)
    for checkpoint in {*found} - {*found[-keep:], _best(found)}:
        shutil.rmtree(checkpoint)
    for left in (run / "checkpoints").glob(f"{_TEMPORARY}*"):
        shutil.rmtree(left, ignore_errors=True)


# ── a trained model ───────────────────────────────────────────────────────────────────────────────────────────────────


class Run(NamedTuple):
    """A trained model, ready to be asked: its module, config, parameters and tokenizer, and where they came from."""

    model: Any
    config: Any
    params: Any
    tokenizer: Any
    manifest: Manifest


def load_run(run: Path | str, step: int | str = "best") -> Run:
    """The model of a run folder with its parameters at `step` (`best`, `last` or a number), and its tokenizer."""
    run = Path(run)
    model, config = read_model(run)
    like = jax.eval_shape(lambda: model.init(jax.random.key(0), config))
    checkpoint = find(run, step)
    try:
        tensors, manifest = read(checkpoint)
    except DamagedFileError as error:
        others = [other for other in steps(run) if other != checkpoint]
        offer = _offer("beside it", others, f"take that with `{command_to_write(run)} --step")
        raise CheckpointError(f"{error} {offer}") from error
    params = {name.removeprefix("params."): tensor for name, tensor in tensors.items() if name.startswith("params.")}
    return Run(model, config, restore(like, params, checkpoint), read_tokenizer(run), manifest)
