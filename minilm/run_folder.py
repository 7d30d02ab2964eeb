"""A run's folder: what the run was told, which model it trains, and how that model is found again.

RUN/
  config.json           what the run was told
  model.json            the module of minilm.models, and its Config
  tokenizer.json        with train.bin and validation.bin, the tokens it made
  history.jsonl         what was measured on the way; loss.png draws it
  checkpoints/          see minilm.checkpoint
"""

import dataclasses
import importlib
import json
import re
from pathlib import Path
from typing import Any

from minilm.config import ModelConfig, TrainConfig, from_json, to_json
from minilm.models import MODELS


def new_folder(config: TrainConfig) -> Path:
    """The folder that the config names, or runs/<model>-<number>; one that already holds a run is refused."""
    folder = Path(config.folder) if config.folder else _next_folder(Path("runs"), config.architecture.model)
    if (folder / "config.json").exists():
        raise ValueError(
            f"{folder} already holds a run: continue it with `minilm train --resume {folder}`, or name another."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _next_folder(root, name):
    numbered = re.compile(rf"{re.escape(name)}-(\d+)")
    taken = [int(match[1]) for path in root.glob("*") if (match := numbered.fullmatch(path.name))]
    return root / f"{name}-{max(taken, default=0) + 1}"


# ── what the run was told ────────────────────────────────────────────────────────────────────────────────────────────


def write_config(folder: Path, config: TrainConfig) -> None:
    """Write down what the run was told."""
    (folder / "config.json").write_text(to_json(config))


def read_config(folder: Path) -> TrainConfig:
    """What the run was told."""
    return from_json(TrainConfig, _read(folder, "config.json"))


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


def write_model(folder: Path, architecture: ModelConfig, vocab_size: int) -> None:
    """Write down which module of `minilm.models` the run trains, and with which Config."""
    described = {"model": architecture.model, "config": dataclasses.asdict(model_config(architecture, vocab_size))}
    (folder / "model.json").write_text(json.dumps(described, indent=2))


def read_model(folder: Path) -> tuple[Any, Any]:
    """The module of `minilm.models` that the run trains, and its Config."""
    described = json.loads(_read(folder, "model.json"))
    model = model_named(described["model"])
    return model, from_json(model.Config, json.dumps(described["config"]))


def check_same_model(folder: Path, architecture: ModelConfig) -> None:
    """Refuse to go on with a run under flags that describe another model; what shapes no parameter may change."""
    model, saved = read_model(folder)
    asked = model_config(architecture, saved.vocab_size)
    names = [field.name for field in dataclasses.fields(saved) if field.name not in ("dropout", "remat")]
    described = {"model": (model.__name__, f"minilm.models.{architecture.model}")}
    if type(saved) is type(asked):
        described |= {name: (getattr(saved, name), getattr(asked, name)) for name in names}
    for name, (there, here) in described.items():
        if here != there:
            raise ValueError(
                f"The run in {folder} has {name} {there}, and cannot go on with {here}: train a new run for that."
            )
