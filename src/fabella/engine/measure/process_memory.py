"""Peak memory of this process."""

import sys

import psutil

try:
    import resource
except ImportError:  # Windows
    resource = None


def peak_process_memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    if resource is None:
        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux
