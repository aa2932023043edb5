"""Contract of a reader, and the lookup of the reader of a file by its suffix.

A reader is a module of this package with

    SUFFIXES                        the suffixes it reads, in lower case: ``frozenset({".jsonl"})``
    read(path, options, policy)     the documents of one file

Modules without SUFFIXES are helpers of the readers.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from fabella.text import readers
from fabella.text.compression import CODECS
from fabella.text.decode_policy import DecodePolicy, ReadOptions
from fabella.text.readers import plain


class Reader(Protocol):
    """Module that reads one text format."""

    SUFFIXES: frozenset[str]

    def read(self, path: Path, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
        """Yield the documents of ``path`` in order, none of them empty; counts go to ``policy.notes``.

        Raises TextError for a file that is unreadable, not of this format, or without a text column.
        """
        ...


def all_readers() -> dict[str, Reader]:
    """Return suffix → reader for every reader of the package."""
    by_suffix: dict[str, Reader] = {}
    for module in pkgutil.iter_modules(readers.__path__):
        reader: Reader = importlib.import_module(f"{readers.__name__}.{module.name}")  # pyright: ignore
        by_suffix.update(dict.fromkeys(getattr(reader, "SUFFIXES", ()), reader))
    return by_suffix


def reader_for(path: Path, known: Mapping[str, Reader] | None = None) -> Reader:
    """Return the reader of a file; files of an unknown suffix are plain text. ``known``: ``all_readers()``."""
    return (all_readers() if known is None else known).get(format_suffix(path), plain)


def format_suffix(path: Path) -> str:
    """Return the suffix of the format: ``.jsonl`` for ``a.jsonl.gz``, empty for ``stories``."""
    inner = path.with_suffix("") if path.suffix.lower() in CODECS else path
    return inner.suffix.lower()
