"""The user's cache directory."""

import os
from pathlib import Path


def cache_dir(name: str) -> Path:
    """Return the directory of one kind of cached files; it may not exist or not be writable.

    Follows the XDG Base Directory Specification: below ``XDG_CACHE_HOME``, by default ``~/.cache``.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fabella" / name
