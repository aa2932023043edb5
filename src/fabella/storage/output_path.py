"""Check where a command will write before it starts its work."""

import os
from pathlib import Path

from fabella.errors import StorageError
from fabella.storage.messages import escaped, escaped_path, storage_errors
from fabella.storage.temp_files import create_temp_file, temp_path

MAX_NAME_BYTES = 255
"""Longest name of a file on the usual file systems, in bytes of UTF-8."""
HINT = "Choose another path for it."


def require_writable(path: Path, what: str = "The output") -> None:
    """Raise StorageError unless a file or directory ``path`` can be written. Nothing is left behind.

    ``what`` begins the message: ``--out``. Names are at most 255 bytes, including the suffix that a temporary file has
    during an atomic write, and printable. The nearest existing directory must take a new file.
    """
    shown = f"{what} {escaped_path(path)}"
    if not str(path).isprintable():
        raise StorageError(f"{shown} contains a character that cannot be printed.", hint=HINT)
    with storage_errors(path, f"creating {escaped(path.name)}"):
        parent = path.absolute()
        if path.is_dir():
            missing: list[str] = []
        else:
            missing = [path.name]
            parent = parent.parent
            while not os.path.lexists(parent):
                missing.append(parent.name)
                parent = parent.parent
    for name in missing:
        size = len(os.fsencode(temp_path(Path(name), "partial").name))
        if size > MAX_NAME_BYTES:
            least = size - len(os.fsencode(name))
            raise StorageError(
                f"{shown}: the name '{escaped(name)}' has {len(os.fsencode(name)):,} bytes; "
                f"at most {MAX_NAME_BYTES - least} are possible.",
                hint="Choose a shorter name.",
            )
    if not parent.is_dir():
        raise StorageError(f"{shown}: {escaped_path(parent)} is not a directory.", hint=HINT)
    with storage_errors(parent, f"creating {escaped(path.name)}"):
        temp, descriptor = create_temp_file(parent / "writable")
        os.close(descriptor)
        temp.unlink()
