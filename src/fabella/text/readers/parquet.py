"""Reader of Parquet and Arrow, a batch of rows at a time (needs ``pip install 'fabella[parquet]'``)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from fabella.errors import TextError, did_you_mean
from fabella.text.compression import BLOCK, CODECS, FREE, RATIO
from fabella.text.decode_policy import DecodePolicy, ReadOptions
from fabella.text.tables.rows import Row, report_column, row_documents
from fabella.text.tables.text_column import NoTextError, find_text
from fabella.text.tables.threads import find_thread

SUFFIXES = frozenset({".parquet", ".arrow"})
NEEDS_FILE = True
"""Reads a file at any position, so that it cannot be in an archive."""

ROWS = 100
"""Rows read at once, and inspected to detect the text column."""


def read(path: Path, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the text of each row. Raises TextError: missing extra, damage, no text column, decompression bomb."""
    if path.suffix.lower() in CODECS:
        raise TextError(f"{path} is compressed twice: Parquet compresses its columns.", hint="Unpack it first.")
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise TextError(f"Reading {path.suffix} needs pyarrow.", hint="pip install 'fabella[parquet]'") from error
    try:
        if path.suffix.lower() == ".parquet":
            with parquet.ParquetFile(path, buffer_size=BLOCK) as file:
                yield from _texts(_ParquetTable(file, str(path)), options, policy)
        else:
            with arrow.memory_map(str(path)) as source:
                yield from _texts(_ArrowTable(source, str(path)), options, policy)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        message = str(error).partition("\n")[0].rstrip(".")
        what = path.suffix.lower().removeprefix(".")
        raise TextError(f"{path} cannot be read as {what}: {message}.", hint="Download it again.") from error


class _Table(Protocol):
    name: str
    schema: Any

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield the rows in batches, only these columns."""
        ...


class _ParquetTable:
    def __init__(self, file: Any, name: str) -> None:
        self._file, self.name, self.schema = file, name, file.schema_arrow

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        leaves = self._file.metadata.schema
        paths = [leaves.column(index).path for index in range(len(leaves))]
        refuse_bomb(self._file.metadata, [path for path in paths if path.partition(".")[0] in columns], self.name)
        yield from self._file.iter_batches(batch_size=ROWS, columns=list(columns))


class _ArrowTable:
    """Arrow's stream format, as the datasets library saves it, or its file format."""

    def __init__(self, source: Any, name: str) -> None:
        import pyarrow as arrow

        self._source, self.name = source, name
        try:
            self._open = arrow.ipc.open_stream
            self.schema = self._open(source).schema
        except arrow.ArrowInvalid:
            source.seek(0)
            self._open = arrow.ipc.open_file
            self.schema = self._open(source).schema

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        self._source.seek(0)
        reader = self._open(self._source)
        count = getattr(reader, "num_record_batches", None)
        every = reader if count is None else (reader.get_batch(number) for number in range(count))
        for batch in every:
            for start in range(0, batch.num_rows, ROWS):
                yield batch.slice(start, ROWS).select(list(columns))


def _rows(batch: Any) -> list[dict[str, Any]]:
    """Return the rows of a batch, strings as bytes: Arrow does not check that they are UTF-8."""
    return batch.cast(_as_bytes(batch.schema)).to_pylist()


def _as_bytes(schema: Any) -> Any:
    import pyarrow as arrow

    return arrow.schema(
        [(field.name, arrow.large_binary() if _is_string(field.type) else field.type) for field in schema]
    )


def _is_string(type_: Any) -> bool:
    """Return True for strings, dictionaries of them, and binary columns."""
    name = str(type_)
    return not type_.num_fields and ("string" in name or "binary" in name)


def _is_readable(type_: Any) -> bool:
    return _is_string(type_) or "string" in str(type_)


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


def _texts(table: _Table, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    names, wanted = list(table.schema.names), options.column
    readable = [field.name for field in table.schema if _is_readable(field.type)]
    if wanted == "auto" and not readable:
        raise TextError(f"{table.name} has no text column.", hint=f"Its columns: {', '.join(names)}.")
    if wanted in names and wanted not in readable:
        kind = table.schema.field(wanted).type
        raise TextError(
            f"Column {wanted!r} of {table.name} contains {kind}, not text.", hint=did_you_mean("", readable)
        )
    numbered = [field.name for field in table.schema if str(field.type).lstrip("u").startswith("int")]
    inspected = [*readable, *numbered] if wanted == "auto" else names
    first = next((rows for batch in table.batches(inspected) if (rows := _rows(batch))), [])
    if wanted == "auto" and find_thread(first):
        every = (values for batch in table.batches(inspected) for values in _rows(batch))
        rows = (Row(values, number, escaped=True) for number, values in enumerate(every, 1))
        yield from row_documents(rows, table.name, options, policy)
    elif first:
        yield from _texts_of_rows(table, first, options, policy)


def _texts_of_rows(
    table: _Table, first: Sequence[dict[str, Any]], options: ReadOptions, policy: DecodePolicy
) -> Iterator[str]:
    wanted = options.column
    column = find_text(wanted, first, table.name, policy.writer)
    detection = report_column(column, table.name, policy, detected=wanted == "auto")
    where = ", ".join(map(repr, column.columns))
    row = 0
    for batch in table.batches(column.columns):
        for values in _rows(batch):
            row += 1
            location = f"{table.name}, row {row}"
            try:
                cell = column.text(values)
            except NoTextError as error:
                policy.bad_line(location, str(error))
                continue
            if cell is None:
                policy.notes.empty += 1
                continue
            raw = cell if isinstance(cell, bytes) else cell.encode("utf-8", "surrogateescape")
            for text in policy.text(raw, lambda _raw, _at, location=location: f"{location}, in {where}", written=True):
                if detection:
                    detection.documents += 1
                yield text
