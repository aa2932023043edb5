"""Tests that the lock of a directory belongs to one process and ends with it."""

import os
import signal
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from fabella.errors import LockedError, StorageError
from fabella.storage.lock import lock_dir


def test_a_second_process_is_refused_with_the_pid_and_host_of_the_first(tmp_path: Path) -> None:
    with lock_dir(tmp_path), pytest.raises(LockedError) as caught, lock_dir(tmp_path):
        pytest.fail("two hold the same directory")
    assert caught.value.message == (
        f"run directory {tmp_path} is locked by pid {os.getpid()} on host {socket.gethostname()}."
    )
    assert caught.value.hint == "Wait until it has ended, stop it, or choose another directory."


def test_the_lock_is_released_after_the_block_and_after_an_error_in_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock_dir(tmp_path):
        raise ZeroDivisionError
    with lock_dir(tmp_path, what="dataset"):
        pass


def test_a_killed_process_releases_its_lock(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with lock_dir(tmp_path):
            os.write(writing, b"held")
            signal.pause()
        os._exit(1)
    assert os.read(reading, 4) == b"held"
    with pytest.raises(LockedError, match=f"locked by pid {child} on host"), lock_dir(tmp_path):
        pytest.fail("the child holds it")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with lock_dir(tmp_path):
        assert (tmp_path / ".lock-holder").read_text().split()[0] == str(os.getpid())


def test_a_holder_file_of_a_dead_process_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    monkeypatch.setattr("fabella.storage.lock.LOCK_TIMEOUT_SECONDS", 0)
    with lock_dir(tmp_path):
        (tmp_path / ".lock-holder").write_text(f"{child} {socket.gethostname()}\n")
        with pytest.raises(LockedError, match="is locked by another process"), lock_dir(tmp_path):
            pytest.fail("two hold the same directory")


def test_a_holder_on_another_host_is_named(tmp_path: Path) -> None:
    with lock_dir(tmp_path):
        (tmp_path / ".lock-holder").write_text("17 far-away\x1b[2J\n")
        with pytest.raises(LockedError, match=r"locked by pid 17 on host far-away\\x1b\[2J\."), lock_dir(tmp_path):
            pytest.fail("two hold the same directory")


def test_a_missing_directory_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="locking missing failed"), lock_dir(tmp_path / "missing"):
        pytest.fail("nothing to hold")


def test_other_processes_wait_for_a_blocking_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lock_dir(tmp_path):
        assert (tmp_path / ".lock-holder").read_text()
    assert not (tmp_path / ".lock-holder").exists()
    blocking = lock_dir(tmp_path, blocking=True)
    blocking.__enter__()
    waits = list[float]()

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if sum(waits) > 5:  # on a slow disk
            blocking.__exit__(None, None, None)

    clock = SimpleNamespace(sleep=wait, monotonic=lambda: sum(waits))
    monkeypatch.setattr("fabella.storage.lock.time", clock)
    with lock_dir(tmp_path):
        assert 5 < sum(waits) < 6
    with lock_dir(tmp_path, blocking=True), pytest.raises(LockedError, match="another process"), lock_dir(tmp_path):
        pytest.fail("it never ends")


def test_a_blocking_holder_removes_the_holder_file_of_a_killed_process(tmp_path: Path) -> None:
    (tmp_path / ".lock-holder").write_text(f"{os.getpid()} {socket.gethostname()}\n")
    with lock_dir(tmp_path, blocking=True):
        assert not (tmp_path / ".lock-holder").exists()
