"""How much memory there is, in a container too."""

from pathlib import Path

import psutil
import pytest

from fabella.errors import UsageError
from fabella.planning.memory import available_ram, size_in_bytes


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


def test_without_a_limit_it_is_the_machines(tmp_path: Path) -> None:
    group(tmp_path / "groups" / "a", "max", 7, 1, V2)
    room = available_ram(tmp_path / "groups", own(tmp_path, "0::/a\n"))
    assert room.total == psutil.virtual_memory().total
    assert (0 < room.free <= room.total, room.where) == (True, "memory")


@pytest.mark.parametrize(
    ("files", "folder", "line"), [(V2, "a/b", "0::/a/b"), (V1, "memory/a/b", "3:cpu:/x\n4:memory:/a/b")]
)
def test_a_containers_limit_counts_and_files_kept_in_memory_do_not(
    files: tuple[str, str, str], folder: str, line: str, tmp_path: Path
) -> None:
    group(tmp_path / "groups" / folder, "1000000", 700_000, 100_000, files)
    room = available_ram(tmp_path / "groups", own(tmp_path, line + "\n"))
    assert (room.total, room.free, room.where) == (1_000_000, 400_000, "memory of the container")


def test_the_tightest_of_the_groups_around_counts(tmp_path: Path) -> None:
    group(tmp_path / "groups" / "a", "5000", 4000, 0, V2)
    group(tmp_path / "groups" / "a" / "b", "3000", 100, 0, V2)
    room = available_ram(tmp_path / "groups", own(tmp_path, "0::/a/b\n"))
    assert (room.total, room.free) == (3000, 1000)


def test_a_limit_above_the_machines_own_memory_is_none(tmp_path: Path) -> None:
    group(tmp_path / "groups" / "memory", "9223372036854771712", 1, 0, V1)
    assert available_ram(tmp_path / "groups", own(tmp_path, "4:memory:/\n")).where == "memory"


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 10**9), ("512 MiB", 512 * 2**20), ("1.5g", 15 * 10**8), ("2e9", 2 * 10**9), ("800", 800)],
)
def test_amounts_of_memory(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "4 apples", "0GB", "-1GB", "..GB", "1e40GB", "GB"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no amount of memory\. Write it as 4GB"):
        size_in_bytes(text)
