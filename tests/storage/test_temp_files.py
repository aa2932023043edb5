"""What lies aside belongs to its writer for as long as that lives, and to nobody after."""

import fcntl
import os
from pathlib import Path

import pytest

from fabella.errors import StorageError
from fabella.storage import atomic_dir, find_stale_temps, remove_stale_temps
from fabella.storage.temp_files import create_temp_dir, create_temp_file, fsync_folder


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def test_what_a_living_writer_has_aside_stays(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "a") as aside:
        assert remove_stale_temps(tmp_path) == []
        assert find_stale_temps(tmp_path) == []
        assert aside.exists()


def test_what_a_dead_writer_left_is_told_and_removed(tmp_path: Path) -> None:
    (tmp_path / ".step-00000120.partial-0123456789ab" / "inner").mkdir(parents=True)
    (tmp_path / ".latest.partial-0123456789ab").write_bytes(b"step-")
    assert [name for name, _ in find_stale_temps(tmp_path)] == ["latest", "step-00000120"]
    assert remove_stale_temps(tmp_path) == ["latest", "step-00000120"]
    assert names(tmp_path) == []


def test_only_what_fabella_laid_aside_is_touched(tmp_path: Path) -> None:
    kept = [".hidden", ".a.partial-xyz", "a.partial-0123456789ab", ".git", "story.txt"]
    for name in kept:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".link.partial-0123456789ab").symlink_to("story.txt")
    assert remove_stale_temps(tmp_path) == []
    assert names(tmp_path) == sorted([*kept, ".link.partial-0123456789ab"])


def test_a_place_that_is_not_there_has_nothing_to_clean(tmp_path: Path) -> None:
    assert remove_stale_temps(tmp_path / "gone") == []


def test_writing_a_folder_removes_what_was_left_of_it_but_not_of_others(tmp_path: Path) -> None:
    (tmp_path / ".a.partial-0123456789ab").mkdir()
    (tmp_path / ".b.partial-0123456789ab").mkdir()
    with atomic_dir(tmp_path / "a"):
        pass
    assert names(tmp_path) == [".b.partial-0123456789ab", "a"]


@pytest.mark.parametrize("make", [create_temp_dir, create_temp_file])
def test_a_cleaner_that_comes_between_making_and_locking_costs_a_second_try(
    make: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(make)
    flock, calls = fcntl.flock, list[int]()

    def too_late(descriptor: int, operation: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            raise BlockingIOError
        if len(calls) == 2:  # and once more: the cleaner has been and gone
            for item in tmp_path.iterdir():
                item.rmdir() if item.is_dir() else item.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", too_late)
    aside, lock = make(tmp_path / "a")
    assert aside.exists()
    assert len(calls) == 3
    os.close(lock)


def test_without_folder_locks_nothing_is_taken_for_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / ".a.partial-0123456789ab").mkdir()
    assert remove_stale_temps(tmp_path) == []
    with atomic_dir(tmp_path / "b") as aside:
        (aside / "x").write_bytes(b"x")
    assert names(tmp_path) == [".a.partial-0123456789ab", "b"]


def test_a_file_system_without_fsync_of_folders_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(descriptor: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unknown)
    fsync_folder(tmp_path)


def test_a_failing_fsync_of_a_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(StorageError, match="input/output error"), atomic_dir(tmp_path / "a"):
        pass
    assert names(tmp_path) == []
