"""Tests that a temporary file or directory belongs to its process until that exits."""

import fcntl
import os
from pathlib import Path

import pytest

from fabella.errors import StorageError
from fabella.storage import atomic_dir, find_stale_temps, remove_stale_temps
from fabella.storage.temp_files import create_temp_dir, create_temp_file, fsync_dir


def names(directory: Path) -> list[str]:
    return sorted(item.name for item in directory.iterdir())


def test_a_temporary_of_a_running_process_stays(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "a") as temp:
        assert remove_stale_temps(tmp_path) == []
        assert find_stale_temps(tmp_path) == []
        assert temp.exists()


def test_temporaries_of_killed_processes_are_listed_and_removed(tmp_path: Path) -> None:
    (tmp_path / ".step-00000120.partial-0123456789ab" / "inner").mkdir(parents=True)
    (tmp_path / ".latest.partial-0123456789ab").write_bytes(b"step-")
    assert [name for name, _ in find_stale_temps(tmp_path)] == ["latest", "step-00000120"]
    assert remove_stale_temps(tmp_path) == ["latest", "step-00000120"]
    assert names(tmp_path) == []


def test_only_files_with_the_name_of_a_temporary_are_removed(tmp_path: Path) -> None:
    other_files = [".hidden", ".a.partial-xyz", "a.partial-0123456789ab", ".git", "story.txt"]
    for name in other_files:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".link.partial-0123456789ab").symlink_to("story.txt")
    assert remove_stale_temps(tmp_path) == []
    assert names(tmp_path) == sorted([*other_files, ".link.partial-0123456789ab"])


def test_a_missing_directory_has_no_temporaries(tmp_path: Path) -> None:
    assert remove_stale_temps(tmp_path / "missing") == []


def test_writing_a_directory_removes_only_its_own_stale_temporaries(tmp_path: Path) -> None:
    (tmp_path / ".a.partial-0123456789ab").mkdir()
    (tmp_path / ".b.partial-0123456789ab").mkdir()
    with atomic_dir(tmp_path / "a"):
        pass
    assert names(tmp_path) == [".b.partial-0123456789ab", "a"]


@pytest.mark.parametrize("make", [create_temp_dir, create_temp_file])
def test_a_temporary_is_created_again_if_a_cleanup_removes_it_before_it_is_locked(
    make: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(make)
    flock, calls = fcntl.flock, list[int]()

    def locked_by_cleanup(descriptor: int, operation: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            raise BlockingIOError
        if len(calls) == 2:  # the cleanup has removed it and ended
            for item in tmp_path.iterdir():
                item.rmdir() if item.is_dir() else item.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", locked_by_cleanup)
    temp, lock = make(tmp_path / "a")
    assert temp.exists()
    assert len(calls) == 3
    os.close(lock)


def test_without_directory_locks_nothing_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / ".a.partial-0123456789ab").mkdir()
    assert remove_stale_temps(tmp_path) == []
    with atomic_dir(tmp_path / "b") as temp:
        (temp / "x").write_bytes(b"x")
    assert names(tmp_path) == [".a.partial-0123456789ab", "b"]


def test_a_file_system_that_cannot_sync_directories_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unsupported)
    fsync_dir(tmp_path)


def test_a_failing_fsync_of_a_directory_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(StorageError, match="input/output error"), atomic_dir(tmp_path / "a"):
        pass
    assert names(tmp_path) == []
