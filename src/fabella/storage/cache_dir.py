"""Where things lie that are made once on a machine, and can be made again."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """The folder for one kind of them in the user's cache; it may not be there yet, or not be writable.

    By the XDG Base Directory Specification: below ``XDG_CACHE_HOME``, usually ``~/.cache``.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fabella" / name
