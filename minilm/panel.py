"""What a run shows while it goes on: a live panel on a terminal, plain lines in a log file or a notebook."""

import os
import time
from collections import deque
from itertools import pairwise
from typing import NamedTuple

import jax
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel as Frame
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from minilm import run_folder

_LINES = 20  # in a log file, over the whole run
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 48
_CALLS = 10  # that the pace is the mean of


class Reading(NamedTuple):
    """The numbers of one moment."""

    step: int
    loss: float
    bits_per_byte: float
    tokens_per_second: float
    seconds_left: float


class Pace:
    """How fast steps are made, from the last few calls; measuring and saving between them is not counted."""

    def __init__(self, tokens_a_step: int, steps: int):
        self.tokens_a_step, self.steps = tokens_a_step, steps
        self.calls: deque[tuple[int, float]] = deque(maxlen=_CALLS)
        self.first, self.since = True, time.perf_counter()

    def made(self, steps: int) -> None:
        """Note that a call of so many steps has ended; the first, which also compiled, is forgotten at the second."""
        if len(self.calls) == 1 and self.first:
            self.calls.clear()
            self.first = False
        now = time.perf_counter()
        self.calls.append((steps, now - self.since))
        self.since = now

    def rest(self) -> None:
        """Begin to count again, after a measurement."""
        self.since = time.perf_counter()

    @property
    def tokens_per_second(self) -> float:
        """Tokens trained on in a second."""
        return self.tokens_a_step * self._steps_per_second()

    def seconds_left(self, step: int) -> float:
        """Until the last step, from this one, at the present pace."""
        return (self.steps - step) / self._steps_per_second()

    def _steps_per_second(self):
        return sum(steps for steps, _ in self.calls) / max(sum(seconds for _, seconds in self.calls), 1e-9)


class Panel:
    """Shows readings: live where the console is a terminal, else some twenty lines a run. `say` prints above it."""

    def __init__(self, console: Console, device: str, first: int, steps: int):
        self.console, self.device, self.steps = console, device, steps
        self.losses: list[float] = []
        self.next_line, self.every = first, max(1, steps // _LINES)
        self.live = (
            Live(console=console, refresh_per_second=4) if console.is_terminal and not console.is_jupyter else None
        )

    def __enter__(self):
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_):
        if self.live:
            self.live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, reading: Reading) -> None:
        """Show the newest reading."""
        self.losses.append(reading.loss)
        if self.live:
            self.live.update(self._frame(reading))
        elif reading.step >= self.next_line or reading.step == self.steps:
            self.next_line = reading.step + self.every
            self.say(line(reading, self.steps))

    def _frame(self, reading):
        numbers = Table.grid(padding=(0, 3))
        numbers.add_row("loss", "bits per byte", "tokens/s", "time left", "device", style="dim")
        numbers.add_row(
            f"{reading.loss:.3f}",
            f"{reading.bits_per_byte:.3f}",
            f"{reading.tokens_per_second:,.0f}",
            clock(reading.seconds_left),
            self.device,
        )
        curve = Text(sparkline(self.losses, _WIDTH), style="cyan")
        bar = ProgressBar(total=self.steps, completed=reading.step, width=_WIDTH)
        return Frame(
            Group(numbers, curve, bar),
            title=f"step {reading.step:,} of {self.steps:,}",
            title_align="left",
            expand=False,
        )


def line(reading: Reading, steps: int) -> str:
    """A reading as a line of a log file.

    >>> line(Reading(step=40, loss=5.25, bits_per_byte=2.5, tokens_per_second=12345.6, seconds_left=83.2), steps=800)
    'step  40 of 800   loss 5.250   2.500 bits per byte   12,346 tokens/s   1:23 left'
    """
    return (
        f"step {reading.step:>{len(str(steps))}} of {steps}   loss {reading.loss:.3f}   "
        f"{reading.bits_per_byte:.3f} bits per byte   {reading.tokens_per_second:,.0f} tokens/s   "
        f"{clock(reading.seconds_left)} left"
    )


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any.

    >>> clock(83.4), clock(3725.0)
    ('1:23', '1:02:05')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def sparkline(values: list[float], width: int) -> str:
    """A curve in one line of text: the mean of each of `width` stretches as a bar between the lowest and the highest.

    >>> sparkline([8.0, 6.0, 4.0, 2.0, 1.0, 1.0], width=3)
    '█▃▁'
    """
    width = min(width, len(values))
    cuts = [len(values) * i // width for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    return "".join(_BARS[int((mean - low) / (high - low or 1) * (len(_BARS) - 1))] for mean in means)


def comparison(rows: dict[str, float]) -> Table:
    """Bits per byte by method, the best first."""
    table = Table("on held-out text", "bits per byte", title_justify="left")
    table.columns[1].justify = "right"
    for name, value in sorted(rows.items(), key=lambda row: row[1]):
        table.add_row(name, f"{value:.3f}", style="bold" if name == "this model" else None)
    return table


# ── in words ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def say(console: Console, text: str) -> None:
    """Print a text as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def introduce(console: Console, config, folder, corpus, params) -> None:
    """What is about to be trained: where, on what, of which size."""
    train, held_out = corpus.train, corpus.validation
    b, t = config.batch_size, config.architecture.context_length
    n_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    data = f"{train.n_bytes / 1e6:.2f} MB in {train.n_documents:,} documents, {len(train.tokens):,} tokens"
    held = f"{held_out.n_bytes / 1e6:.2f} MB in {held_out.n_documents:,} held out"
    passes = config.steps * b * t / len(train.tokens)
    say(console, f"run      {folder}")
    say(console, f"device   {device_name()}")
    say(console, f"data     {config.data.corpus}: {data}; {held}")
    say(console, f"model    {config.architecture.model}, {n_params:,} parameters, products in {config.compute_dtype}")
    say(console, f"steps    {config.steps:,} of {b} × {t} tokens, {passes:.1f} times the data")


def device_name() -> str:
    """What JAX computes on, in words."""
    device, n = jax.devices()[0], jax.device_count()
    if device.platform == "cpu" and n == 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return f"CPU with {cores} core{'' if cores == 1 else 's'}"
    return device.device_kind + (f" × {n}" if n > 1 else "")


def measurement_in_words(step: int, loss: float, corpus, progress) -> str:
    """A measurement on held-out text, and whether it is the best so far."""
    bits, best = corpus.validation.bits_per_byte(loss), "" if progress.waited else ", the best so far"
    return f"step {step} on held-out text: loss {loss:.3f}, {bits:.3f} bits per byte{best}"


def say_how_to_go_on(console: Console, folder, step: int) -> None:
    """After an interruption: what is saved, and the command that continues."""
    latest = run_folder.steps(folder)[-1].name.endswith(f"-{step:08d}")  # else it went back, and has not come further
    say(console, f"\nInterrupted; step {step} is saved. This goes on as if nothing had happened:\n")
    say(console, f"    {run_folder.command_to_go_on(folder)}{'' if latest else f' --from-step {step}'}\n")


def say_how_it_ended(console: Console, config, step: int, progress, best: int) -> None:
    """Why it stopped early, if it did, and of which step's state is told from here on."""
    if step < config.steps:
        why = f"for {progress.in_words()} (--patience {config.patience})"
        say(console, f"It stopped early, after step {step} of {config.steps}, {why}.")
    if best != step:
        say(console, f"The best state was that of step {best}; what follows is about it.")


def say_what_there_is(console: Console, config, folder, step: int, progress) -> None:
    """At the end: where everything is, and the commands that let it write, and train it further."""
    more = f" --steps {2 * config.steps}" if step == config.steps else ""
    if progress.exhausts(config.patience):
        more += f" --patience {progress.waited + config.patience}"  # as long again
    say(console, f"\nEverything is in {folder}: checkpoints, tokenizer, history.jsonl, loss.png.\n")
    say(console, f"    {run_folder.command_to_write(folder, config.prompt)}")
    say(console, f"    {run_folder.command_to_go_on(folder)}{more}\n")
