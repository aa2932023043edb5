"""Build of decode.cpp on the user's machine, with its own compiler and for its own processor, once.

The library is in the user's cache, in a file named after a hash of the sources, the compiler and the processor. It is
written to a temporary file and renamed, so that no process loads half a library; a damaged one is compiled again.
A generation that has begun never switches to the library: the same seed must give the same text at any time.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fabella.engine.processor import processor_features
from fabella.errors import StorageError
from fabella.storage import atomic_write, cache_dir, make_dirs
from fabella.tracking.console import print_status

SOURCE = Path(__file__).with_name("decode.cpp")
SOURCES = (SOURCE, SOURCE.with_name("sample.h"), SOURCE.with_name("matmul.h"))
# Without contraction a sum has the same bits in every loop; matmul.h fuses explicitly where it pays.
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-ffp-contract=off", "-fno-exceptions"),
    *("-fopenmp", "-fPIC", "-shared"),
)
# OpenMP comes from PyTorch, which is in the same process: a second copy would start threads of its own.
LIBRARIES = ("-nodefaultlibs", "-lm", "-lc")
COMPILER_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class NativeLibrary:
    """Loaded library, or None with the reason in ``warning``."""

    library: ctypes.CDLL | None
    warning: str = ""
    """One sentence for the user; empty if there is nothing to report."""


@cache
def library() -> NativeLibrary:
    """Return the library of this process, built at the first call."""
    return build_library()


def build_library() -> NativeLibrary:
    """Load the library from the cache, or compile it first, which takes a few seconds once per machine."""
    if not sys.platform.startswith("linux"):
        return _unavailable(f"it is not built on {platform.system()}")
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX") or "g++", "g++", "clang++"))), None)
    if compiler is None:
        return _unavailable("this machine has no C++ compiler (install g++)")
    path = cache_dir("native") / f"native-{_cache_key(compiler)}.so"
    loaded = _load(path)
    if loaded:
        return NativeLibrary(loaded)
    print_status("Compiling the native decoder (once per machine, a few seconds) …")
    return _compile(compiler, path)


def _unavailable(reason: str) -> NativeLibrary:
    return NativeLibrary(None, f"Generation is slower without the native decoder: {reason}.")


def _cache_key(compiler: str) -> str:
    """Return a hash of everything that the library depends on."""
    binary = Path(compiler).resolve()
    status = binary.stat()
    parts = [
        *(source.read_text(encoding="utf-8") for source in SOURCES),
        *FLAGS,
        *LIBRARIES,
        str(binary),
        str(status.st_size),
        str(status.st_mtime_ns),
    ]
    return hashlib.sha256("\0".join([*parts, processor_features()]).encode()).hexdigest()[:20]


def _load(path: Path) -> ctypes.CDLL | None:
    """Load the library at ``path``; None if it is missing or damaged."""
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def _compile(compiler: str, path: Path) -> NativeLibrary:
    """Compile the library and save it at ``path``. If it cannot be saved, return it with a warning."""
    with tempfile.TemporaryDirectory(prefix="fabella-") as temp_dir:
        output = Path(temp_dir) / "native.so"
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(output), *LIBRARIES]
        try:
            process = subprocess.run(command, capture_output=True, timeout=COMPILER_TIMEOUT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return _unavailable(f"{compiler} did not finish ({error})")
        if process.returncode:
            errors = process.stderr.decode(errors="replace").strip().splitlines() or ["no error message"]
            return _unavailable(f"{compiler} exited with code {process.returncode}: {errors[0]}")
        loaded = _load(output)
        if loaded is None:
            return _unavailable(f"the library built by {compiler} cannot be loaded")
        try:
            make_dirs(path.parent)
            atomic_write(path, output.read_bytes())
        except (OSError, StorageError) as error:
            return NativeLibrary(loaded, f"Cannot save the native decoder; it is compiled at every start: {error}")
    return NativeLibrary(_load(path) or loaded)
