"""How long an accelerator was at work, by JAX's profiler: what Python and the way to the device take is not counted."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
from jax.profiler import ProfileData

NAME = "device time"
DEVICES = "/device:"  # planes of the profile; what the host does stands in others
KERNELS = ("Stream #", "XLA Ops")  # how lines of these begin that hold what ran: on GPUs, on TPUs


def device_seconds(run: Callable, calls: int) -> float:
    """Seconds in which the device was at work, of so many calls together.

    Raises:
      RuntimeError: the profile holds nothing that ran on a device.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                run()
        (path,) = Path(folder).rglob("*.xplane.pb")
        seconds = busy(ProfileData.from_file(str(path)))
    if not seconds:
        raise RuntimeError("JAX's profiler saw nothing that ran on a device, so that there is no device time.")
    return seconds


def busy(profile: ProfileData) -> float:
    """Seconds in which at least one kernel ran: what runs side by side counts once, what lies between not at all.

    >>> line = '{name: "Stream #1(Compute)" timestamp_ns: 5 events {offset_ps: 0 duration_ps: 3000000000}}'
    >>> busy(ProfileData.from_text_proto(f'planes {{name: "/device:GPU:0" lines {line} lines {line}}}'))
    0.003
    """
    lines = (line for plane in profile.planes if plane.name.startswith(DEVICES) for line in plane.lines)
    events = (event for line in lines if line.name.startswith(KERNELS) for event in line.events)
    total, reached = 0.0, float("-inf")
    for start, end in sorted((event.start_ns, event.end_ns) for event in events):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1e9
