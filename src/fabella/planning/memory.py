"""Available memory: of the machine, of its container, or as set by the user."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from fabella.errors import UsageError

CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Limit, usage, and the line of memory.stat with the page cache, which the kernel frees on demand.
FILES_V2 = ("memory.max", "memory.current", "inactive_file")
FILES_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Total and free memory in bytes; ``where`` names it in messages."""

    total: int
    free: int
    where: str


def available_ram(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> MemoryBudget:
    """Return the memory of the machine, or of its container (cgroup) if that has less."""
    machine = psutil.virtual_memory()
    budgets = [MemoryBudget(machine.total, machine.available, "memory"), *_cgroup_budgets(cgroups, own)]
    total, free = min(budget.total for budget in budgets), min(budgets, key=lambda budget: budget.free)
    return MemoryBudget(total, min(free.free, total), free.where)


def _cgroup_budgets(cgroups: Path, own: Path) -> Iterator[MemoryBudget]:
    """Yield the limits of the cgroups of this process and of their parents, version 2 and 1."""
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "memory"}:
            root, files = (cgroups, FILES_V2) if not controllers else (cgroups / "memory", FILES_V1)
            inner = root / path.strip("/")
            # A container sees its own group as the root, but the path as on the host.
            for directory in [inner, *inner.parents]:
                if directory.is_relative_to(root):
                    yield from _cgroup_limit(directory, files)


def _cgroup_limit(directory: Path, files: tuple[str, str, str]) -> Iterator[MemoryBudget]:
    try:
        limit, used = (int((directory / name).read_text(encoding="ascii")) for name in files[:2])
        statistics = (directory / "memory.stat").read_text(encoding="ascii")
    except (OSError, ValueError):  # no such file, or "max"
        return
    page_cache = re.search(rf"^{files[2]} (\d+)$", statistics, re.MULTILINE)
    if limit < 2**60:  # version 1 writes a huge number for "no limit"
        yield MemoryBudget(
            limit, max(0, limit - used + (int(page_cache[1]) if page_cache else 0)), "memory of the container"
        )


def parse_bytes(text: str) -> int:
    """Parse ``4GB``, ``512 MiB`` or ``2e9`` into bytes. Raises UsageError."""
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([KMGT]?I?)B?\s*", text, re.IGNORECASE)
    try:
        size = float(match[1]) * UNITS[match[2].upper()] if match else 0.0
    except (ValueError, KeyError):
        size = 0.0
    if not 1 <= size < 2**60:
        raise UsageError(f"Cannot parse memory size '{text}'.", hint="Use e.g. 4GB, 512MB or 16GiB.")
    return int(size)
