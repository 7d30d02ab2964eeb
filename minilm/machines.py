"""What machines can do at their best, and about how long a planned model would take on each.

Peaks are those of dense matrix products in bfloat16 with float32 sums, as their makers publish them (without the
doubling that structured sparsity is said to give), and so are bandwidth and size of the device's own memory.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from minilm.plan import Plan

ACHIEVED = (
    0.4  # the share of a peak that a well-fed training step of a Transformer reaches; published runs: 0.3 to 0.55
)


class Machine(NamedTuple):
    """One device: FLOP/s, bytes/s, bytes, and where the numbers stand."""

    name: str
    flops: float
    bandwidth: float
    memory: float
    source: str


ACCELERATORS = (
    Machine("T4", 65e12, 320e9, 16e9, "NVIDIA T4 data sheet (float16)"),
    Machine("L4", 121e12, 300e9, 24e9, "NVIDIA L4 data sheet, half its figure with sparsity"),
    Machine("RTX 4090", 165e12, 1008e9, 24e9, "NVIDIA Ada architecture white paper, float32 sums"),
    Machine("A100 80GB SXM", 312e12, 2039e9, 80e9, "NVIDIA A100 data sheet"),
    Machine("H100 SXM", 989e12, 3350e9, 80e9, "NVIDIA H100 data sheet, half its figure with sparsity"),
    Machine("H200 SXM", 989e12, 4800e9, 141e9, "NVIDIA H200 data sheet, half its figure with sparsity"),
    Machine("B200", 2250e12, 8000e9, 180e9, "NVIDIA DGX B200 data sheet, an eighth; half with sparsity"),
    Machine("TPU v5e", 197e12, 819e9, 16e9, "Google Cloud TPU v5e documentation"),
    Machine("TPU v5p", 459e12, 2765e9, 95e9, "Google Cloud TPU v5p documentation"),
    Machine("TPU v6e", 918e12, 1640e9, 32e9, "Google Cloud TPU v6e documentation"),
)


def measure(size: int = 1024, clock=time.perf_counter) -> Machine:
    """This machine: the rate of one product of float32 matrices, and that of reading a large array.

    `clock` is wall time; `time.process_time` is the one to take where others use the machine too.
    """
    a, x = jnp.ones((size, size), jnp.float32), jnp.ones(2**25, jnp.float32)
    flops = 2 * size**3 / _seconds(jax.jit(lambda a: a @ a), a, clock)
    bandwidth = x.nbytes / _seconds(jax.jit(lambda x: x @ x), x, clock)
    stats = jax.devices()[0].memory_stats() or {}
    memory = stats.get("bytes_limit") or _host_memory()
    return Machine("this machine", flops, bandwidth, memory, "measured now, in float32")


def training_seconds(plan: Plan, machine: Machine, tokens: float | int) -> float:
    r"""The time of training on so many tokens.

    $$ \frac{\text{tokens} \cdot \text{FLOPs a token}}{0.4 \cdot \text{peak}} $$
    """
    return tokens * plan.training_flops / (ACHIEVED * machine.flops)


def token_seconds(plan: Plan, machine: Machine) -> float:
    """About the time of generating one token: every weight and the cache are read from memory once, and multiplied.

    What fits into caches is read faster, and starting a step takes its own time: see `benchmarks/results/plan.json`.
    """
    return max(plan.generation_bytes / machine.bandwidth, plan.forward_flops / machine.flops)


def fits(needed: float | int, machine: Machine) -> bool:
    """Whether so many bytes fit, a tenth left to the compiler's own buffers."""
    return needed <= 0.9 * machine.memory


def _seconds(function, argument, clock) -> float:
    """The shortest of a few runs: what disturbs a measurement only makes it longer."""
    function(argument).block_until_ready()
    times = []
    for _ in range(5):
        start = clock()
        function(argument).block_until_ready()
        times.append(clock() - start)
    return min(times)


def _host_memory() -> float:
    import os

    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # where the system does not tell, nothing is ruled out
        return float("inf")
