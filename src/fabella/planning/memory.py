"""How much memory there is for a training: of the machine, of the container it runs in, or as somebody says."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from fabella.errors import UsageError

CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Limit, use, and the line of memory.stat that counts files kept in memory, which make room when it is needed.
FILES_V2 = ("memory.max", "memory.current", "inactive_file")
FILES_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Memory in bytes: all there is, and what of it is free now. ``where``: in words, for people."""

    total: int
    free: int
    where: str


def available_ram(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> MemoryBudget:
    """The machine's memory, or less where a container (cgroup) allows less."""
    machine = psutil.virtual_memory()
    rooms = [MemoryBudget(machine.total, machine.available, "memory"), *_cgroup_rooms(cgroups, own)]
    total, free = min(room.total for room in rooms), min(rooms, key=lambda room: room.free)
    return MemoryBudget(total, min(free.free, total), free.where)


def _cgroup_rooms(cgroups: Path, own: Path) -> Iterator[MemoryBudget]:
    """The limits of this process's groups and of all groups around them, version 2 and 1."""
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "memory"}:
            root, files = (cgroups, FILES_V2) if not controllers else (cgroups / "memory", FILES_V1)
            inner = root / path.strip("/")
            # A container sees its own group as the root; the path is that of the world outside then.
            for folder in [inner, *inner.parents]:
                if folder.is_relative_to(root):
                    yield from _limit_of(folder, files)


def _limit_of(folder: Path, files: tuple[str, str, str]) -> Iterator[MemoryBudget]:
    try:
        limit, used = (int((folder / name).read_text(encoding="ascii")) for name in files[:2])
        statistics = (folder / "memory.stat").read_text(encoding="ascii")
    except (OSError, ValueError):  # no such file, or "max"
        return
    kept = re.search(rf"^{files[2]} (\d+)$", statistics, re.MULTILINE)
    if limit < 2**60:  # version 1 says "no limit" with a huge number
        yield MemoryBudget(limit, max(0, limit - used + (int(kept[1]) if kept else 0)), "memory of the container")


def size_in_bytes(text: str) -> int:
    """``4GB``, ``512 MiB``, ``2e9`` → bytes. Raises UsageError for anything else."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([KMGT]?I?)B?\s*", text, re.IGNORECASE)
    try:
        size = float(found[1]) * UNITS[found[2].upper()] if found else 0.0
    except (ValueError, KeyError):
        size = 0.0
    if not 1 <= size < 2**60:
        raise UsageError(f"'{text}' is no amount of memory.", hint="Write it as 4GB, 512MB or 16GiB.")
    return int(size)
