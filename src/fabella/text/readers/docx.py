"""Reader of Word documents: paragraphs and tables are one document (needs ``pip install 'fabella[documents]'``)."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fabella.errors import TextError
from fabella.text.decode_policy import DecodePolicy, ReadOptions
from fabella.text.readers.epub import require_small

SUFFIXES = frozenset({".docx"})
NEEDS_FILE = True
"""Reads a file at any position, so that it cannot be in an archive."""


def read(path: Path, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the document. Raises TextError for a missing extra or damage."""
    name = str(path)
    try:
        import docx  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise TextError(f"Reading {name} needs python-docx.", hint="pip install 'fabella[documents]'") from error
    try:
        with zipfile.ZipFile(path) as archive:
            require_small(archive, path)
        package: Any = docx
        text = "\n".join(_lines(package.Document(str(path)))).strip()
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, OSError) as error:
        raise TextError(
            f"{name} cannot be read as a Word document: {error}.", hint="Save it again as .docx."
        ) from error
    return policy.decoded_text(text, lambda _raw, at: f"{name}, byte {at} of its text")


def _lines(document: Any) -> Iterator[str]:
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            for row in block.rows:
                yield "\t".join(dict.fromkeys(cell.text.replace("\n", " ") for cell in row.cells))
        else:
            yield block.text
