"""Tests that the memory budget is that of the machine or of its container."""

from pathlib import Path

import psutil
import pytest

from fabella.errors import UsageError
from fabella.planning.memory import available_ram, parse_bytes


def group(folder: Path, limit: str, used: int, kept: int, files: tuple[str, str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / files[0]).write_text(limit)
    (folder / files[1]).write_text(str(used))
    (folder / "memory.stat").write_text(f"anon 5\n{files[2]} {kept}\n")


V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def own(tmp_path: Path, text: str) -> Path:
    (tmp_path / "cgroup").write_text(text)
    return tmp_path / "cgroup"


def test_without_a_limit_the_memory_is_that_of_the_machine(tmp_path: Path) -> None:
    group(tmp_path / "groups" / "a", "max", 7, 1, V2)
    budget = available_ram(tmp_path / "groups", own(tmp_path, "0::/a\n"))
    assert budget.total == psutil.virtual_memory().total
    assert (0 < budget.free <= budget.total, budget.where) == (True, "memory")


@pytest.mark.parametrize(
    ("files", "folder", "line"), [(V2, "a/b", "0::/a/b"), (V1, "memory/a/b", "3:cpu:/x\n4:memory:/a/b")]
)
def test_a_container_limit_counts_and_the_page_cache_does_not(
    files: tuple[str, str, str], folder: str, line: str, tmp_path: Path
) -> None:
    group(tmp_path / "groups" / folder, "1000000", 700_000, 100_000, files)
    budget = available_ram(tmp_path / "groups", own(tmp_path, line + "\n"))
    assert (budget.total, budget.free, budget.where) == (1_000_000, 400_000, "memory of the container")


def test_the_lowest_limit_of_all_parent_groups_counts(tmp_path: Path) -> None:
    group(tmp_path / "groups" / "a", "5000", 4000, 0, V2)
    group(tmp_path / "groups" / "a" / "b", "3000", 100, 0, V2)
    budget = available_ram(tmp_path / "groups", own(tmp_path, "0::/a/b\n"))
    assert (budget.total, budget.free) == (3000, 1000)


def test_a_limit_above_the_memory_of_the_machine_has_no_effect(tmp_path: Path) -> None:
    group(tmp_path / "groups" / "memory", "9223372036854771712", 1, 0, V1)
    assert available_ram(tmp_path / "groups", own(tmp_path, "4:memory:/\n")).where == "memory"


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 10**9), ("512 MiB", 512 * 2**20), ("1.5g", 15 * 10**8), ("2e9", 2 * 10**9), ("800", 800)],
)
def test_memory_sizes_are_parsed(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "4 apples", "0GB", "-1GB", "..GB", "1e40GB", "GB"])
def test_an_invalid_memory_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"Cannot parse memory size .*\. Use e\.g\. 4GB"):
        parse_bytes(text)
