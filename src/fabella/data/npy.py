"""One-dimensional ``.npy`` files, appended to and read as memory maps; never with pickled objects."""

import contextlib
import io
import zlib
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
