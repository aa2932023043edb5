"""Files of a source and their documents, each file read by the reader of its suffix.

The document separator of plain text is given by the user or detected once for all files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fabella.config.data import FilesSource
from fabella.errors import TextError
from fabella.text.compression import read_blocks
from fabella.text.decode import to_utf8_blocks
from fabella.text.decode_policy import DecodePolicy
from fabella.text.document_separator import detect_separator
from fabella.text.paths import expand_paths
from fabella.text.read_report import ReadReport
from fabella.text.readers import plain
from fabella.text.readers.read_options import ReadOptions
from fabella.text.readers.reader import Reader, all_readers, reader_for

SAMPLE_BYTES = 2**20
"""Bytes inspected to detect the separator, over all files."""
SAMPLE_FILES = 16
"""Files inspected to detect the separator, at most."""


@dataclass(frozen=True, slots=True)
class FileSet:
    """Files of a source in order, with the options to read them."""

    paths: Sequence[Path]
    options: ReadOptions
    readers: Mapping[str, Reader]

    def documents(self, path: Path, policy: DecodePolicy) -> Iterator[str]:
        """Yield the documents of one of the files. Raises TextError, as its reader does."""
        if _size(path) == 0:
            policy.notes.remarks[f"size of {path}"] = f"{path} is empty"
        else:
            yield from reader_for(path, self.readers).read(path, self.options, policy)


def open_file_set(files: FilesSource) -> FileSet:
    """Return the files of a source. Raises TextError if there are none."""
    readers = all_readers()
    paths = expand_paths(files.paths)
    texts = [path for path in paths if reader_for(path, readers) is plain]
    options = ReadOptions(
        separator=_separator(files, texts), separator_detected=files.separator == "auto", column=files.column
    )
    return FileSet(paths, options, readers)


def documents(files: FilesSource, policy: DecodePolicy) -> Iterator[str]:
    """Yield the documents of every file in order. Raises TextError, also if a format needs an extra."""
    file_set = open_file_set(files)
    for path in file_set.paths:
        yield from file_set.documents(path, policy)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise TextError(f"Cannot read {path}: {error.strerror or error}.") from error


def _separator(files: FilesSource, texts: list[Path]) -> str:
    if files.separator != "auto":
        if not files.separator:
            hint = "Use auto, file, blank-lines, lines, or the separator itself."
            raise TextError("The separator is empty.", hint=hint)
        return files.separator.replace("\r\n", "\n")
    inspected = texts[:SAMPLE_FILES]
    samples = [_sample(path, SAMPLE_BYTES // len(inspected)) for path in inspected]
    return detect_separator(samples, files=len(texts))


def _sample(path: Path, size: int) -> str:
    head = b""
    for block in to_utf8_blocks(read_blocks(path), str(path), ReadReport()):
        head += block
        if len(head) >= size:
            break
    return head[:size].decode("utf-8", "ignore")
