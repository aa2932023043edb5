"""Read a GGUF file with the gguf library: header, vocabulary, and tensors of every type that it converts to float32."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.errors import CheckpointError
from fabella.interop.gguf_files.layout import EMBEDDING, is_tied, to_config, to_weights
from fabella.interop.gguf_files.vocab import KEY, read_vocab
from fabella.interop.imported_model import ImportedModel
from fabella.storage import escaped, storage_errors
from fabella.storage.messages import escaped_path

MAGIC = b"GGUF"
HEADER = struct.Struct("<4sIQQ")
MAX_ENTRIES = 100_000
"""Most tensors, or entries of the header, that are read."""
DAMAGED = (
    ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError,
    StopIteration,
)  # fmt: skip
"""Errors of the gguf library and of numpy for damaged files."""


def is_gguf(path: Path) -> bool:
    """Return whether a file begins as a GGUF file."""
    if not path.is_file():
        return False
    with storage_errors(path, f"reading {escaped(path.name)}"), path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_gguf(path: Path) -> ImportedModel:
    """Return the model of a GGUF file. Raises CheckpointError for a damaged file, UsageError or TokenizerError for one
    that Fabella does not support.
    """
    where = escaped_path(path)
    _check_counts(path, where)
    try:
        values, tensors = _read(path)
    except DAMAGED as error:
        raise _damaged(where, error) from None
    name = str(values.get("general.architecture", ""))
    tokens = values.get(f"{KEY}tokens")
    embedding = tensors.get(EMBEDDING)
    vocab_size = len(embedding) if embedding is not None and embedding.ndim == 2 else len(tokens or ())
    config = to_config(name, values, vocab_size, tied=is_tied(name, tensors))
    return ImportedModel(
        source=f"GGUF file, architecture {name}",
        config=config,
        weights=to_weights(config, tensors, where),
        tokenizer=read_vocab(values, where),
        tokenizer_source=str(path),
    )


def _check_counts(path: Path, where: str) -> None:
    """Raise CheckpointError before a loop over a header that announces more entries than any model has."""
    with storage_errors(path, f"reading {escaped(path.name)}"), path.open("rb") as file:
        data = file.read(HEADER.size)
    if len(data) < HEADER.size:
        raise _damaged(where, ValueError("it ends within its header"))
    _, version, tensors, entries = HEADER.unpack(data)
    if version not in (2, 3):
        raise CheckpointError(
            f"{where} has version {version & 0xFFFF}; Fabella reads versions 2 and 3.",
            hint="Convert it again.",
        )
    if not 0 < tensors <= MAX_ENTRIES or not 0 < entries <= MAX_ENTRIES:
        raise _damaged(where, ValueError(f"its header announces {tensors:,} tensors and {entries:,} entries"))


def _damaged(where: str, error: Exception) -> CheckpointError:
    reason = escaped((str(error).splitlines() or [type(error).__name__])[0].rstrip("."), 200)
    return CheckpointError(f"{where} is not a valid GGUF file: {reason}.", hint="Get the file again.")


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, NDArray[np.float32]]]:
    import gguf

    reader = gguf.GGUFReader(path)
    values = {name: entry.contents() for name, entry in reader.fields.items()}
    tensors: dict[str, NDArray[np.float32]] = {}
    for tensor in reader.tensors:
        array = np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
        tensors[tensor.name] = array.reshape(shape)
    return values, tensors
