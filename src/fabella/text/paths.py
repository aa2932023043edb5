"""Paths, directories and globs expanded to files, in an order that depends on their names alone."""

import glob
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from fabella.errors import TextError, did_you_mean
from fabella.storage import recognize
from fabella.storage.recognize import runs_in
from fabella.text.archives.members import is_archive, member_names
from fabella.text.folders import left_out_message, select_split, select_text
from fabella.text.readers.reader import Reader, all_readers, format_suffix

ARCHIVES = {".7z", ".rar"}
"""Archives that cannot be read."""
HUB_NAME = re.compile(r"[\w-]+/[\w.-]+")
"""OWNER/NAME, as the hub shows it."""
FORMATS = (
    "Fabella reads .txt, .md, .jsonl, .csv and .parquet, .gz, .xz, .bz2 and .zst of these, .zip and .tar archives, "
    ".html, .epub, .docx, subtitles, notebooks and source code."
)


@dataclass(slots=True)
class FoundFiles:
    """Files of a source, and why others were left out."""

    files: list[Path]
    messages: list[str] = field(default_factory=list[str])
    """Sentences about files of a directory that were left out."""
    splits: frozenset[str] = frozenset()
    """Splits that the names of the files mark: train, validation, test."""


def expand_paths(paths: tuple[str, ...], split: str = "train") -> list[Path]:
    """Return every file of ``paths``, each once; see ``find_files``."""
    return find_files(paths, split).files


def find_files(paths: tuple[str, ...], split: str = "train") -> FoundFiles:
    """Return every file of ``paths``, each once: in their order, those of a directory or glob sorted by name.

    Directories are searched recursively; hidden files and unknown formats are skipped, and so are README, licence and
    metadata next to data, and what Fabella has written there (runs, datasets, tokenizers). Where names mark train,
    validation and test files, only those of ``split`` are returned; ``all`` returns every file. Raises TextError for a
    path that does not exist, with the nearest name, for archives, pipes and devices, and for a run, a dataset or a
    tokenizer in place of a text.
    """
    readers = all_readers()
    found = FoundFiles([])
    files: dict[Path, Path] = {}
    for path in paths:
        if not path:  # an unset variable of a shell; it would be the working directory
            raise TextError("The path of a text is empty.", hint="Give a file, or . for the working directory.")
        try:
            for file in _expand(Path(path).expanduser(), readers, found.messages):
                files.setdefault(file.resolve(), file)
        except (OSError, ValueError, RuntimeError) as error:  # no permission, an invalid name, ~ of an unknown user
            raise TextError(f"Cannot look up {path[:200]!r}: {error}.") from error
    root = Path(paths[0]).expanduser() if len(paths) == 1 else Path()
    found.files, message, found.splits = select_split(list(files.values()), split, root)
    if len(found.files) == 1 and is_archive(found.files[0]):
        archive = found.files[0]
        found.splits = select_split(member_names(archive), "all", archive)[2]
    if not found.files:
        raise TextError(f"There are no files of the split {split!r} in {', '.join(paths)}.")
    found.messages += [message] if message else []
    return found


def _expand(path: Path, readers: Mapping[str, Reader], messages: list[str]) -> list[Path]:
    if known := recognize(path):
        raise TextError(f"{path} is {known.kind}, not a text.", hint=known.advice)
    if path.is_dir():
        return _in_directory(path, readers, messages)
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


def _in_directory(directory: Path, readers: Mapping[str, Reader], messages: list[str]) -> list[Path]:
    every = sorted(_walk(directory), key=_by_name)
    files, left_out = select_text(every, readers)
    if not files:
        raise TextError(f"There is no text in the directory {directory}.", hint=_directory_hint(directory, every))
    if left_out:
        messages.append(left_out_message(directory, files, left_out))
    return files


def _directory_hint(directory: Path, files: list[Path]) -> str:
    archives = [file for file in files if {format_suffix(file), file.suffix.lower()} & ARCHIVES]
    if archives:
        return f"Unpack {archives[0]} first."
    if runs := runs_in(directory):
        return f"It contains runs: {', '.join(quote(str(run)) for run in runs[:5])}."
    return FORMATS if files else f"{directory} has no files."


def _walk(directory: Path) -> Iterator[Path]:
    """Yield the files below a directory; links to directories are followed, each directory once."""
    seen: set[str] = set()
    for parent, directories, names in os.walk(directory, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            directories.clear()
            continue
        seen.add(real)
        directories[:] = sorted(name for name in directories if not _hidden(name) and not recognize(Path(parent, name)))
        for name in names:
            file = Path(parent, name)
            if not _hidden(name) and file.is_file():
                yield file


def _hidden(name: str) -> bool:
    return name.startswith((".", "~$")) or name == "__MACOSX"  # ~$: Word's lock of an open document


def _by_name(path: Path) -> tuple[str, ...]:
    return path.parts


def _nearest(path: Path) -> str:
    """Return a hint with the nearest name in the directory of a missing file."""
    if glob.has_magic(str(path)):  # pyright: ignore[reportAttributeAccessIssue]
        return "The pattern matches no file; quote it, and try it with ls."
    parent = path.parent
    if not parent.is_dir():
        hint = f"The directory {parent} does not exist, either."
        name = str(path)
        return f"{hint} For a dataset of the Hugging Face hub: hub:{name}" if HUB_NAME.fullmatch(name) else hint
    names = [entry.name for entry in sorted(parent.iterdir()) if not _hidden(entry.name)]
    nearest = did_you_mean(path.name, names)
    return nearest if nearest.startswith("Did you mean") else FORMATS
