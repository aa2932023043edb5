"""Paths, directories and globs expanded to files, in an order that depends on their names alone."""

import glob
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from fabella.errors import TextError, did_you_mean
from fabella.text.readers.reader import Reader, all_readers, format_suffix

ARCHIVES = {".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".7z", ".rar"}
FORMATS = "Fabella reads .txt, .jsonl, .csv and .parquet, and .gz, .xz and .zst of the first three."


def expand_paths(paths: tuple[str, ...]) -> list[Path]:
    """Return every file of ``paths``, each once: in their order, those of a directory or glob sorted by name.

    Directories are searched recursively; hidden files, unknown formats and links to directories are skipped. Raises
    TextError for a path that does not exist, with the nearest name, and for archives, pipes and devices.
    """
    readers = all_readers()
    files: dict[Path, Path] = {}
    for path in paths:
        try:
            for file in _expand(Path(path).expanduser(), readers):
                files.setdefault(file.resolve(), file)
        except (OSError, ValueError, RuntimeError) as error:  # no permission, an invalid name, ~ of an unknown user
            raise TextError(f"Cannot look up {path[:200]!r}: {error}.") from error
    return list(files.values())


def _expand(path: Path, readers: Mapping[str, Reader]) -> list[Path]:
    if path.is_dir():
        return _in_directory(path, readers)
    if path.is_file():
        if {format_suffix(path), path.suffix.lower()} & ARCHIVES:
            raise TextError(f"{path} is an archive.", hint="Unpack it, then give its files or their directory.")
        return [path]
    if path.exists():
        raise TextError(
            f"{path} is a pipe or a device, but text is read more than once.", hint="Save it to a file first."
        )
    matches = (Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207 (takes absolute ones too)
    files = sorted((match for match in matches if match.is_file() and not _hidden(match.name)), key=_by_name)
    if not files:
        raise TextError(f"There is no file {path}.", hint=_nearest(path))
    return files


def _in_directory(directory: Path, readers: Mapping[str, Reader]) -> list[Path]:
    files = sorted((file for file in _walk(directory) if format_suffix(file) in readers), key=_by_name)
    if not files:
        raise TextError(f"There is no text in the directory {directory}.", hint=FORMATS)
    return files


def _walk(directory: Path) -> Iterator[Path]:
    for parent, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if not _hidden(name)]
        for name in names:
            file = Path(parent, name)
            if not _hidden(name) and file.is_file():
                yield file


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _by_name(path: Path) -> tuple[str, ...]:
    return path.parts


def _nearest(path: Path) -> str:
    """Return a hint with the nearest name in the directory of a missing file."""
    if glob.has_magic(str(path)):  # pyright: ignore[reportAttributeAccessIssue]
        return "The pattern matches no file; quote it, and try it with ls."
    parent = path.parent
    if not parent.is_dir():
        return f"The directory {parent} does not exist, either."
    names = [entry.name for entry in sorted(parent.iterdir()) if not _hidden(entry.name)]
    nearest = did_you_mean(path.name, names)
    return nearest if nearest.startswith("Did you mean") else FORMATS
