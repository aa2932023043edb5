"""Where compiled kernels are kept between runs, and how what a killed process left half-written is never loaded.

PyTorch's compiler writes its libraries in place: one that is killed leaves half a library, and every later run would
fail on it. So each process that compiles leaves a mark in the folder, which it holds locked and takes away once its
first step is done. A mark that nobody holds is that of a process that ended too early.
"""

import os
import tempfile
from itertools import count
from pathlib import Path

from fabella.storage import cache_dir, lock_dir, make_dirs, remove_dir
from fabella.storage.temp_files import HAS_FLOCK, flock

PLACE = "TORCHINDUCTOR_CACHE_DIR"
PYTORCHS_OWN = "torchinductor_"
"""How the folder begins that PyTorch chooses by itself, among temporary files, and writes into the environment."""
MARK = "compiling-"


class CompileCache:
    """The kernels of one process: in a folder with its mark, or wherever the user or PyTorch has chosen."""

    def __init__(self, mark: Path | None = None, descriptor: int = -1) -> None:
        self._mark, self._descriptor = mark, descriptor

    def mark_complete(self) -> None:
        """Say so after a step: all of its kernels are whole. Again and again does no harm."""
        if self._mark:
            self._mark.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._mark = None


def use_compile_cache() -> CompileCache:
    """Keep compiled kernels in the user's cache, beyond a restart of the machine; where it can be written to.

    A choice of the user's (TORCHINDUCTOR_CACHE_DIR) stands, and is then the user's to keep sound.
    """
    own = cache_dir("kernels")
    chosen = Path(os.environ.get(PLACE, PYTORCHS_OWN))
    if len(str(own).split()) > 1:  # PyTorch 2.13 hands the compiler its paths unquoted
        return CompileCache()
    if not HAS_FLOCK:  # a killed process's mark could not be told from a running one's
        return CompileCache()
    if chosen.parent != own and not chosen.name.startswith(PYTORCHS_OWN):
        return CompileCache()
    try:
        make_dirs(own)
    except OSError:  # no home that can be written to: PyTorch keeps them among temporary files
        return CompileCache()
    with lock_dir(own, what="the kernel cache", blocking=True):
        folder = next(folder for number in count() if _is_sound(folder := own / str(number)))
        make_dirs(folder)
        descriptor, mark = tempfile.mkstemp(prefix=MARK, dir=folder)
        flock(descriptor)  # new and ours, so nothing waits for it
    os.environ[PLACE] = str(folder)
    return CompileCache(Path(mark), descriptor)


def _is_sound(folder: Path) -> bool:
    """Whether all kernels in ``folder`` are whole; one with a dead process's mark is emptied if nobody uses it."""
    looks = [_is_held(mark) for mark in list(folder.glob(f"{MARK}*"))]
    held, abandoned = looks.count(True), looks.count(False)
    if abandoned and not held:
        remove_dir(folder)
    return not (abandoned and held)


def _is_held(mark: Path) -> bool | None:
    """Whether a process holds ``mark``; None where that process has just taken it away."""
    try:
        descriptor = os.open(mark, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        return flock(descriptor) is False
    finally:
        os.close(descriptor)
