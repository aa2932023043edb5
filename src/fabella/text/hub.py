"""Documents of a data set on the Hugging Face hub, streamed or downloaded (needs ``pip install 'fabella[hub]'``)."""

import sys
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fabella.config.data import HubSource
from fabella.errors import TextError
from fabella.text.decode_policy import DecodePolicy
from fabella.text.readers.text_column import detect_text_column, peek

DOWNLOAD = "Check network and name; or fetch it elsewhere (hf download --repo-type dataset {}) and give its files."


def documents(hub: HubSource, reading: DecodePolicy) -> Iterator[str]:
    """The text of each row, in the data set's order. Raises TextError: no extra, no network, no such thing."""
    with hub_errors(hub) as datasets:
        rows = load(datasets, hub)
        if hub.column != "auto" and hub.column in (rows.column_names or ()):
            rows = rows.select_columns([hub.column])  # pictures and sounds beside the text need not be decoded
        yield from _texts(iter(rows), hub, reading)


@contextmanager
def hub_errors(hub: HubSource) -> Generator[Any]:
    """The library, for as long as the block lasts; what it raises becomes a TextError."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise TextError("Reading from the hub needs datasets.", hint="pip install 'fabella[hub]'") from error
    try:
        yield datasets
    except _failures(datasets) as error:
        raise _explained(error, hub) from error


def load(datasets: Any, hub: HubSource) -> Any:
    """The data set as the library gives it: to be streamed, or downloaded."""
    return datasets.load_dataset(
        hub.name, hub.subset or None, split=hub.split, revision=hub.revision or None, streaming=hub.streaming
    )


def is_transient(error: TextError) -> bool:
    """Whether what went wrong may be gone a little later: the network, not the data set."""
    return isinstance(error.__cause__, (ConnectionError, TimeoutError, *_http_errors()))


def _http_errors() -> tuple[type[Exception], ...]:
    return tuple(sys.modules[name].HTTPError for name in ("httpx", "httpx2") if name in sys.modules)


def _failures(datasets: Any) -> tuple[type[Exception], ...]:
    """What loading and streaming raise: a hub data set runs several libraries, each with errors of its own."""
    others = (datasets.exceptions.DatasetsError, *_http_errors())
    return (OSError, ValueError, KeyError, RuntimeError, EOFError, *others)


def _explained(error: Exception, hub: HubSource) -> TextError:
    reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    if isinstance(error, ConnectionError):
        return TextError(f"The hub cannot be reached for {hub.name}: {reason}.", hint=DOWNLOAD.format(hub.name))
    if isinstance(error, FileNotFoundError):
        return TextError(f"There is no data set {hub.name} to be had: {reason}.", hint=DOWNLOAD.format(hub.name))
    if isinstance(error, ValueError):
        return TextError(f"{describe(hub)}: {reason}.", hint="Name it as hub:OWNER/NAME@SUBSET:SPLIT.")
    return TextError(f"Reading {describe(hub)} failed: {reason}.", hint=DOWNLOAD.format(hub.name))


def describe(hub: HubSource) -> str:
    """One line for people: name, subset, split, revision."""
    subset = f", subset {hub.subset}" if hub.subset else ""
    revision = f", revision {hub.revision}" if hub.revision else ""
    return f"hub data set {hub.name}{subset}, split {hub.split}{revision}"


def _texts(rows: Iterator[Mapping[str, Any]], hub: HubSource, reading: DecodePolicy) -> Iterator[str]:
    first, rows = peek(rows)
    if not first:
        return
    column = detect_text_column(hub.column, first, hub.name)
    guess = reading.notes.guess("text column", column, hub.name) if hub.column == "auto" else None
    for text in texts_of(rows, column, hub, reading):
        if guess:
            guess.documents += 1
        yield text


def texts_of(
    rows: Iterable[Mapping[str, Any]], column: str, hub: HubSource, reading: DecodePolicy, *, first: int = 1
) -> Iterator[str]:
    """The documents of rows, from their ``column``; ``first`` is the number of the first of them, for errors."""
    for number, row in enumerate(rows, start=first):
        place = f"{hub.name}, row {number}"
        value = row.get(column)
        if value is None:
            reading.notes.empty += 1
        elif not isinstance(value, str):
            reading.bad_line(place, f"{column!r} is a {type(value).__name__}, not text.")
        else:
            raw = value.encode("utf-8", "surrogatepass")
            yield from reading.text(raw, lambda _raw, _at, place=place: f"{place}, in {column!r}")
