"""Which files a path, a folder or a glob means, in an order that depends on their names alone."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from fabella.errors import TextError, did_you_mean
from fabella.text.compression import PACKINGS

TEXT = {".txt", ".text", ".md"}
JSON_LINES = {".jsonl", ".ndjson", ".json"}
CSV = {".csv", ".tsv"}
PARQUET = {".parquet"}
READ = TEXT | JSON_LINES | CSV | PARQUET
ARCHIVES = {".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".7z", ".rar"}
FORMATS = "Fabella reads .txt, .jsonl, .csv and .parquet, and .gz, .xz and .zst of the first three."


def expand_paths(paths: tuple[str, ...]) -> list[Path]:
    """Every file that ``paths`` mean, each once: paths in their order, what a folder or a glob holds sorted by name.

    Folders are searched to any depth; hidden files, files of other kinds and links to folders in them are left alone.
    Raises TextError for a path where nothing is, with the nearest name, and for archives, pipes and devices.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        try:
            for file in _meant_by(Path(path).expanduser()):
                found.setdefault(file.resolve(), file)
        except (OSError, ValueError, RuntimeError) as error:  # no permission, a name no system takes, ~ of nobody
            raise TextError(f"{path[:200]!r} cannot be looked up: {error}.") from error
    return list(found.values())


def kind(path: Path) -> str:
    """The suffix that says how a file is read: ``.jsonl`` for ``a.jsonl.gz``, empty for ``stories``."""
    inner = path.with_suffix("") if path.suffix.lower() in PACKINGS else path
    return inner.suffix.lower()


def _meant_by(path: Path) -> list[Path]:
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        if {kind(path), path.suffix.lower()} & ARCHIVES:
            raise TextError(f"{path} is an archive.", hint="Unpack it, and give its files or their folder.")
        return [path]
    if path.exists():
        raise TextError(f"{path} is a pipe or a device; text is read more than once.", hint="Save it as a file first.")
    matches = (Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207 (takes absolute ones too)
    files = sorted((match for match in matches if match.is_file() and not _hidden(match.name)), key=_by_name)
    if not files:
        raise TextError(f"There is no file {path}.", hint=_nearest(path))
    return files


def _in_folder(folder: Path) -> list[Path]:
    files = sorted((file for file in _walk(folder) if kind(file) in READ), key=_by_name)
    if not files:
        raise TextError(f"There is no text in the folder {folder}.", hint=FORMATS)
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _hidden(name)]
        for name in names:
            file = Path(parent, name)
            if not _hidden(name) and file.is_file():
                yield file


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _by_name(path: Path) -> tuple[str, ...]:
    return path.parts


def _nearest(path: Path) -> str:
    """The likeliest names beside the one that is missing; for a missing folder, those beside the folder."""
    if glob.has_magic(str(path)):  # pyright: ignore[reportAttributeAccessIssue]
        return "The pattern matches nothing; quote it, and try it with ls."
    parent = path.parent
    if not parent.is_dir():
        return f"The folder {parent} is missing, too."
    names = [entry.name for entry in sorted(parent.iterdir()) if not _hidden(entry.name)]
    near = did_you_mean(path.name, names)
    return near if near.startswith("Did you mean") else FORMATS
