"""Tests that storage errors name the cause, the path and a hint."""

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
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (4096, "4.1 kB"),
        (48_000_000, "48 MB"),
        (9_960_000, "10 MB"),
        (1_800_000_000, "1.8 GB"),
        (25 * 10**12, "25 TB"),
    ],
)
def test_bytes_are_formatted_in_decimal_units(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("number", "beginning", "hint"),
    [
        (errno.ENOSPC, "disk full: ", "Free some space there, or choose a disk with more."),
        (errno.EDQUOT, "disk quota used up: ", "Free some space there, or choose a disk with more."),
        (
            errno.EFBIG,
            "file too large: ",
            "Raise the limit (ulimit -f unlimited), or choose a directory that takes larger files.",
        ),
    ],
)
def test_a_full_disk_names_the_needed_and_the_free_bytes(
    number: int, beginning: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 3_000_000))
    with (
        pytest.raises(DiskFullError) as caught,
        storage_errors(tmp_path, "writing step-00000120", needed=48_000_000),
    ):
        raise OSError(number, "any message of the system")
    assert caught.value.message == f"{beginning}writing step-00000120 needs 48 MB, 3 MB are free at {tmp_path}."
    assert caught.value.hint == hint
    assert caught.value.exit_code == 4


def test_a_failing_free_space_query_does_not_hide_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> Usage:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shutil, "disk_usage", fails)
    with pytest.raises(DiskFullError, match="the free space is unknown at"), storage_errors(tmp_path, "writing x"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("number", "reason", "hint"),
    [
        (errno.EACCES, "permission denied", "Change the permissions, or choose another directory."),
        (errno.EROFS, "read-only file system", "Choose a writable directory."),
        (errno.EIO, "input/output error", "The disk or its connection is failing: copy your data to another disk."),
    ],
)
def test_other_failures_name_their_reason(number: int, reason: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught, storage_errors(tmp_path, "writing best"):
        raise OSError(number, reason.capitalize())
    assert str(caught.value) == f"writing best failed at {tmp_path}: {reason}. {hint}"
    assert not isinstance(caught.value, DiskFullError)


def test_other_exceptions_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), storage_errors(tmp_path, "writing"):
        raise ZeroDivisionError


def test_free_bytes_of_a_missing_path_are_those_of_its_parent(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") > 0


@given(st.text())
def test_escaped_text_is_one_printable_line_of_bounded_length(text: str) -> None:
    line = escaped(text)
    assert line.isprintable()
    assert len(line) <= 81


@given(st.text(st.characters(categories=["L", "N", "P"]), max_size=80))
def test_printable_text_is_unchanged(text: str) -> None:
    assert escaped(text) == text


def test_control_characters_are_escaped() -> None:
    assert escaped("a\x1b[31m\n\0b\u202e") == "a\\x1b[31m\\n\\x00b\\u202e"
    assert escaped("x" * 10_000) == "x" * 80 + "…"
