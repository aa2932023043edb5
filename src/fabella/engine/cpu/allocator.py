"""Keep freed memory in this process instead of returning it to the system between training steps.

glibc returns every freed block above 32 MB at once. A training step allocates the same blocks as the last one, so the
system must clear and map their pages again in every step: a fifth to a third of the time of bf16 steps with a large
vocabulary. Kept memory can be of no use: where batches have different lengths, the blocks that one step has freed are
too small for the next one, and the process grows by a part of a step's memory with each step. ``KeptMemory`` returns
all freed memory when the process has grown far above what a step needs.
"""

import ctypes
import mmap
import os
import sys
from functools import cache
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of ``mallopt``; see malloc.h of glibc."""
MAX_INT = 2**31 - 1
GROWTH, SLACK_BYTES = 1.25, 256 * 2**20
"""Freed memory is returned when a process needs more than GROWTH times the memory after a pass, and SLACK_BYTES."""
SETTLED_PASSES = 2
"""Passes after which a process has the memory that it needs: the first one creates the optimizer's state."""
STATM = Path("/proc/self/statm")
PRIMITIVE_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Variables with the number of compiled operations that oneDNN, and PyTorch's layer above it, keep."""
PRIMITIVES = 128
"""More than a model needs for sequences of one length. 1,024, the default of both, are up to a gigabyte."""
TOP_PAD_BYTES = 64 * 2**20
"""Memory requested from the system at once in addition to a block."""
ENVIRONMENT = (
    "GLIBC_TUNABLES",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
)
"""Variables by which a user has set the same; then it stays as it is."""


@cache
def keep_freed_memory() -> bool:
    """Keep freed memory from now on. Return False without glibc or /proc, and where the user has configured malloc."""
    if any(name in os.environ for name in ENVIRONMENT) or not STATM.exists():
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.gnu_get_libc_version  # noqa: B018 - only glibc has it
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, MAX_INT), (M_TOP_PAD, TOP_PAD_BYTES))
    return all(mallopt(parameter, value) for parameter, value in settings)


def limit_primitive_caches() -> None:
    """Let oneDNN keep fewer compiled operations, unless the user has set how many.

    It compiles each product for each size, and so for each length of padded sequences or prompts. Only the first
    product of a process reads the setting.
    """
    for name in PRIMITIVE_CACHES:
        os.environ.setdefault(name, str(PRIMITIVES))


def kept_bytes(needed: int) -> int:
    """Return how many bytes of freed memory a process keeps at most that needs ``needed`` bytes."""
    return int((GROWTH - 1) * needed) + SLACK_BYTES if sys.platform == "linux" else 0


class KeptMemory:
    """Returns freed memory to the system when a process has grown far above what a forward and backward pass needs."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL("libc.so.6")
        self._passes = 0
        self._needed = 0  # most bytes after the first SETTLED_PASSES, and after a pass that followed a return

    def after_pass(self) -> None:
        """Return all freed memory if the process has grown too much. Takes microseconds otherwise."""
        self._passes += 1
        if self._passes < SETTLED_PASSES:
            return
        resident = resident_bytes()
        if self._passes == SETTLED_PASSES:
            self._needed = max(self._needed, resident)
        elif resident > self._needed + kept_bytes(self._needed):
            self._libc.malloc_trim(0)
            self._passes = SETTLED_PASSES - 1  # the next pass shows what is needed


def resident_bytes() -> int:
    """Return the resident memory of this process. Linux only, as glibc's settings are."""
    return int(STATM.read_bytes().split()[1]) * mmap.PAGESIZE
