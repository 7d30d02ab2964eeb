"""A run's folder: what the run was told, which model it trains, and how that model is found again.

RUN/
  config.json           what the run was told
  model.json            the module of minilm.models, its Config, and the checksum of its tokenizer
  tokenizer.json        with train.bin and validation.bin, the tokens it made
  history.jsonl         what was measured on the way; loss.png draws it
  checkpoints/          see minilm.checkpoint
"""

import contextlib
import dataclasses
import fcntl
import importlib
import json
import os
import re
import shlex
import shutil
import zlib
from pathlib import Path
from typing import Any

from minilm.config import SIZES, ModelConfig, TrainConfig, from_json, to_json
from minilm.models import MODELS


def folder_for(config: TrainConfig) -> Path:
    """The folder that the config names, or runs/<model>-<number>; one that already holds a run is refused."""
    folder = Path(config.folder) if config.folder else _next_folder(Path("runs"), config.architecture.model)
    _check_empty(folder)
    return folder


def _check_empty(folder):
    if os.path.exists(folder / "config.json"):  # no method of the path's, which raises where it may not look
        raise ValueError(
            f"{folder} already holds a run: continue it with `{command_to_go_on(folder)}`, or name another."
        )


@contextlib.contextmanager
def begun(folder: Path):
    """Where a run begins in a folder, made if need be: what ends before its first checkpoint leaves it as it was.

    All but its history; where there is none, folders that were made go too.
    """
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.listdir(folder)
    except OSError as error:
        _remove_empty(made)
        raise ValueError(
            f"The run cannot have the folder {folder}: {error.strerror}. Give --folder another, where you may write."
        ) from error
    with alone(folder):
        _check_empty(folder)  # again, for another process may have been faster
        there = set(folder.iterdir())
        try:
            yield
        except BaseException:
            if not steps(folder):
                for path in set(folder.iterdir()) - there - {folder / "history.jsonl"}:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                _remove_empty(made)
            raise


@contextlib.contextmanager
def alone(folder: Path):
    """A run's folder for this process alone, until it ends, however it does; refused where another has it."""
    try:
        descriptor = _locked(folder)
    except (BlockingIOError, FileNotFoundError):  # or one that was, and took the folder with it
        raise ValueError(
            f"Another process is at the run in {folder}, and two would write over each other: wait until it ends, or "
            f"name another folder."
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass  # some file systems know no locks
        if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            return descriptor
        raise FileNotFoundError(folder)
    except OSError:
        os.close(descriptor)
        raise


def _remove_empty(folders):
    for path in folders:
        with contextlib.suppress(OSError):  # it holds something and stays, or was never made
            path.rmdir()


def _next_folder(root, name):
    numbered = re.compile(rf"{re.escape(name)}-(\d+)")
    taken = [int(match[1]) for path in root.glob("*") if (match := numbered.fullmatch(path.name))]
    return root / f"{name}-{max(taken, default=0) + 1}"


def steps(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    found = (run / "checkpoints").glob("step-*")
    return sorted(path for path in found if re.fullmatch(r"step-[0-9]+", path.name) and path.is_dir())


def command_to_go_on(run: Path) -> str:
    """What trains a run further, as a shell takes it.

    >>> command_to_go_on(Path("runs/my texts"))
    "minilm train --resume 'runs/my texts'"
    """
    return f"minilm train --resume {shlex.quote(str(run))}"


def command_to_write(run: Path, prompt: str = "PROMPT") -> str:
    """What lets a run's model continue a text, as a shell takes it."""
    return f"minilm generate {shlex.quote(prompt)} --run {shlex.quote(str(run))}"


def latest_run(root: Path | str = "runs") -> Path:
    """The run under `root` whose newest checkpoint is the newest of all."""
    runs = [run for run in Path(root).glob("*") if any((step / "manifest.json").exists() for step in steps(run))]
    if not runs:
        raise ValueError(f"There is no trained run under {root}/: `minilm train` makes one, in about three minutes.")
    return max(runs, key=lambda run: steps(run)[-1].stat().st_mtime)


# ── files that are whole or as they were ─────────────────────────────────────────────────────────────────────────────


def write_whole(path: Path, text: str) -> None:
    """Make this text the file's, and where that fails, at whatever moment, leave the file as it was.

    It is written aside, and takes the file's name when the disk has kept it; not at all where nothing would change.
    """
    aside = path.with_name(f"{path.name}.writing")
    if path.exists() and path.read_bytes() == text.encode():
        return
    try:
        write_synced(aside, text)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_synced(path: Path, text: str) -> None:
    """Write a file, and return when the disk has kept it."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Ask the disk to keep the folder's own list of names; without it a rename may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ── what the run was told ────────────────────────────────────────────────────────────────────────────────────────────


def write_config(folder: Path, config: TrainConfig) -> None:
    """Write down what the run was told."""
    write_whole(folder / "config.json", to_json(config))


def read_config(folder: Path) -> TrainConfig:
    """What the run was told."""
    return _parsed(folder / "config.json", lambda: from_json(TrainConfig, _read(folder, "config.json")))


def _parsed(path, parse):
    try:
        return parse()
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, for it is no JSON: {error}. Restore it, or train anew.") from None


def _read(folder, name):
    try:
        return (folder / name).read_text()
    except FileNotFoundError:
        raise ValueError(
            f"{folder} is not the folder of a run: it has no {name}. `minilm train` makes one under runs/."
        ) from None


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────────


def model_named(name: str) -> Any:
    """The module `minilm.models.<name>`; a sentence if there is none.

    >>> model_named("gpt").__name__
    'minilm.models.gpt'
    """
    if name not in MODELS:
        raise ValueError(f"There is no model {name!r} in minilm.models; there are {', '.join(MODELS)}.")
    return importlib.import_module(f"minilm.models.{name}")


def model_config(architecture: ModelConfig, vocab_size: int) -> Any:
    """The model's own Config: the fields that it shares with the architecture's flags, and the vocabulary's size."""
    flags = dataclasses.asdict(architecture) | {"vocab_size": vocab_size}
    kind = model_named(architecture.model).Config
    return kind(**{field.name: flags[field.name] for field in dataclasses.fields(kind) if field.name in flags})


def check_architecture(architecture: ModelConfig) -> None:
    """Refuse, before anything is read or learnt, flags that are of another model, and what `init` refuses."""
    import jax  # not above: the command line asks this module before it needs JAX

    check_flags(architecture, ModelConfig())
    model = model_named(architecture.model)
    if "n_heads" in model.Config.__dataclass_fields__ and architecture.d_model % architecture.n_heads:
        raise ValueError(
            f"{architecture.n_heads} heads cannot share a width of {architecture.d_model} equally: choose an --n-heads "
            f"that divides --d-model."
        )
    made = model_config(architecture, vocab_size=2)
    jax.eval_shape(lambda key: model.init(key, made), jax.random.key(0))


def check_flags(architecture: ModelConfig, usual: ModelConfig) -> None:
    """Refuse flags that are of another model, unless they are as usual, or as a run was told before."""
    known = model_named(architecture.model).Config.__dataclass_fields__
    for name in ("mixer", "cell", "d_hidden"):
        if getattr(architecture, name) != getattr(usual, name) and name not in known:
            flag = f"--{name.replace('_', '-')}"
            owners = ", ".join(model for model in MODELS if name in model_named(model).Config.__dataclass_fields__)
            raise ValueError(f"{architecture.model} knows no {flag}: leave it out, or train one that does: {owners}.")


def write_model(folder: Path, architecture: ModelConfig, vocab_size: int, tokenizer: int | None = None) -> None:
    """Write down which module of `minilm.models` the run trains, with which Config and on whose tokens.

    The checksum of the tokenizer is taken where none is told.
    """
    described = {"model": architecture.model, "config": dataclasses.asdict(model_config(architecture, vocab_size))}
    checksum = _tokenizer_checksum(folder) if tokenizer is None else tokenizer
    write_whole(folder / "model.json", json.dumps(described | {"tokenizer": checksum}, indent=2))


def _tokenizer_checksum(folder):
    return zlib.crc32((folder / "tokenizer.json").read_bytes())


def read_model(folder: Path) -> tuple[Any, Any]:
    """The module of `minilm.models` that the run trains, and its Config."""
    path, described = folder / "model.json", _described(folder)
    model = model_named(str(described["model"]))
    config = from_json(model.Config, json.dumps(described["config"]))
    for name in ("vocab_size", *SIZES):
        if getattr(config, name, 1) < 1:
            raise ValueError(
                f"{path} is damaged, for its {name} is {getattr(config, name)}, and must be at least 1: restore it, "
                f"or train anew."
            )
    return model, config


def _described(folder):
    path = folder / "model.json"
    described = _parsed(path, lambda: json.loads(_read(folder, "model.json")))
    if not isinstance(described, dict) or described.keys() - {"tokenizer"} != {"model", "config"}:
        raise ValueError(f"{path} is damaged, for it holds no model with its config: restore it, or train anew.")
    return described


def tokenizer_of(folder: Path) -> int | None:
    """The checksum of the tokenizer that the run began with; None where nothing tells it, as of older runs."""
    return _described(folder).get("tokenizer") if (folder / "model.json").exists() else None


def read_tokenizer(folder: Path) -> Any:
    """The run's tokenizer; refused where it is not the one that its model was trained with."""
    from minilm.data.tokenizers import load  # not above: the command line says its help without NumPy

    path, config, described = folder / "tokenizer.json", read_model(folder)[1], _described(folder)
    tokenizer = load(path)
    if tokenizer.vocab_size != config.vocab_size:
        other = f"has {tokenizer.vocab_size} tokens, and the run's model {config.vocab_size}"
    elif described.get("tokenizer", _tokenizer_checksum(folder)) != _tokenizer_checksum(folder):
        other = "is not what the run began with, though it has as many tokens"
    else:
        return tokenizer
    raise ValueError(f"{path} {other}: restore the tokenizer that the run began with, or train anew.")
