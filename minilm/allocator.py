"""glibc's allocator, told once to keep the memory that XLA asks for again at every step.

XLA maps and unmaps its temporary buffers at each call, and the kernel clears every page anew: on a CPU a quarter of
a small training step is page faults. Keeping freed memory in the process removes them. `tune()` is for the start of a
program, before large arrays exist; the command line calls it, an import never does.
"""

import ctypes
import os

# <malloc.h>: option numbers of mallopt(3)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_KEEP = 2**31 - 1  # bytes of free memory at the heap's top that are never given back
_GROW = 64 * 2**20  # bytes by which the heap grows at a time


def tune() -> bool:
    """Ask glibc to serve large arrays from one heap that never shrinks; say whether it could be asked.

    Off glibc (macOS, Windows, musl) nothing changes and the answer is False. The environment's own `MALLOC_*` or
    `GLIBC_TUNABLES` settings take precedence: who sets those has chosen.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return False
    options = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _KEEP, _M_TOP_PAD: _GROW, _M_ARENA_MAX: 1}
    return all(libc.mallopt(option, value) for option, value in options.items())
