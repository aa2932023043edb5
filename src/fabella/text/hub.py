"""Documents of a dataset on the Hugging Face hub, streamed or downloaded (needs ``pip install 'fabella[hub]'``)."""

import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fabella.config.data import HubSource
from fabella.errors import TextError
from fabella.text.decode_policy import DecodePolicy
from fabella.text.tables.rows import report_column
from fabella.text.tables.text_column import NoTextError, TextColumn, find_text, peek
from fabella.text.tables.threads import find_thread

DOWNLOAD = "Check network and name, or download it (hf download --repo-type dataset {}) and give its files."


def documents(hub: HubSource, policy: DecodePolicy) -> Iterator[str]:
    """Yield the text of each row in order. Raises TextError: missing extra, no network, unknown dataset."""
    with hub_errors(hub) as datasets:
        rows = load(datasets, hub)
        if hub.column != "auto" and hub.column in (rows.column_names or ()):
            rows = rows.select_columns([hub.column])  # do not decode images and audio in other columns
        yield from _texts(iter(rows), hub, policy)


@contextmanager
def hub_errors(hub: HubSource) -> Generator[Any]:
    """Yield the ``datasets`` library; turn its errors inside the block into TextError."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise TextError("Reading from the hub needs datasets.", hint="pip install 'fabella[hub]'") from error
    try:
        yield datasets
    except _failures(datasets) as error:
        raise _explained(error, hub) from error


def load(datasets: Any, hub: HubSource) -> Any:
    """Return the dataset of the library, streamed or downloaded."""
    return datasets.load_dataset(
        hub.name, hub.subset or None, split=hub.split, revision=hub.revision or None, streaming=hub.streaming
    )


def is_transient(error: TextError) -> bool:
    """Return whether a retry may help: the network failed, not the dataset."""
    return isinstance(error.__cause__, (ConnectionError, TimeoutError, *_http_errors()))


def _http_errors() -> tuple[type[Exception], ...]:
    return tuple(sys.modules[name].HTTPError for name in ("httpx", "httpx2") if name in sys.modules)


def _failures(datasets: Any) -> tuple[type[Exception], ...]:
    """Return the errors of loading and streaming: a hub dataset runs several libraries with errors of their own."""
    others = (datasets.exceptions.DatasetsError, *_http_errors())
    return (OSError, ValueError, KeyError, RuntimeError, EOFError, *others)


def _explained(error: Exception, hub: HubSource) -> TextError:
    reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    if isinstance(error, ConnectionError):
        return TextError(f"Cannot reach the hub for {hub.name}: {reason}.", hint=DOWNLOAD.format(hub.name))
    if isinstance(error, FileNotFoundError):
        return TextError(f"Cannot find dataset {hub.name} on the hub: {reason}.", hint=DOWNLOAD.format(hub.name))
    if isinstance(error, ValueError):
        return TextError(f"{describe(hub)}: {reason}.", hint="Write it as hub:OWNER/NAME@SUBSET:SPLIT.")
    return TextError(f"Cannot read {describe(hub)}: {reason}.", hint=DOWNLOAD.format(hub.name))


def describe(hub: HubSource) -> str:
    """Return one line with name, subset, split and revision."""
    subset = f", subset {hub.subset}" if hub.subset else ""
    revision = f", revision {hub.revision}" if hub.revision else ""
    return f"hub dataset {hub.name}{subset}, split {hub.split}{revision}"


def _texts(rows: Iterator[Mapping[str, Any]], hub: HubSource, policy: DecodePolicy) -> Iterator[str]:
    first, rows = peek(rows)
    if not first:
        return
    column = column_of(hub, first, policy)
    detection = report_column(column, hub.name, policy, detected=hub.column == "auto")
    for text in texts_of(rows, column, hub, policy):
        if detection:
            detection.documents += 1
        yield text


def column_of(hub: HubSource, first: Sequence[Mapping[str, Any]], policy: DecodePolicy) -> TextColumn:
    """Return where the text of a dataset is, by its first rows; note rows that belong to one conversation."""
    if hub.column == "auto" and (thread := find_thread(first)):
        policy.notes.remarks[f"conversations of {hub.name}"] = thread.advice(hub.name)
    return find_text(hub.column, first, hub.name, policy.writer)


def texts_of(
    rows: Iterable[Mapping[str, Any]], column: TextColumn, hub: HubSource, policy: DecodePolicy, *, first: int = 1
) -> Iterator[str]:
    """Yield the documents in ``column`` of ``rows``; ``first`` is the number of the first row, for errors."""
    where = ", ".join(map(repr, column.columns))
    for number, row in enumerate(rows, start=first):
        location = f"{hub.name}, row {number}"
        try:
            value = column.text({name: row.get(name) for name in column.columns})
        except NoTextError as error:
            policy.bad_line(location, str(error))
            continue
        if value is None:
            policy.notes.empty += 1
            continue
        raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        yield from policy.text(raw, lambda _raw, _at, location=location: f"{location}, in {where}", written=True)
