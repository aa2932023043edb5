"""Reader of EPUB: a book is one document of its chapters (needs ``pip install 'fabella[documents]'``)."""

import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from fabella.errors import TextError
from fabella.text.boundaries.boilerplate import without_gutenberg
from fabella.text.compression import FREE, RATIO
from fabella.text.decode_policy import DecodePolicy, ReadOptions
from fabella.text.readers.html import page_text

SUFFIXES = frozenset({".epub"})
NEEDS_FILE = True
"""Reads a file at any position, so that it cannot be in an archive."""

CONTAINER = "META-INF/container.xml"
HELP = "Open it in an e-book reader, or convert it to text."


def read(path: Path, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the book. Raises TextError for a missing extra, damage, or a protected book."""
    name = str(path)
    try:
        with zipfile.ZipFile(path) as book:
            require_small(book, path)
            if "META-INF/encryption.xml" in book.namelist() and "META-INF/rights.xml" in book.namelist():
                raise TextError(f"{name} is protected (DRM).", hint="Give a copy without protection.")
            chapters = [page_text(book.read(item).decode("utf-8", "replace"), name) for item in _spine(book)]
    except (zipfile.BadZipFile, zlib.error, KeyError, ElementTree.ParseError, OSError, RuntimeError) as error:
        raise TextError(f"{name} cannot be read as EPUB: {error}.", hint=HELP) from error
    text = "\n\n".join(chapter for chapter in chapters if chapter).encode("utf-8", "surrogatepass")
    if not options.keep_boilerplate:
        text = b"".join(without_gutenberg(iter([text]), name, policy.notes)).strip(b"\n")
    yield from policy.text(text, lambda _raw, at: f"{name}, byte {at} of its text")


def _spine(book: zipfile.ZipFile) -> Iterator[str]:
    """Yield the names of the chapters in reading order."""
    container = ElementTree.fromstring(book.read(CONTAINER))  # noqa: S314 (expat limits the expansion of entities)
    packages = [item.attrib["full-path"] for item in container.iter() if item.tag.endswith("}rootfile")]
    if not packages:
        raise KeyError(f"{CONTAINER} names no rootfile")
    package = packages[0]
    root = ElementTree.fromstring(book.read(package))  # noqa: S314
    items = {item.attrib["id"]: item.attrib for item in root.iter() if item.tag.endswith("}item")}
    for reference in (item for item in root.iter() if item.tag.endswith("}itemref")):
        item = items[reference.attrib["idref"]]
        is_contents = "nav" in item.get("properties", "").split()
        if "html" in item.get("media-type", "") and not is_contents and reference.get("linear") != "no":
            yield posixpath.normpath(posixpath.join(posixpath.dirname(package), unquote(item["href"])))


def require_small(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise TextError for an archive that unpacks to far more than its size."""
    unpacked = sum(item.file_size for item in archive.infolist())
    size = path.stat().st_size
    if unpacked > FREE + RATIO * size:
        raise TextError(
            f"{path} unpacks to more than {RATIO} times its size ({unpacked:,} bytes from {size:,}): a decompression "
            "bomb.",
            hint="If you trust it, convert it to text.",
        )
