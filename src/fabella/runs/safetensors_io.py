"""Named arrays as safetensors: 8 bytes of header length, a JSON header, the arrays one after another.

Written here piece by piece, which needs no second copy in memory and says in an OSError what the disk said;
read with the safetensors library, from bytes whose sha256 was checked. Pickle is never read.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as parse

from fabella.errors import CheckpointError

Arrays = Mapping[str, NDArray[Any]]

NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "uint8": "U8"}
ALIGNMENT = 8
# Zip (torch.save since 1.6), pickle protocols 2 to 5, tar (torch.save before 0.1), 7z, and numpy's own format,
# which may hold pickled objects. Protocols 0 and 1 begin with an opcode of their own.
SIGNATURES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"7z\xbc\xaf\x27\x1c", b"\x93NUMPY")
OLD_OPCODES = b"(]}cSVIFNGKMJUXTi)l0"


def dump_tensors(arrays: Arrays) -> Iterator[bytes | memoryview]:
    """The pieces of a safetensors file, header first. Raises CheckpointError for a dtype that it cannot hold."""
    yield _header(arrays)
    for array in (array for array in arrays.values() if array.size):
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        yield little.reshape(-1).view(np.uint8).data


def size_of(arrays: Arrays) -> int:
    """Bytes of the file that ``encoded`` makes."""
    return len(_header(arrays)) + sum(array.nbytes for array in arrays.values())


def _header(arrays: Arrays) -> bytes:
    entries: dict[str, dict[str, Any]] = {}
    end = 0
    for name, array in arrays.items():
        if array.dtype.name not in NAMES:
            raise CheckpointError(f"{name} has dtype {array.dtype}; a checkpoint holds {', '.join(NAMES)}.")
        start, end = end, end + array.nbytes
        entries[name] = {"dtype": NAMES[array.dtype.name], "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def load_tensors(data: bytes, *, where: str) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file. ``where`` names the file in errors (CheckpointError)."""
    if is_pickle(data[:16]):
        raise CheckpointError(
            f"{where}: refusing pickle: it may hold code that runs when it is read.",
            hint="Have it converted to safetensors where it comes from.",
        )
    try:
        return parse(data)
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{where}: no safetensors file: {_first_line(error)}.") from None


def is_pickle(beginning: bytes) -> bool:
    """Whether a file's first 16 bytes are those of a pickle, or of an archive that may hold some."""
    # A safetensors file begins with a length far below 2**48, then '{': whatever its first bytes look like.
    if beginning[6:9] == b"\0\0{" or not beginning:
        return False
    return beginning.startswith(SIGNATURES) or beginning[0] in OLD_OPCODES


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".")
