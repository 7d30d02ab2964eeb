"""What `minilm info` prints: the devices, and the plan of a preset or of a run."""

import dataclasses

import jax
from rich.console import Console
from rich.table import Table

from minilm import machines
from minilm.config import TrainConfig
from minilm.plan import Plan, make_plan


def show_devices(console: Console) -> None:
    """The devices that JAX sees."""
    console.print(f"JAX {jax.__version__} computes on {jax.default_backend()}:", highlight=False)
    for device in jax.devices():
        console.print(f"  {device.id}: {device.device_kind}", highlight=False)


def show_plan(console: Console, name: str, model, model_config, config: TrainConfig, measured: bool) -> None:
    """A model's plan: what it holds, what it computes, and how long that takes where."""
    plan = make_plan(model, model_config, config)
    console.print(f"\n{name}: {_fields(model_config)}\n", highlight=False, soft_wrap=True)
    console.print(_sizes(plan, config))
    tokens = config.steps * config.batch_size * model_config.context_length
    console.print(
        f"\nA token takes {_si(plan.forward_flops)}FLOP forward and {_si(plan.training_flops)}FLOP in training "
        f"(2 · out · in for each matrix product, and two such products for each gradient).\n"
        f"{config.steps:,} steps of {config.batch_size} × {model_config.context_length} tokens take "
        f"{_si(tokens * plan.training_flops)}FLOP; below at {machines.ACHIEVED:.0%} of each machine's peak.\n",
        highlight=False,
        soft_wrap=True,
    )
    rows = (*([machines.measure()] if measured else []), *machines.ACCELERATORS)
    console.print(_times(plan, tokens, rows))
    console.print(
        "\nThe rates are those of large products in bfloat16 (here float32). A model too small to fill a device is "
        "slower than this, for starting a step takes its own time; one that fits into caches may write faster.",
        highlight=False,
    )


def _sizes(plan: Plan, config: TrainConfig) -> Table:
    table = Table("part", "parameters", "memory", title_justify="left")
    for part, count in plan.parameters.items():
        table.add_row(part, f"{count:,}", _bytes(4 * count))
    table.add_section()
    table.add_row("weights", f"{sum(plan.parameters.values()):,}", _bytes(plan.weights))
    table.add_row("gradients", "", _bytes(plan.gradients))
    table.add_row(f"optimizer ({config.optimization.optimizer})", "", _bytes(plan.optimizer))
    table.add_row(f"activations, batch of {config.batch_size // config.accumulate}", "", _bytes(plan.activations))
    table.add_row("training, all of these", "", _bytes(plan.training_bytes), style="bold")
    table.add_section()
    table.add_row("cache of one sequence", "", _bytes(plan.cache))
    table.add_row("generation, with the weights", "", _bytes(plan.generation_bytes), style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _times(plan, tokens, rows) -> Table:
    table = Table("machine", "peak FLOP/s", "bandwidth", "training fits", "training takes", "writes about")
    for machine in rows:
        fitting = "yes" if machines.fits(plan.training_bytes, machine) else "no"
        table.add_row(
            machine.name,
            _si(machine.flops),
            f"{_bytes(machine.bandwidth)}/s",
            f"{fitting}, in {_bytes(machine.memory)}",
            _duration(machines.training_seconds(plan, machine, tokens)),
            f"{_si(1 / machines.token_seconds(plan, machine))}tokens/s",
        )
    return table


def _fields(config) -> str:
    return ", ".join(f"{f.name} {getattr(config, f.name)}" for f in dataclasses.fields(config))


def _si(number: float | int) -> str:
    """Three figures and a prefix.

    >>> _si(2359296)
    '2.36 M'
    """
    for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g} "


def _bytes(number: float | int) -> str:
    return f"{_si(number)}B"


def _duration(seconds: float | int) -> str:
    """In the largest unit of which there is one.

    >>> _duration(0.5), _duration(200), _duration(2e5)
    ('under 1 s', '3.3 min', '2.3 days')
    """
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
