"""Compile cache of PyTorch: compiled kernels are stored between runs, and incomplete ones are never loaded.

PyTorch's compiler writes its libraries in place: a killed process leaves an incomplete library, on which every later
run would fail. So each process that compiles creates a marker file in the directory, locks it, and removes it after its
first step. An unlocked marker belongs to a process that was killed before that.
"""

import os
import tempfile
from itertools import count
from pathlib import Path

from fabella.storage import cache_dir, make_dirs, remove_dir
from fabella.storage.lock import lock_dir
from fabella.storage.temp_files import HAS_FLOCK, flock

PLACE = "TORCHINDUCTOR_CACHE_DIR"
PYTORCHS_OWN = "torchinductor_"
"""Prefix of PyTorch's own choice, a temporary directory that it writes into the environment."""
MARK = "compiling-"


class CompileCache:
    """The compile cache of one process, with its marker; without one, the user or PyTorch chose the directory."""

    def __init__(self, mark: Path | None = None, descriptor: int = -1) -> None:
        self._mark, self._descriptor = mark, descriptor

    def mark_complete(self) -> None:
        """Remove the marker after a step: all kernels are complete. Further calls do nothing."""
        if self._mark:
            self._mark.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._mark = None


def use_compile_cache() -> CompileCache:
    """Store compiled kernels in the user's cache directory, if it is writable.

    Does nothing if the user has chosen a directory (TORCHINDUCTOR_CACHE_DIR).
    """
    own = cache_dir("kernels")
    chosen = Path(os.environ.get(PLACE, PYTORCHS_OWN))
    if len(str(own).split()) > 1:  # PyTorch 2.13 does not quote paths for the compiler
        return CompileCache()
    if not HAS_FLOCK:  # the marker of a killed process would look like that of a running one
        return CompileCache()
    if chosen.parent != own and not chosen.name.startswith(PYTORCHS_OWN):
        return CompileCache()
    try:
        make_dirs(own)
    except OSError:  # no writable home: PyTorch uses a temporary directory
        return CompileCache()
    with lock_dir(own, what="compile cache", blocking=True):
        folder = next(folder for number in count() if _is_sound(folder := own / str(number)))
        make_dirs(folder)
        descriptor, mark = tempfile.mkstemp(prefix=MARK, dir=folder)
        flock(descriptor)  # new and ours, so nothing waits for it
    os.environ[PLACE] = str(folder)
    return CompileCache(Path(mark), descriptor)


def _is_sound(folder: Path) -> bool:
    """Return whether all kernels in ``folder`` are complete; remove one that only a killed process has used."""
    states = [_is_held(mark) for mark in list(folder.glob(f"{MARK}*"))]
    held, abandoned = states.count(True), states.count(False)
    if abandoned and not held:
        remove_dir(folder)
    return not (abandoned and held)


def _is_held(mark: Path) -> bool | None:
    """Return whether a process holds ``mark``; None if that cannot be known, or if it has been removed meanwhile."""
    try:
        descriptor = os.open(mark, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        acquired = flock(descriptor)
        return None if acquired is None else not acquired
    finally:
        os.close(descriptor)
