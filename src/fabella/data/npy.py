"""``.npy`` files of one dimension, written piece by piece and read as memory maps; never a pickled object."""

import contextlib
import io
import zlib
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fabella.errors import PreparedDataError
from fabella.storage import storage_errors

# Checksums are kept for every block of this many bytes, so that damage can be told to a place.
BLOCK_BYTES = 2**20


class NpyWriter:
    """Appends to a new ``.npy`` file; its length is known, and written, when it is closed."""

    def __init__(self, path: Path, dtype: "np.dtype[Any]") -> None:
        self.path = path
        self.dtype = dtype
        self.length = 0
        self.checksums: list[str] = []
        """CRC-32 (hex) of every BLOCK_BYTES of numbers"""
        self._block = bytearray()
        with storage_errors(path, "preparing"):
            self._file = path.open("xb")
            self._file.write(header(self.dtype, 0))

    def append(self, numbers: NDArray[np.integer[Any]]) -> None:
        """Write ``numbers`` behind what is there."""
        data = numbers.astype(self.dtype).tobytes()
        with storage_errors(self.path, "preparing", needed=len(data)):
            self._file.write(data)
        self.length += len(numbers)
        self._block += data
        while len(self._block) >= BLOCK_BYTES:
            self.checksums.append(checksum(self._block[:BLOCK_BYTES]))
            del self._block[:BLOCK_BYTES]

    def close(self) -> None:
        """Write what is held back, and the length. Nothing can be appended any more."""
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
        # What could not be written is being told already; closing may fail for the same reason, and tells nothing new.
        with contextlib.suppress(OSError):
            self._file.close()


def header(dtype: "np.dtype[Any]", length: int) -> bytes:
    """The header of a ``.npy`` file; of the same size for every length, so that it can be overwritten."""
    buffer = io.BytesIO()
    values = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(buffer, values)
    return buffer.getvalue()


def checksum(data: "bytes | bytearray | memoryview") -> str:
    """CRC-32, eight hexadecimal digits."""
    return f"{zlib.crc32(data):08x}"


def open_array(path: Path, dtype: "np.dtype[Any]", length: int) -> NDArray[Any]:
    """A memory map of a file that must hold ``length`` numbers of ``dtype``. Raises PreparedDataError."""
    name = f"{path.parent.name}/{path.name}"
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r" if length else None, allow_pickle=False)
    except FileNotFoundError:
        raise corrupt_error(f"{name} is missing.") from None
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
        raise corrupt_error(f"{name} cannot be read as an array of numbers: {str(error)[:200]}.") from error
    if array.dtype != dtype or array.shape != (length,):
        raise corrupt_error(
            f"{name} holds {array.dtype} of shape {array.shape}; it must be {dtype} of shape ({length},)."
        )
    return array


def corrupt_error(problem: str) -> PreparedDataError:
    """The error for prepared data that is not what it was when it was written."""
    return PreparedDataError(problem, hint="Remove the folder, and prepare the data again: fabella prepare.")
