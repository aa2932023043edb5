"""One-dimensional ``.npy`` files, appended to and read as memory maps; never with pickled objects."""

import contextlib
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fabella.errors import PreparedDataError
from fabella.storage import storage_errors

BLOCK_BYTES = 2**20
"""Bytes per checksum, so that corruption can be located."""


class NpyWriter:
    """Writer that appends to a new ``.npy`` file and writes the length when it is closed."""

    def __init__(self, path: Path, dtype: "np.dtype[Any]") -> None:
        self.path = path
        self.dtype = dtype
        self.length = 0
        self.checksums: list[str] = []
        """CRC-32 (hex) of every BLOCK_BYTES of data."""
        self._block = bytearray()
        with storage_errors(path, "preparing"):
            self._file = path.open("xb")
            self._file.write(header(self.dtype, 0))

    def append(self, numbers: NDArray[np.integer[Any]]) -> None:
        """Append ``numbers``."""
        data = numbers.astype(self.dtype).tobytes()
        with storage_errors(self.path, "preparing", needed=len(data)):
            self._file.write(data)
        self.length += len(numbers)
        self._block += data
        while len(self._block) >= BLOCK_BYTES:
            self.checksums.append(checksum(self._block[:BLOCK_BYTES]))
            del self._block[:BLOCK_BYTES]

    def close(self) -> None:
        """Write the last checksum and the length. Nothing can be appended afterwards."""
        if self._block:
            self.checksums.append(checksum(self._block))
            self._block.clear()
        with storage_errors(self.path, "preparing"):
            self._file.seek(0)
            self._file.write(header(self.dtype, self.length))
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is None:
            self.close()
            return
        # The write error is being raised already; closing may fail for the same reason.
        with contextlib.suppress(OSError):
            self._file.close()


def header(dtype: "np.dtype[Any]", length: int) -> bytes:
    """Return the header of a ``.npy`` file. It has the same size for every length, so that it can be overwritten."""
    buffer = io.BytesIO()
    values = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(buffer, values)
    return buffer.getvalue()


def checksum(data: "bytes | bytearray | memoryview") -> str:
    """Return the CRC-32 as eight hexadecimal digits."""
    return f"{zlib.crc32(data):08x}"


def open_array(path: Path, dtype: "np.dtype[Any]", length: int) -> NDArray[Any]:
    """Return a memory map of ``length`` numbers of ``dtype``. Raises PreparedDataError for another shape."""
    name = f"{path.parent.name}/{path.name}"
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r" if length else None, allow_pickle=False)
    except FileNotFoundError:
        raise corrupt_error(f"{name} is missing.") from None
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
        raise corrupt_error(f"Cannot read {name} as an array of numbers: {str(error)[:200]}.") from error
    if array.dtype != dtype or array.shape != (length,):
        raise corrupt_error(
            f"{name} has dtype {array.dtype} and shape {array.shape}; expected {dtype} and ({length},)."
        )
    return array


def corrupt_error(problem: str) -> PreparedDataError:
    """Return the error for a dataset that has changed since it was written."""
    return PreparedDataError(problem, hint="Delete the directory and prepare the data again: fabella prepare.")


SUM_IDS = 2**22
"""Numbers summed at once: 32 MiB of sums."""


class ShardedArray:
    """One-dimensional array in several files, as memory maps."""

    def __init__(self, shards: Sequence[NDArray[Any]]) -> None:
        self._shards = shards
        self._starts = np.cumsum([0, *map(len, shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def locate(self, position: int) -> tuple[int, int]:
        """Return the number of the shard with ``position``, and the offset in it."""
        shard = int(np.searchsorted(self._starts, position, side="right")) - 1
        return shard, int(position - self._starts[shard])

    def gather(self, starts: NDArray[np.int64], length: int) -> NDArray[Any]:
        """Return ``length`` numbers from each of ``starts``, [B, length]: one index of a memory map per shard."""
        result = np.empty((len(starts), length), dtype=self._shards[0].dtype)
        shard_of = np.searchsorted(self._starts, starts, side="right") - 1
        inside = starts + length <= self._starts[shard_of + 1]
        for shard in np.unique(shard_of[inside]):
            rows = np.flatnonzero(inside & (shard_of == shard))
            sequences = np.lib.stride_tricks.sliding_window_view(self._shards[shard], length)
            result[rows] = sequences[starts[rows] - self._starts[shard]]
        for row in np.flatnonzero(~inside):
            result[row] = self.read(int(starts[row]), int(starts[row]) + length)
        return result

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the numbers from ``start`` to ``stop - 1``, across shards."""
        assert 0 <= start <= stop <= len(self), f"[{start}, {stop}) is outside of {len(self)} ids"
        first = self.locate(start)[0]
        parts: list[NDArray[Any]] = []
        for shard in range(first, len(self._shards)):
            if self._starts[shard] >= stop:
                break
            begin = self._starts[shard]
            parts.append(self._shards[shard][max(start - begin, 0) : stop - begin])
        return np.concatenate(parts) if parts else np.empty(0, dtype=self._shards[0].dtype)

    def sums_before(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sum of all numbers before each of ``positions``, which never fall; memory is bounded."""
        result = np.zeros(len(positions), np.int64)
        done, total = int(np.searchsorted(positions, 0, side="right")), 0
        for start in range(0, len(self), SUM_IDS):
            sums = np.cumsum(self.read(start, min(start + SUM_IDS, len(self))), dtype=np.int64)
            last = int(np.searchsorted(positions, start + len(sums), side="right"))
            result[done:last] = total + sums[positions[done:last] - start - 1]
            total, done = total + int(sums[-1]), last
        return result
