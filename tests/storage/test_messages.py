"""What the disk says is told in words, with the fix."""

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.errors import DiskFullError, StorageError
from fabella.storage import escaped, format_bytes, free_bytes, storage_errors

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 KB"),
        (4096, "4.1 KB"),
        (48_000_000, "48 MB"),
        (9_960_000, "10 MB"),
        (1_800_000_000, "1.8 GB"),
        (25 * 10**12, "25 TB"),
    ],
)
def test_sizes_are_read_at_a_glance(size: int, words: str) -> None:
    assert format_bytes(size) == words


@pytest.mark.parametrize(
    ("number", "begins", "fix"),
    [
        (errno.ENOSPC, "disk full: ", "Free some space there, or choose a place with more."),
        (errno.EDQUOT, "disk quota used up: ", "Free some space there, or choose a place with more."),
        (
            errno.EFBIG,
            "file larger than this place allows: ",
            "Raise the limit (ulimit -f unlimited), or choose a place that takes larger files.",
        ),
    ],
)
def test_a_full_disk_is_told_with_both_sizes(
    number: int, begins: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 3_000_000))
    with (
        pytest.raises(DiskFullError) as caught,
        storage_errors(tmp_path, "writing step-00000120", needed=48_000_000),
    ):
        raise OSError(number, "whatever the system calls it")
    assert caught.value.message == f"{begins}writing step-00000120 needs 48 MB, 3 MB are free at {tmp_path}."
    assert caught.value.hint == fix
    assert caught.value.exit_code == 4


def test_another_failure_of_the_disk_does_not_hide_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> Usage:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shutil, "disk_usage", fails)
    with pytest.raises(DiskFullError, match="an unknown amount is free at"), storage_errors(tmp_path, "writing x"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("number", "reason", "fix"),
    [
        (errno.EACCES, "permission denied", "Change the permissions, or choose another place."),
        (errno.EROFS, "read-only file system", "Choose a place that can be written to."),
        (errno.EIO, "input/output error", "The disk or its connection is failing: copy what matters elsewhere."),
    ],
)
def test_other_failures_are_told_with_their_reason(number: int, reason: str, fix: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught, storage_errors(tmp_path, "writing best"):
        raise OSError(number, reason.capitalize())
    assert str(caught.value) == f"writing best failed at {tmp_path}: {reason}. {fix}"
    assert not isinstance(caught.value, DiskFullError)


def test_what_is_no_failure_of_the_disk_passes_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), storage_errors(tmp_path, "writing"):
        raise ZeroDivisionError


def test_free_bytes_of_a_place_that_is_not_there_yet_are_those_of_its_parent(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") > 0


@given(st.text())
def test_escaped_text_is_one_printable_line_of_bounded_length(text: str) -> None:
    shown = escaped(text)
    assert shown.isprintable()
    assert len(shown) <= 81


@given(st.text(st.characters(categories=["L", "N", "P"]), max_size=80))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert escaped(text) == text


def test_control_characters_are_shown_not_obeyed() -> None:
    assert escaped("a\x1b[31m\n\0b\u202e") == "a\\x1b[31m\\n\\x00b\\u202e"
    assert escaped("x" * 10_000) == "x" * 80 + "…"
