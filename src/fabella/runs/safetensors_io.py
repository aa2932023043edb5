"""Write and read named arrays as safetensors: 8 bytes of header length, a JSON header, then the arrays.

Writing is done here, in chunks: it needs no second copy in memory, and disk errors stay OSErrors. Reading uses the
safetensors library, on bytes whose sha256 was checked. Pickle is never read.
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
# Zip (torch.save since 1.6), pickle protocols 2 to 5, 7z and the format of numpy, which may contain pickled objects.
# Pickle protocols 0 and 1, and tar (torch.save before 0.1), begin with one of OLD_OPCODES.
SIGNATURES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"7z\xbc\xaf\x27\x1c", b"\x93NUMPY")
OLD_OPCODES = b"(]}cSVIFNGKMJUXTi)l0"


def dump_tensors(arrays: Arrays) -> Iterator[bytes | memoryview]:
    """Yield the chunks of a safetensors file, header first. Raises CheckpointError for an unsupported dtype."""
    yield _header(arrays)
    for array in (array for array in arrays.values() if array.size):
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        yield little.reshape(-1).view(np.uint8).data


def size_of(arrays: Arrays) -> int:
    """Return the size in bytes of the file that ``dump_tensors`` writes."""
    return len(_header(arrays)) + sum(array.nbytes for array in arrays.values())


def _header(arrays: Arrays) -> bytes:
    entries: dict[str, dict[str, Any]] = {}
    end = 0
    for name, array in arrays.items():
        if array.dtype.name not in NAMES:
            raise CheckpointError(f"Cannot save {name} with dtype {array.dtype}. A checkpoint has {', '.join(NAMES)}.")
        start, end = end, end + array.nbytes
        entries[name] = {"dtype": NAMES[array.dtype.name], "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def load_tensors(data: bytes, *, where: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of a safetensors file. Raises CheckpointError, which names the file ``where``."""
    if is_pickle(data[:16]):
        raise CheckpointError(
            f"{where}: refusing pickle, which can execute code when it is loaded.",
            hint="Ask its author for a safetensors file.",
        )
    try:
        return parse(data)
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{where} is not a valid safetensors file: {_first_line(error)}.") from None


def is_pickle(beginning: bytes) -> bool:
    """Return True if the first 16 bytes of a file are those of a pickle, or of an archive that may contain one."""
    # A safetensors file begins with a length far below 2**48, then '{', whatever its first bytes are.
    if beginning[6:9] == b"\0\0{" or not beginning:
        return False
    return beginning.startswith(SIGNATURES) or beginning[0] in OLD_OPCODES


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".")
