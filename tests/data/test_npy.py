"""Tests of ``.npy`` files that are appended to, and of corrupt ones."""

import errno
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.data import npy
from fabella.data.npy import NpyWriter, ShardedArray, checksum, header, open_array
from fabella.errors import DiskFullError, PreparedDataError

U2, I8 = np.dtype("<u2"), np.dtype("<i8")


@given(parts=st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=30), max_size=10))
def test_appended_parts_are_one_array(tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]]) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a.npy"
    with NpyWriter(path, U2) as writer:
        for part in parts:
            writer.append(np.array(part, dtype=U2))
    whole = [number for part in parts for number in part]
    assert writer.length == len(whole)
    assert open_array(path, U2, len(whole)).tolist() == whole
    assert np.load(path, allow_pickle=False).tolist() == whole


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**40])
def test_the_header_has_the_same_size_for_every_length(length: int) -> None:
    assert len(header(U2, length)) == len(header(U2, 0)) == 128


def test_every_block_has_a_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npy, "BLOCK_BYTES", 64)
    numbers = np.arange(100, dtype=U2)
    with NpyWriter(tmp_path / "a.npy", U2) as writer:
        writer.append(numbers[:50])
        writer.append(numbers[50:])
    data = numbers.tobytes()
    assert writer.checksums == [checksum(data[start : start + 64]) for start in range(0, 200, 64)]


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.npy").touch()
    with pytest.raises(Exception, match="exists"):
        NpyWriter(tmp_path / "a.npy", U2)


def test_a_full_disk_is_a_storage_error() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    writer = NpyWriter.__new__(NpyWriter)
    writer.path, writer.dtype, writer.length, writer.checksums = full, U2, 0, []
    writer._block, writer._file = bytearray(), full.open("wb")  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(DiskFullError, match="disk full"), writer:
        writer.append(np.zeros(10**6, dtype=U2))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_an_error_inside_the_block_is_the_one_that_is_raised(tmp_path: Path, number: int) -> None:
    with pytest.raises(OSError, match="while reading"), NpyWriter(tmp_path / "a.npy", U2):
        raise OSError(number, "while reading")


def write(path: Path, array: np.ndarray) -> Path:
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, allow_pickle=array.dtype.hasobject)
    return path


class Canary:
    """Reports when it is unpickled."""

    awake: ClassVar[list[str]] = []

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Canary.awake.append, ("unpickled",)


@pytest.mark.fault("E1", cases=1)
def test_pickled_objects_are_refused_unread(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npy", np.array([Canary()], dtype=object))
    for length in (0, 1):
        with pytest.raises(PreparedDataError, match=r"Cannot read .*a\.npy as an array of numbers"):
            open_array(path, I8, length)
    assert not Canary.awake


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(3, dtype="<u4"), r"has dtype uint32 and shape \(3,\); expected uint16 and \(3,\)"),
        (np.zeros(3, dtype=">u2"), "expected uint16"),
        (np.zeros(4, dtype="<u2"), r"has dtype uint16 and shape \(4,\)"),
        (np.zeros((3, 1), dtype="<u2"), r"has dtype uint16 and shape \(3, 1\)"),
        (np.zeros(3, dtype="<f2"), "has dtype float16"),
        (np.zeros(3, dtype=[("a", "<u2")]), "expected uint16"),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray, words: str, tmp_path: Path) -> None:
    with pytest.raises(PreparedDataError, match=words):
        open_array(write(tmp_path / "a.npy", array), U2, 3)


@pytest.mark.parametrize(
    "data", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"x" * 200, b"\x93NUMPY\x01\x00\x02\x00()"]
)
def test_a_file_that_is_not_an_array_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(PreparedDataError, match=r"Cannot read .*a\.npy as an array of numbers"):
        open_array(tmp_path / "a.npy", U2, 3)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PreparedDataError, match=r"a\.npy is missing\. Delete the directory and prepare the data again"):
        open_array(tmp_path / "a.npy", U2, 3)


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    places=st.lists(st.integers(0, 120), max_size=9),
    chunk=st.integers(1, 40),
)
def test_sums_of_a_sharded_array_are_those_of_the_whole(sizes: list[int], places: list[int], chunk: int) -> None:
    values = np.random.default_rng(len(places)).integers(0, 2, sum(sizes)).astype(np.uint8)
    array = ShardedArray(np.split(values, np.cumsum(sizes)[:-1]))
    positions = np.sort(np.minimum(np.array(places, np.int64), len(values)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(npy, "SUM_IDS", chunk)
        assert array.sums_before(positions).tolist() == [int(values[:place].sum()) for place in positions.tolist()]
