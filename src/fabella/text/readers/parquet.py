"""Documents of .parquet, some rows at a time (needs ``pip install 'fabella[parquet]'``)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fabella.errors import TextError, did_you_mean
from fabella.text.compression import BLOCK, FREE, RATIO
from fabella.text.decode_policy import DecodePolicy
from fabella.text.readers.text_column import detect_text_column

ROWS = 100
"""rows read at once, and looked at to guess the column"""


def documents(path: Path, wanted: str, reading: DecodePolicy) -> Iterator[str]:
    """The text of each row. Raises TextError: the extra is missing, damage, no text column, or a bomb."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise TextError("Reading .parquet needs pyarrow.", hint="pip install 'fabella[parquet]'") from error
    try:
        with parquet.ParquetFile(path, buffer_size=BLOCK) as file:
            candidates = _candidates(file, wanted, str(path))
            refuse_bomb(file.metadata, candidates, str(path))
            column = _guessed(file, candidates, str(path)) if wanted == "auto" else wanted
            yield from _texts(file, column, str(path), guessed=wanted == "auto", reading=reading)
    except (arrow.ArrowException, OSError) as error:
        message = str(error).partition("\n")[0].rstrip(".")
        raise TextError(f"{path} cannot be read as parquet: {message}.", hint="Fetch it again.") from error


def _candidates(file: Any, wanted: str, name: str) -> list[str]:
    """The wanted column, or every one that holds text."""
    types = {field.name: field.type for field in file.schema_arrow}
    texts = [column for column, type_ in types.items() if "string" in str(type_) and not type_.num_fields]
    if wanted == "auto":
        if not texts:
            raise TextError(f"{name} has no column with text.", hint=f"There are: {', '.join(types)}.")
        return texts
    if wanted not in types:
        raise TextError(f"{name} has no column {wanted!r}.", hint=did_you_mean(wanted, types))
    if wanted not in texts and "binary" not in str(types[wanted]):
        raise TextError(f"Column {wanted!r} of {name} holds {types[wanted]}, not text.", hint=did_you_mean("", texts))
    return [wanted]


def _guessed(file: Any, candidates: list[str], name: str) -> str:
    first = next(file.iter_batches(batch_size=ROWS, columns=candidates), None)
    rows = first.cast(_as_bytes(first.schema)).to_pylist() if first is not None else []
    return detect_text_column("auto", rows, name) if rows else candidates[0]


def _as_bytes(schema: Any) -> Any:
    import pyarrow as arrow

    return arrow.schema([(name, arrow.large_binary()) for name in schema.names])


def refuse_bomb(metadata: Any, columns: Sequence[str], name: str) -> None:
    """Raises TextError where a part of a column says that it unpacks to more than RATIO times its size."""
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(index)
            if chunk.path_in_schema in columns and chunk.total_uncompressed_size > (
                FREE + RATIO * chunk.total_compressed_size
            ):
                raise TextError(
                    f"{name} unpacks to more than {RATIO} times its size ({chunk.total_uncompressed_size:,} bytes "
                    f"from {chunk.total_compressed_size:,} in row group {group}): a decompression bomb, or hardly text "
                    "to learn from.",
                    hint="If you trust it, write it anew without compression.",
                )


def _texts(file: Any, column: str, name: str, *, guessed: bool, reading: DecodePolicy) -> Iterator[str]:
    guess = reading.notes.guess("text column", column, name) if guessed else None
    row = 0
    for batch in file.iter_batches(batch_size=ROWS, columns=[column]):
        # As bytes: Arrow does not check that its strings are UTF-8, and the policy judges damage, not pyarrow.
        for raw in batch.cast(_as_bytes(batch.schema)).column(0).to_pylist():
            row += 1
            if raw is None:
                reading.notes.empty += 1
                continue
            for text in reading.text(raw, lambda _raw, _at, row=row: f"{name}, row {row}, in {column!r}"):
                if guess:
                    guess.documents += 1
                yield text
