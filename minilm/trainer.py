"""A training run, from the corpus to the samples, and its continuation after an interruption.

    documents → tokenizer → tokens on disk → batches → steps, measured and saved as they go → what was learnt

`train` begins a run in a new folder and `resume` goes on with one; between them there is one loop. A run is a function
of its config and its corpus: interrupted and resumed, it ends with the same bits.
"""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from minilm import checkpoint, run_folder
from minilm.baselines import baselines
from minilm.config import TrainConfig, check, check_changes
from minilm.console import RunConsole
from minilm.continuation import check_same_run, check_steps
from minilm.data.batching import Batch, Batches, evaluation_batches
from minilm.data.preparation import Corpus, check_ids, check_lengths, prepare, reopen
from minilm.generation import check_prompts, encode_prompt, generate_text
from minilm.history import History, draw_loss
from minilm.interruption import Interruption, signal_of
from minilm.optimizers import make_optimizer
from minilm.optimizers import schedule as learning_rate_schedule
from minilm.panel import (
    Pace,
    Panel,
    Reading,
    comparison,
    device_name,
    introduce,
    measurement_in_words,
    say,
    say_how_it_ended,
    say_how_to_go_on,
    say_what_there_is,
)
from minilm.sampling import Sampler
from minilm.training import EarlyStopping, TrainState, in_precision, init_state, make_evaluate, make_step

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
    run_folder.check_architecture(check(config).architecture)
    make_optimizer(config.optimization, config.steps)
    _placement(config)
    folder = run_folder.folder_for(config)
    with run_folder.begun(folder):
        corpus = prepare(config.data, folder)
        check_lengths(corpus, config.architecture.context_length)
        run_folder.write_model(folder, config.architecture, corpus.train.vocab_size)
        _check_prompt(config, run_folder.read_tokenizer(folder))
        run_folder.write_config(folder, config)
        return _run(config, folder, None, console or RunConsole())


def resume(
    folder: Path | str,
    config: TrainConfig | None = None,
    from_step: int | str = "last",
    console: Console | None = None,
) -> Result:
    """Go on with a run from its last checkpoint or another; with its own config, or one that trains it further.

    A config that differs is written down just before the first checkpoint that it leads to, or when an interruption
    comes before that; what is refused, or crashes, leaves the run as it last saved. Where it goes back, the later
    checkpoints and their history stay until then too: no kill mixes them with the new ones.
    """
    folder = Path(folder)
    run_folder.read_config(folder)  # it may be the folder of no run
    with run_folder.alone(folder):
        saved = run_folder.read_config(folder)
        start = checkpoint.find(folder, from_step)
        config = check_changes(config or saved, saved)
        check_same_run(folder, saved, config)
        _check_prompt(config, run_folder.read_tokenizer(folder))
        check_ids(reopen(folder), run_folder.read_model(folder)[1].vocab_size)
        return _run(config, folder, start, console or RunConsole())


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
    model, saved = run_folder.read_model(folder)
    model_config = run_folder.model_config(config.architecture, saved.vocab_size)  # which may be written down later
    loss = in_precision(functools.partial(model.loss, config=model_config), config.compute_dtype)
    optimizer = make_optimizer(config.optimization, config.steps)
    place_state, place_batch = _placement(config)
    return _Machine(
        model_config=model_config,
        # One program for all parameters: from the compilation cache it takes half as long as theirs one by one.
        initial=jax.jit(lambda: init_state(model.init(jax.random.key(config.seed), model_config), optimizer)),
        advance=make_step(loss, optimizer, config.seed, remat=getattr(model_config, "remat", False)),
        evaluate=make_evaluate(loss),
        learning_rate=learning_rate_schedule(config.optimization, config.steps),
        place_state=place_state,
        place_batch=place_batch,
    )


def _run(config: TrainConfig, folder: Path, start: Path | None, console: Console) -> Result:
    """The loop; where the system ends it, as a full disk does, what is saved and how to go on."""
    try:
        return _descend(config, folder, start, console)
    except OSError as error:
        then, said = "Nothing was saved yet", str(error.strerror or error).rstrip(".")
        if saved := checkpoint.steps(folder):
            flags = "" if run_folder.read_config(folder) == config else " and the flags of this time"
            go_on = run_folder.command_to_go_on(folder)
            then = f"{saved[-1].name} is intact; mend that, then continue with `{go_on}`{flags}"
        raise OSError(f"The run in {folder} had to stop: {said}. {then}.") from error


def _descend(config: TrainConfig, folder: Path, start: Path | None, console: Console) -> Result:
    corpus, machine, history = reopen(folder), _build(config, folder), History(folder / "history.jsonl")
    batches = Batches(corpus.train.tokens, config.architecture.context_length, config.batch_size, config.seed)

    def save(validation: float | None = None) -> None:
        run_folder.write_model(folder, config.architecture, machine.model_config.vocab_size, tokenizer)
        run_folder.write_config(folder, config)
        if validation is not None or history.held or not checkpoint.holds(folder, step):
            told = {"validation": validation, "progress": progress._asdict(), "keep": config.keep}
            checkpoint.save(folder, state, step=step, beside=history.release, **told)

    def validate(params, limit: int) -> float:
        held_out = _held_out_batches(corpus, config, limit)
        nats, tokens = machine.evaluate(params, map(machine.place_batch, held_out))
        return nats / tokens

    tokenizer = run_folder.tokenizer_of(folder)  # from now on; the file may be exchanged while the run trains
    state, progress = _begin(machine, start)
    step = int(state.step)
    check_steps(folder, config, step, progress)
    went_back = start not in (None, *checkpoint.steps(folder)[-1:])
    (history.hold_after if went_back else history.cut_after)(step)
    introduce(console, config, folder, corpus, state.params)
    if start is None:
        measured = validate(state.params, config.evaluate_batches)
        history.add_measurement(0, measured, corpus.validation.bits_per_byte(measured))
        n = corpus.train.vocab_size
        say(console, f"loss     {measured:.3f} at the start; guessing gives ln {n:,} = {math.log(n):.3f}\n")

    pace = Pace(config.batch_size * config.architecture.context_length, config.steps)
    with Interruption() as interruption, Panel(console, device_name(), step, config.steps) as panel:
        while step < config.steps and not interruption.signal and not progress.exhausts(config.patience):
            end = _end_of_call(step, config)
            state, metrics = machine.advance(state, machine.place_batch(_stack(batches, range(step, end), config)))
            metrics = jax.device_get(metrics)
            _check_finite(metrics["loss"] + metrics["gradient_norm"], step + 1, folder, config)
            pace.made(end - step)
            history.add_steps(step, metrics, machine.learning_rate(np.arange(step, end)), pace.tokens_per_second)
            step, loss = end, float(metrics["loss"].mean())
            bits = corpus.train.bits_per_byte(loss)
            panel.show(Reading(step, loss, bits, pace.tokens_per_second, pace.seconds_left(step)))

            if step % config.evaluate_every == 0 or step == config.steps:
                measured = validate(state.params, config.evaluate_batches)
                _check_finite(np.array([measured]), step, folder, config)
                progress = progress.after(step, measured)
                history.add_measurement(step, measured, corpus.validation.bits_per_byte(measured))
                panel.say(measurement_in_words(step, measured, corpus, progress))
                save(measured)
                pace.rest()
        if interruption.signal:
            save()

    try:
        draw_loss(history.records(), folder / "loss.png", f"{config.architecture.model} on {config.data.corpus}")
        if not interruption.signal:
            return _conclude(config, folder, step, progress, validate, corpus, console)
    except KeyboardInterrupt as interrupt:
        interruption.signal = signal_of(interrupt)
    say_how_to_go_on(console, folder, step)
    return Result(folder, step, None, {}, [], interruption.signal)


def _begin(machine: _Machine, start: Path | None) -> tuple[TrainState, EarlyStopping]:
    if start is None:
        return machine.place_state(machine.initial()), EarlyStopping()
    state, manifest = checkpoint.load(start, jax.eval_shape(machine.initial))
    # Copied, because the first step gives its state's memory away, and this memory is NumPy's.
    return machine.place_state(jax.tree.map(jnp.array, state)), EarlyStopping(**manifest.progress)


def _conclude(config, folder, step, progress, validate, corpus, console) -> Result:
    """Measure the best state on all held-out text, beside the baselines; let it write; say where everything is."""
    run = checkpoint.load_run(folder, "best")
    for damaged in checkpoint.passed_over(folder):
        say(console, f"{damaged} is damaged, or not of this run, and was passed over.")
    say_how_it_ended(console, config, step, progress, run.manifest.step)
    measured = validate(jax.tree.map(jnp.array, run.params), limit=0)
    validation = corpus.validation.bits_per_byte(measured)
    compared = baselines(config.baselines, corpus.train, corpus.validation, run.tokenizer)
    console.print(comparison({"this model": validation, **compared}))
    samples = _samples(config, run) if config.samples else []
    for sample in samples:
        say(console, f"\n{config.prompt}{sample}")
    say_what_there_is(console, config, folder, step, progress)
    return Result(folder, step, validation, compared, samples, None)


def _check_prompt(config, tokenizer) -> None:
    """Before hours of training, and not behind them."""
    if not config.samples:
        return
    try:
        ids = encode_prompt(tokenizer, config.prompt)
        check_prompts([ids], tokenizer.vocab_size, config.architecture.context_length)
    except ValueError as error:
        raise ValueError(f"--prompt: {error}") from None


def _samples(config, run) -> list[str]:
    prompts, key = [config.prompt] * config.samples, jax.random.key(config.seed)
    told = {"max_new_tokens": _SAMPLE_TOKENS, "sampler": _WRITER, "key": key}
    return generate_text(run.model, run.params, run.config, run.tokenizer, prompts, **told)


def _placement(config: TrainConfig) -> tuple[Callable, Callable]:
    """Two functions that put a state, and a batch, where they belong: on the one device, or spread over a mesh."""
    if not config.mesh:
        return jax.device_put, jax.device_put
    from minilm.parallel import batch_sharding, make_mesh, placement

    part = config.batch_size // config.accumulate, config.architecture.context_length
    batch_sharding(jax.ShapeDtypeStruct(part, int), make_mesh(config.mesh))  # refused before the corpus is read
    return placement(config.mesh)


# ── steps and batches ────────────────────────────────────────────────────────────────────────────────────────────────


def _end_of_call(step: int, config: TrainConfig) -> int:
    """The step after the next call: a function of the step alone, so that a resumed run makes the same calls."""
    next_measurement = (step // config.evaluate_every + 1) * config.evaluate_every
    return min(step + config.steps_per_call, next_measurement, config.steps)


def _stack(batches: Batches, steps: range, config: TrainConfig) -> Batch:
    """The batches of some steps, `(steps, parts, b, t)`."""
    made = [batches.batch(step) for step in steps]
    shape = (len(steps), config.accumulate, config.batch_size // config.accumulate, batches.context_length)
    return Batch(*(np.stack(leaves).reshape(shape) for leaves in zip(*made, strict=True)))


def _held_out_batches(corpus: Corpus, config: TrainConfig, limit: int) -> Iterator[Batch]:
    """All batches of the held-out text, or about `limit` of them, evenly spread over it."""
    b, t = config.batch_size, config.architecture.context_length
    n = math.ceil((len(corpus.validation.tokens) - 1) / (b * t))
    stride = math.ceil(n / limit) if limit else 1
    return (batch for i, batch in enumerate(evaluation_batches(corpus.validation.tokens, t, b)) if i % stride == 0)


def _check_finite(values: np.ndarray, first: int, folder: Path, config: TrainConfig) -> None:
    """Stop the run at the first value that is no number; what is saved stays as it is."""
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        muon = config.optimization.optimizer == "muon"
        rates = "--matrix-learning-rate and --learning-rate" if muon else "--learning-rate"
        then = f"There is no checkpoint yet: begin anew as this time, with a lower {rates}"
        if good := checkpoint.steps(folder):
            flags = "" if run_folder.read_config(folder) == config else ", and the other flags of this time"
            go_on = f"`{run_folder.command_to_go_on(folder)}` with a lower {rates}{flags}"
            then = f"The last good checkpoint is {good[-1]}: go on with {go_on}"
        raise NotFiniteError(f"The loss or its gradient is not finite at step {first + bad[0]}. {then}.")
