"""Going on with a run: which flags would make another run of it, and which would train nothing."""

import dataclasses
from pathlib import Path

from minilm.config import ModelConfig, TrainConfig
from minilm.run_folder import check_flags, model_config, read_config, read_model
from minilm.training import EarlyStopping

_OF_NO_STEP = ("folder", "baselines", "samples", "prompt")  # flags that the parameters do not depend on


def check_same_run(folder: Path, saved: TrainConfig, config: TrainConfig) -> None:
    """Refuse to go on under flags that are another run's."""
    _check_same_model(folder, config.architecture)
    check_flags(config.architecture, saved.architecture)
    if config.data != saved.data:
        raise ValueError(f"The run in {folder} has read its corpus: other data, or another tokenizer, is another run.")
    if config.folder not in ("", saved.folder) and Path(config.folder).resolve() != folder.resolve():
        raise ValueError(
            f"The run in {folder} goes on where it is, and not in {config.folder}: leave --folder out, or copy the "
            f"run there and --resume the copy."
        )


def check_steps(folder: Path, config: TrainConfig, step: int, progress: EarlyStopping) -> None:
    """Refuse to go on from a step under flags that end before it, or whose patience lets no further one be made.

    Under the flags that it had, a run that stopped early may be asked again for what it says at its end.
    """
    if config.steps < step:
        raise ValueError(
            f"The run in {folder} would go on from step {step}, and --steps {config.steps} ends before it: give "
            f"{step} or more, or go back with --from-step."
        )
    saved = read_config(folder)
    told = dataclasses.replace(config, **{name: getattr(saved, name) for name in _OF_NO_STEP})
    if told != saved and step < config.steps and progress.exhausts(config.patience):
        raise ValueError(
            f"The run in {folder} is at step {step}, {progress.in_words()}, and under --patience {config.patience} it "
            f"makes no step: give --patience 0, which never stops, or more than {progress.waited}."
        )


def _check_same_model(folder: Path, architecture: ModelConfig) -> None:
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
