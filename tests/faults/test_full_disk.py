"""Tests that a full, read-only or failing disk raises a clear error and leaves every older checkpoint intact.

Rows A5, A6 and A7 of the fault matrix.
"""

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fabella.errors import DiskFullError, StorageError
from fabella.runs.checkpoint import load, save
from fabella.runs.run_dir import RunDir
from tests.faults.injection import disk_full_after, fail_calls, no_action, run_in_child, watch_disk_calls
from tests.faults.small_disk import LEVELS
from tests.runs import stub


def assert_intact(folder: RunDir, before: dict[str, bytes]) -> None:
    assert stub.contents(folder.path) == before
    assert [item.name for item in folder.path.rglob(".*")] == [".lock"]
    assert stub.same(load(folder, "latest").checkpoint, stub.checkpoint(100))


@pytest.mark.fault("A5", cases=LEVELS)
@pytest.mark.parametrize("level", range(LEVELS))
def test_a_disk_that_fills_up_leaves_the_older_checkpoint(level: int, tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [100])
    before = stub.contents(tmp_path)
    size = sum(len(data) for name, data in before.items() if name.startswith("checkpoints/step-00000100/"))
    with watch_disk_calls(disk_full_after(size * level // LEVELS)), pytest.raises(DiskFullError) as caught:
        save(folder, 120, stub.checkpoint(120))
    assert re.fullmatch(
        r"disk full: writing step-00000120 needs 9\.\d kB, \S+ \w+ are free at \S+/checkpoints/step-00000120; "
        r"the last good checkpoint is step-00000100\. Free some space there, or choose a disk with more\.",
        str(caught.value),
    )
    assert_intact(folder, before)
    save(folder, 120, stub.checkpoint(120))  # when there is space again


@pytest.mark.fault("A5", cases=LEVELS)
@pytest.mark.fault("A7", cases=1)
def test_a_real_disk_of_two_megabytes(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs the command unshare, to mount a disk")
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"this system does not let a user mount a disk: {probe.stderr.strip()}")
    command = ["unshare", "-rm", sys.executable, "-m", "tests.faults.small_disk", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert process.returncode == 0, process.stderr
    assert process.stdout.split("\n")[:-1] == [f"ok {level}" for level in range(LEVELS)] + [
        "ok refused",
        "ok read-only",
    ]


ERRORS = {
    errno.EFBIG: "file too large: writing step-00000120 needs 9.",
    errno.EDQUOT: "disk quota used up: writing step-00000120 needs 9.",
    errno.EIO: "writing step-00000120 failed at ",
    errno.EROFS: "writing step-00000120 failed at ",
    errno.EACCES: "writing step-00000120 failed at ",
}
PHASES = {"making": ("mkdir",), "writing": ("write",), "syncing": ("fsync",), "renaming": ("rename",)}


@pytest.mark.fault("A6", cases=len(ERRORS) * len(PHASES))
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("number", ERRORS, ids=[errno.errorcode[number] for number in ERRORS])
def test_each_disk_failure_in_each_phase_is_reported(number: int, phase: str, tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [100])
    before = stub.contents(tmp_path)
    with watch_disk_calls(fail_calls(number, PHASES[phase])), pytest.raises(StorageError) as caught:
        save(folder, 120, stub.checkpoint(120))
    assert caught.value.message.startswith(ERRORS[number])
    assert caught.value.message.endswith("; the last good checkpoint is step-00000100.")
    assert caught.value.exit_code == 4
    assert caught.value.hint
    assert_intact(folder, before)


def test_every_disk_call_can_fail(tmp_path: Path) -> None:
    """If any single call fails, a complete checkpoint remains, and the error is a StorageError."""
    folder = stub.folder(tmp_path / "run", [100])
    rehearsal = stub.copied(folder, tmp_path / "rehearsal")
    with watch_disk_calls(no_action) as watched:
        save(rehearsal, 120, stub.checkpoint(120))
    for number in range(len(watched.calls)):
        copy = stub.copied(folder, tmp_path / str(number))

        def fail(position: int, name: str, arguments: tuple[object, ...], point: int = number) -> None:
            if position == point and name != "unlink":
                raise OSError(errno.EIO, "Input/output error")

        try:
            with watch_disk_calls(fail):
                save(copy, 120, stub.checkpoint(120))
        except StorageError:
            pass
        else:
            # Two calls may fail without an error: mkdir of an existing folder, and unlink, which `fail` skips.
            assert watched.calls[number][0] in {"mkdir", "unlink"}
        loaded = load(copy, "latest")
        assert stub.same(loaded.checkpoint, stub.checkpoint(loaded.step))
        assert [item.name for item in copy.path.rglob(".*")] in ([], [".lock"], [".lock", ".lock-holder"])


def test_a_file_above_the_size_limit_is_reported(tmp_path: Path) -> None:
    """The error is real, not injected: the child may write at most 2,000 bytes to a file."""
    folder = stub.folder(tmp_path, [100])
    before = stub.contents(tmp_path)

    def save_with_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            save(folder, 120, stub.checkpoint(120))
        except DiskFullError as error:
            os._exit(7 if error.message.startswith("file too large: writing step-") else 8)

    assert run_in_child(save_with_limit) == 7
    assert_intact(folder, before)


def test_without_a_checkpoint_the_error_says_so(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path)
    with watch_disk_calls(disk_full_after(0)), pytest.raises(DiskFullError, match="; there is no checkpoint yet"):
        save(folder, 10, stub.checkpoint(10))


def test_a_pointer_that_cannot_be_moved_leaves_both_checkpoints(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [100])
    match = "writing latest failed at .*; the last good checkpoint is step-00000120"
    with watch_disk_calls(fail_calls(errno.EIO, ("replace",))), pytest.raises(StorageError, match=match):
        save(folder, 120, stub.checkpoint(120))
    assert (folder.read_pointer("latest"), folder.steps()) == (100, [100, 120])
