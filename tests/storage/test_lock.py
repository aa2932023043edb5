"""One process at a time holds a folder; the lock dies with it."""

import os
import signal
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from fabella.errors import LockedError, StorageError
from fabella.storage import locked


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(LockedError) as caught, locked(tmp_path):
        pytest.fail("two hold the same folder")
    assert caught.value.message == (
        f"run folder {tmp_path} is locked by pid {os.getpid()} on host {socket.gethostname()}."
    )
    assert caught.value.hint == "Wait until it has ended, stop it, or choose another folder."


def test_a_lock_is_free_again_after_its_block_and_after_an_error_in_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path, what="prepared folder"):
        pass


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(tmp_path):
            os.write(writing, b"held")
            signal.pause()
        os._exit(1)
    assert os.read(reading, 4) == b"held"
    with pytest.raises(LockedError, match=f"locked by pid {child} on host"), locked(tmp_path):
        pytest.fail("the child holds it")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text().split()[0] == str(os.getpid())


def test_a_signature_left_by_a_dead_holder_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    monkeypatch.setattr("fabella.storage.lock.PATIENCE_SECONDS", 0)
    with locked(tmp_path):
        (tmp_path / ".lock").write_text(f"{child} {socket.gethostname()}\n")
        with pytest.raises(LockedError, match="is locked by another process"), locked(tmp_path):
            pytest.fail("two hold the same folder")


def test_a_holder_on_another_host_is_named(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / ".lock").write_text("17 far-away\x1b[2J\n")
        with pytest.raises(LockedError, match=r"locked by pid 17 on host far-away\\x1b\[2J\."), locked(tmp_path):
            pytest.fail("two hold the same folder")


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="locking gone failed"), locked(tmp_path / "gone"):
        pytest.fail("nothing to hold")


def test_who_holds_it_but_for_a_moment_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text()
    assert (tmp_path / ".lock").read_text() == ""
    brief = locked(tmp_path, briefly=True)
    brief.__enter__()
    waits = list[float]()

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if sum(waits) > 5:  # on a slow disk
            brief.__exit__(None, None, None)

    clock = SimpleNamespace(sleep=wait, monotonic=lambda: sum(waits))
    monkeypatch.setattr("fabella.storage.lock.time", clock)
    with locked(tmp_path):
        assert 5 < sum(waits) < 6
    with locked(tmp_path, briefly=True), pytest.raises(LockedError, match="another process"), locked(tmp_path):
        pytest.fail("it never ends")
