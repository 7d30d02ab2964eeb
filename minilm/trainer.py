"""A training run, from the corpus to the samples, and its continuation after an interruption.

    documents → tokenizer → tokens on disk → batches → steps, measured and saved as they go → what was learnt

`train` begins a run in a new folder and `resume` goes on with one; between them there is one loop. A run is a function
of its config and its corpus: interrupted and resumed, it ends with the same bits.
"""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from minilm import checkpoint
from minilm.config import TrainConfig, check, from_json, to_json
from minilm.data.batching import Batch, Batches, evaluation_batches
from minilm.data.preparation import Corpus, prepare, reopen

from minilm.generation import generate_text
from minilm.history import History, draw_loss
from minilm.interruption import Interruption
from minilm.models.ngram import baselines
from minilm.panel import Pace, Panel, Reading, comparison
from minilm.sampling import Sampler
from minilm.training import (
    EarlyStopping, TrainState, in_precision, init_state, make_evaluate, make_optimizer, make_step, schedule,
)  # fmt: skip

_SAMPLE_TOKENS = 80
_WRITER = Sampler(temperature=0.8, top_p=0.95)


class Result(NamedTuple):
    """How a run ended: `validation` in bits per byte on all of the held-out text, `signal` if one interrupted it."""

    folder: Path
    step: int
    validation: float | None
    baselines: dict[str, float]
    samples: list[str]
    signal: int | None

    @property
    def exit_code(self) -> int:
        """0, or 128 + the signal's number, as shells count: 130 after Ctrl-C, 143 after SIGTERM."""
        return 0 if self.signal is None else 128 + self.signal


class NotFiniteError(ArithmeticError):
    """A loss or a gradient that is no number; the sentence names its step and the last good checkpoint."""


# ── beginning, and going on ──────────────────────────────────────────────────────────────────────────────────────────


def train(config: TrainConfig, console: Console | None = None) -> Result:
    """Begin a run in a new folder: read the corpus, learn a tokenizer, train, measure, write samples."""
    model = checkpoint.model_named(check(config).architecture.model)
    folder = _new_folder(config)
    corpus = prepare(config.data, folder)
    _check_lengths(corpus, config)
    checkpoint.describe_model(folder, config.architecture.model, _model_config(model, config, corpus))
    (folder / "config.json").write_text(to_json(config))
    return _run(config, folder, None, console or Console())


def resume(
    folder: Path | str, config: TrainConfig | None = None, from_step: int | str = "last", console: Console | None = None
) -> Result:
    """Go on with a run from its last checkpoint, or an earlier one; with its own config, or one that trains it further."""
    folder = Path(folder)
    start = checkpoint.find(folder, from_step)
    config = check(config or read_config(folder))
    _check_same_model(config, folder)
    (folder / "config.json").write_text(to_json(config))
    return _run(config, folder, start, console or Console())


def read_config(folder: Path | str) -> TrainConfig:
    """The config of a run, from its folder."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise checkpoint.CheckpointError(
            f"{folder} is not the folder of a run: it has no config.json. `minilm train` makes one under runs/."
        )
    return from_json(TrainConfig, path.read_text())


def default_preset() -> str:
    """`gpu` where JAX sees an accelerator, else `default`."""
    return "gpu" if jax.default_backend() in ("gpu", "tpu") else "default"


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Machine(NamedTuple):
    """What a run computes with."""

    model_config: Any
    initial: Callable[[], TrainState]
    advance: Callable  # (state, batches) -> (state, metrics), some steps further
    evaluate: Callable  # (params, batches) -> (nats, tokens)
    learning_rate: Callable
    place_state: Callable
    place_batch: Callable


def _build(config: TrainConfig, folder: Path) -> _Machine:
    model, model_config = checkpoint.read_model(folder)
    loss = functools.partial(model.loss, config=model_config)
    loss = in_precision(loss, config.compute_dtype) if config.compute_dtype != "float32" else loss
    optimizer = make_optimizer(config.optimization, config.steps)

    def initial():
        return init_state(model.init(jax.random.key(config.seed), model_config), optimizer)

    return _Machine(
        model_config, initial, make_step(loss, optimizer, config.seed), make_evaluate(loss),
        schedule(config.optimization, config.steps), *_placement(config.mesh),
    )  # fmt: skip


def _run(config: TrainConfig, folder: Path, start: Path | None, console: Console) -> Result:
    corpus, machine, history = reopen(folder), _build(config, folder), History(folder / "history.jsonl")
    batches = Batches(corpus.train.tokens, config.architecture.context_length, config.batch_size, config.seed)

    def validate(params, limit=config.evaluate_batches) -> float:
        nats, tokens = machine.evaluate(params, map(machine.place_batch, _held_out_batches(corpus, config, limit)))
        return nats / tokens

    state, progress = _begin(machine, start)
    step = int(state.step)
    _introduce(console, config, folder, corpus, machine, state)
    if step == 0:
        first = validate(state.params)
        console.print(f"loss     {first:.3f} at the start; guessing gives ln {machine.model_config.vocab_size:,} = "
                      f"{math.log(machine.model_config.vocab_size):.3f}\n", highlight=False)  # fmt: skip
        history.add([_measured(0, first, corpus)])
    history.cut_after(step)

    pace = Pace(config.batch_size * config.architecture.context_length, config.steps)
    with Interruption() as interruption, Panel(console, device_name(), step, config.steps) as panel:
        while step < config.steps and not interruption.signal and not _stopped_early(progress, config):
            end = _end_of_call(step, config)
            state, metrics = machine.advance(state, machine.place_batch(_stack(batches, range(step, end), config)))
            metrics = jax.device_get(metrics)
            _check_finite(metrics["loss"] + metrics["gradient_norm"], step + 1, folder)
            pace.made(end - step)
            history.add(_made(metrics, step, machine.learning_rate, pace))
            step, loss = end, float(metrics["loss"].mean())
            panel.show(Reading(step, loss, corpus.train.bits_per_byte(loss), pace.tokens_per_second, pace.seconds_left(step)))

            if step % config.evaluate_every == 0 or step == config.steps:
                measured = validate(state.params)
                _check_finite(np.array([measured]), step, folder)
                progress = progress.after(step, measured)
                history.add([_measured(step, measured, corpus)])
                panel.say(f"step {step} on held-out text: loss {measured:.3f}, {corpus.validation.bits_per_byte(measured):.3f} "
                          f"bits per byte{'' if progress.waited else ', the best so far'}")  # fmt: skip
                checkpoint.save(folder, state, step=step, validation=measured, progress=progress._asdict(), keep=config.keep)
                pace.rest()
        if interruption.signal and not checkpoint.holds(folder, step):
            checkpoint.save(folder, state, step=step, progress=progress._asdict(), keep=config.keep)

    draw_loss(history.records(), folder / "loss.png", f"{config.architecture.model} on {config.data.corpus}")
    if interruption.signal:
        _print(console, f"\nInterrupted; step {step} is saved. This goes on as if nothing had happened:\n\n"
                        f"    minilm train --resume {folder}\n")  # fmt: skip
        return Result(folder, step, None, {}, [], interruption.signal)
    return _conclude(config, folder, step, validate, corpus, console)


def _begin(machine: _Machine, start: Path | None) -> tuple[TrainState, EarlyStopping]:
    if start is None:
        return machine.place_state(machine.initial()), EarlyStopping()
    state, manifest = checkpoint.load(start, jax.eval_shape(machine.initial))
    return machine.place_state(jax.tree.map(jnp.array, state)), EarlyStopping(**manifest.progress)


def _conclude(config, folder, step, validate, corpus, console) -> Result:
    """Measure the best state on all of the held-out text, beside the baselines; let it write; say where everything is."""
    run = checkpoint.load_run(folder, "best")
    if run.manifest.step != step:
        _print(console, f"The best state was that of step {run.manifest.step}; what follows is about it.")
    validation = corpus.validation.bits_per_byte(validate(jax.tree.map(jnp.array, run.params), limit=0))
    compared = baselines(config.baselines, corpus.train, corpus.validation, run.tokenizer)
    console.print(comparison({"this model": validation, **compared}))
    samples = _samples(config, run)
    for sample in samples:
        _print(console, f"\n{config.prompt}{sample}")
    _print(console, f"\nEverything is in {folder}: checkpoints, tokenizer, history.jsonl, loss.png.\n\n"
                    f"    minilm generate \"{config.prompt}\" --run {folder}\n"
                    f"    minilm train --resume {folder} --steps {2 * config.steps}\n")  # fmt: skip
    return Result(folder, step, validation, compared, samples, None)


def _samples(config, run):
    if not config.samples:
        return []
    return generate_text(
        run.model, run.params, run.config, run.tokenizer, [config.prompt] * config.samples,
        max_new_tokens=_SAMPLE_TOKENS, sampler=_WRITER, key=jax.random.key(config.seed),
    )  # fmt: skip


def _placement(mesh: str) -> tuple[Callable, Callable]:
    """Two functions that put a state, and a batch, where they belong: on the one device, or spread over a mesh."""
    if not mesh:
        return jax.device_put, jax.device_put
    from minilm.parallel import placement

    return placement(mesh)


# ── steps and batches ────────────────────────────────────────────────────────────────────────────────────────────────


def _end_of_call(step: int, config: TrainConfig) -> int:
    """The step after the next call: a function of the step alone, so that a resumed run makes the same calls."""
    next_measurement = (step // config.evaluate_every + 1) * config.evaluate_every
    return min(step + config.steps_per_call, next_measurement, config.steps)


def _stack(batches: Batches, steps: range, config: TrainConfig) -> Batch:
    """The batches of some steps, `(steps, parts, b, t)`."""
    made = [batches.batch(step) for step in steps]
    return Batch(*(
        np.stack(leaves).reshape(len(steps), config.accumulate, -1, leaves[0].shape[-1]) for leaves in zip(*made, strict=True)
    ))  # fmt: skip


def _held_out_batches(corpus: Corpus, config: TrainConfig, limit: int) -> Iterator[Batch]:
    """All batches of the held-out text, or about `limit` of them, evenly spread over it."""
    b, t = config.batch_size, config.architecture.context_length
    n = math.ceil((len(corpus.validation.tokens) - 1) / (b * t))
    stride = math.ceil(n / limit) if limit else 1
    return (batch for i, batch in enumerate(evaluation_batches(corpus.validation.tokens, t, b)) if i % stride == 0)


def _stopped_early(progress: EarlyStopping, config: TrainConfig) -> bool:
    return 0 < config.patience <= progress.waited


# ── what is checked ──────────────────────────────────────────────────────────────────────────────────────────────────


def _check_finite(values: np.ndarray, first: int, folder: Path) -> None:
    """Stop the run at the first value that is no number; what is saved stays as it is."""
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        good = checkpoint.steps(folder)
        advice = f"The last good checkpoint is {good[-1]}: continue from it with `minilm train --resume {folder}" if good else (
            "There is no checkpoint yet: begin again with `minilm train"
        )  # fmt: skip
        raise NotFiniteError(
            f"The loss or its gradient is not finite at step {first + bad[0]}. {advice} --learning-rate ...`, lower than it was."
        )


def _check_lengths(corpus: Corpus, config: TrainConfig) -> None:
    t = config.architecture.context_length
    for name, tokens in [("training", corpus.train.tokens), ("held-out", corpus.validation.tokens)]:
        if len(tokens) <= t:
            raise ValueError(
                f"The {name} text has {len(tokens)} tokens, fewer than the {t + 1} of one context and its last target: "
                f"give more text, or --context-length {max(1, len(tokens) - 1)} or less."
            )


def _check_same_model(config: TrainConfig, folder: Path) -> None:
    model, saved = checkpoint.read_model(folder)
    asked = _model_config(model, config, reopen(folder))
    for field in dataclasses.fields(saved):
        here, there = getattr(asked, field.name), getattr(saved, field.name)
        if here != there and field.name not in ("dropout", "remat"):
            raise checkpoint.CheckpointError(
                f"The run in {folder} has {field.name} {there}, and cannot go on with {here}: train a new run for that."
            )


def _model_config(model, config: TrainConfig, corpus: Corpus):
    """The model's own Config: the fields that it shares with the architecture's flags, and the size of the vocabulary."""
    flags = dataclasses.asdict(config.architecture) | {"vocab_size": corpus.train.vocab_size}
    return model.Config(**{field.name: flags[field.name] for field in dataclasses.fields(model.Config) if field.name in flags})


def _new_folder(config: TrainConfig) -> Path:
    """The folder that the config names, or runs/<model>-<number>, empty."""
    if config.folder:
        folder = Path(config.folder)
        if (folder / "config.json").exists():
            raise ValueError(
                f"{folder} already holds a run: continue it with `minilm train --resume {folder}`, or choose another --folder."
            )
    else:
        name = re.compile(rf"{re.escape(config.architecture.model)}-(\d+)")
        taken = [int(match[1]) for path in Path("runs").glob("*") if (match := name.fullmatch(path.name))]
        folder = Path("runs") / f"{config.architecture.model}-{max(taken, default=0) + 1}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# ── what is said ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _introduce(console, config, folder, corpus, machine, state) -> None:
    n = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    train, held = corpus.train, corpus.validation
    tokens = config.steps * config.batch_size * config.architecture.context_length
    _print(console, f"run      {folder}\n"
                    f"device   {device_name()}\n"
                    f"data     {config.data.corpus}: {train.n_bytes / 1e6:.2f} MB in {train.n_documents:,} documents, "
                    f"{len(train.tokens):,} tokens; {held.n_bytes / 1e6:.2f} MB in {held.n_documents:,} held out\n"
                    f"model    {config.architecture.model}, {n:,} parameters, {config.compute_dtype}\n"
                    f"steps    {config.steps:,} of {config.batch_size} × {config.architecture.context_length} tokens, "
                    f"{tokens / len(train.tokens):.1f} times the data")  # fmt: skip


def device_name() -> str:
    """What JAX computes on, in words."""
    device, n = jax.devices()[0], jax.device_count()
    if device.platform == "cpu" and n == 1:
        n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return f"CPU with {n_cores} cores"
    return f"{device.device_kind}{f' × {n}' if n > 1 else ''}"


def _made(metrics, step, learning_rate, pace) -> list[dict]:
    return [
        {"step": step + i + 1, "loss": float(loss), "gradient_norm": float(norm),
         "learning_rate": float(learning_rate(step + i)), "tokens_per_second": round(pace.tokens_per_second)}
        for i, (loss, norm) in enumerate(zip(metrics["loss"], metrics["gradient_norm"], strict=True))
    ]  # fmt: skip


def _measured(step, loss, corpus) -> dict:
    return {"step": step, "validation_loss": loss, "validation_bits_per_byte": corpus.validation.bits_per_byte(loss)}


def _print(console, text) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
