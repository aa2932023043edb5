"""Name and instruction set of this machine's processor."""

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
FEATURE_FIELDS = ("flags", "Features", "model name", "CPU part", "CPU implementer")
"""Fields of /proc/cpuinfo that determine what machine code a processor runs, on x86 and on ARM."""


def processor_name() -> str:
    """Return the name of the processor; may be empty."""
    names = [line.split(":", 1)[1].strip() for line in _lines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def processor_features() -> str:
    """Return a text that differs between processors that need different machine code."""
    lines = {line for line in _lines() if line.startswith(FEATURE_FIELDS)}
    return "\n".join([platform.machine(), *sorted(lines)]) if lines else f"{platform.machine()}\n{platform.processor()}"


def _lines() -> list[str]:
    try:
        return CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return []
