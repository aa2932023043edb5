"""Reader of Parquet, a batch of rows at a time (needs ``pip install 'fabella[parquet]'``)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fabella.errors import TextError, did_you_mean
from fabella.text.compression import BLOCK, CODECS, FREE, RATIO
from fabella.text.decode_policy import DecodePolicy
from fabella.text.readers.read_options import ReadOptions
from fabella.text.tables.text_column import detect_text_column

SUFFIXES = frozenset({".parquet"})

ROWS = 100
"""Rows read at once, and inspected to detect the text column."""


def read(path: Path, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the text of each row. Raises TextError: missing extra, damage, no text column, decompression bomb."""
    if path.suffix.lower() in CODECS:
        raise TextError(f"{path} is compressed twice: Parquet compresses its columns.", hint="Unpack it first.")
    wanted = options.column
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise TextError("Reading .parquet needs pyarrow.", hint="pip install 'fabella[parquet]'") from error
    try:
        with parquet.ParquetFile(path, buffer_size=BLOCK) as file:
            candidates = _candidates(file, wanted, str(path))
            refuse_bomb(file.metadata, candidates, str(path))
            column = _detected(file, candidates, str(path)) if wanted == "auto" else wanted
            yield from _texts(file, column, str(path), detected=wanted == "auto", policy=policy)
    except (arrow.ArrowException, OSError) as error:
        message = str(error).partition("\n")[0].rstrip(".")
        raise TextError(f"{path} cannot be read as parquet: {message}.", hint="Download it again.") from error


def _candidates(file: Any, wanted: str, name: str) -> list[str]:
    """Return the wanted column, or every column of strings."""
    types = {field.name: field.type for field in file.schema_arrow}
    texts = [column for column, type_ in types.items() if "string" in str(type_) and not type_.num_fields]
    if wanted == "auto":
        if not texts:
            raise TextError(f"{name} has no text column.", hint=f"Its columns: {', '.join(types)}.")
        return texts
    if wanted not in types:
        raise TextError(f"{name} has no column {wanted!r}.", hint=did_you_mean(wanted, types))
    if wanted not in texts and "binary" not in str(types[wanted]):
        raise TextError(
            f"Column {wanted!r} of {name} contains {types[wanted]}, not text.", hint=did_you_mean("", texts)
        )
    return [wanted]


def _detected(file: Any, candidates: list[str], name: str) -> str:
    first = next(file.iter_batches(batch_size=ROWS, columns=candidates), None)
    rows = first.cast(_as_bytes(first.schema)).to_pylist() if first is not None else []
    return detect_text_column("auto", rows, name) if rows else candidates[0]


def _as_bytes(schema: Any) -> Any:
    import pyarrow as arrow

    return arrow.schema([(name, arrow.large_binary()) for name in schema.names])


def refuse_bomb(metadata: Any, columns: Sequence[str], name: str) -> None:
    """Raise TextError if a chunk of a column unpacks to more than RATIO times its compressed size."""
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(index)
            if chunk.path_in_schema in columns and chunk.total_uncompressed_size > (
                FREE + RATIO * chunk.total_compressed_size
            ):
                raise TextError(
                    f"{name} unpacks to more than {RATIO} times its size ({chunk.total_uncompressed_size:,} bytes "
                    f"from {chunk.total_compressed_size:,} in row group {group}): a decompression bomb, or text "
                    "too repetitive to train on.",
                    hint="If you trust it, write it again without compression.",
                )


def _texts(file: Any, column: str, name: str, *, detected: bool, policy: DecodePolicy) -> Iterator[str]:
    detection = policy.notes.add_detection("text column", column, name) if detected else None
    row = 0
    for batch in file.iter_batches(batch_size=ROWS, columns=[column]):
        # As bytes: Arrow does not check that its strings are UTF-8, and damage is for the policy to judge.
        for raw in batch.cast(_as_bytes(batch.schema)).column(0).to_pylist():
            row += 1
            if raw is None:
                policy.notes.empty += 1
                continue
            for text in policy.text(raw, lambda _raw, _at, row=row: f"{name}, row {row}, in {column!r}"):
                if detection:
                    detection.documents += 1
                yield text
