"""Documents of files: packed or not, each read as its name says; ``.txt`` is cut at a separator, given or guessed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fabella.config.data import FilesSource
from fabella.errors import TextError
from fabella.text import paths as finding
from fabella.text.compression import PACKINGS, read_blocks
from fabella.text.decode import to_utf8_blocks
from fabella.text.decode_policy import DecodePolicy
from fabella.text.document_separator import detect_separator, split_documents
from fabella.text.read_report import ReadReport
from fabella.text.readers import jsonl_csv, parquet

NEWLINE = b"\n"
SAMPLE = 2**20
"""bytes looked at, over all files, to guess the separator"""
SAMPLE_FILES = 16
"""files looked at"""


@dataclass(frozen=True, slots=True)
class FileSet:
    """The files of a source, in order, and what separates the documents of its text files."""

    files: FilesSource
    paths: Sequence[Path]
    separator: str

    def documents(self, path: Path, reading: DecodePolicy) -> Iterator[str]:
        """The documents of one of its files."""
        if _size(path) == 0:
            reading.notes.remarks[f"size of {path}"] = f"{path} is empty"
        elif _is_text(path):
            yield from _text(path, self.separator, reading, guessed=self.files.separator == "auto")
        else:
            yield from _table(path, self.files.column, reading)


def open_file_set(files: FilesSource) -> FileSet:
    """The files that a source means. Raises TextError where there are none."""
    paths = finding.expand_paths(files.paths)
    return FileSet(files, paths, _separator(files, [path for path in paths if _is_text(path)]))


def documents(files: FilesSource, reading: DecodePolicy) -> Iterator[str]:
    """The documents of every file, in order. Raises TextError, and for a packed file of an extra that is missing."""
    found = open_file_set(files)
    for path in found.paths:
        yield from found.documents(path, reading)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise TextError(f"{path} cannot be read: {error.strerror or error}.") from error


def _is_text(path: Path) -> bool:
    return finding.kind(path) not in finding.JSON_LINES | finding.CSV | finding.PARQUET


def _separator(files: FilesSource, texts: list[Path]) -> str:
    if files.separator != "auto":
        if not files.separator:
            fix = "Give auto, file, blank-lines, lines, or the separator itself."
            raise TextError("The separator is empty.", hint=fix)
        return files.separator.replace("\r\n", "\n")
    looked_at = texts[:SAMPLE_FILES]
    samples = [_sample(path, SAMPLE // len(looked_at)) for path in looked_at]
    return detect_separator(samples, files=len(texts))


def _sample(path: Path, size: int) -> str:
    head = b""
    for block in to_utf8_blocks(read_blocks(path), str(path), ReadReport()):
        head += block
        if len(head) >= size:
            break
    return head[:size].decode("utf-8", "ignore")


def _text(path: Path, separator: str, reading: DecodePolicy, *, guessed: bool) -> Iterator[str]:
    notes, name = reading.notes, str(path)
    counted = notes.guess("separator", separator, name) if guessed else None
    for line, raw in split_documents(to_utf8_blocks(read_blocks(path), name, notes), separator, notes):
        for text in reading.text(raw, partial(_place, name, line)):
            if counted:
                counted.documents += 1
            yield text


def _place(name: str, line: int, raw: bytes, at: int) -> str:
    return f"{name}, line {line + raw.count(NEWLINE, 0, at)}, byte {at - raw.rfind(NEWLINE, 0, at)}"


def _table(path: Path, column: str, reading: DecodePolicy) -> Iterator[str]:
    kind, name = finding.kind(path), str(path)
    if kind in finding.PARQUET:
        if path.suffix.lower() in PACKINGS:
            raise TextError(
                f"{name} is packed twice: parquet is packed inside.", hint="Unpack it, and give the .parquet."
            )
        return parquet.documents(path, column, reading)
    read = jsonl_csv.json_rows if kind in finding.JSON_LINES else jsonl_csv.csv_rows
    found = read(to_utf8_blocks(read_blocks(path), name, reading.notes), name, reading)
    return jsonl_csv.documents(found, name, column, reading)
