"""Build of a C++ library on the user's machine, with its own compiler and for its own processor, once.

The library is in the user's cache, in a file named after a hash of the sources, the compiler and the processor. It is
written to a temporary file and renamed, so that no process loads half a library; a damaged one is compiled again.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fabella.errors import StorageError
from fabella.native.processor import processor_features
from fabella.storage import atomic_write, cache_dir, make_dirs

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-exceptions", "-fopenmp", "-fPIC", "-shared")
# OpenMP comes from PyTorch, which is in the same process: a second copy would start threads of its own.
LIBRARIES = ("-nodefaultlibs", "-lm", "-lc")
COMPILER_TIMEOUT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class NativeCode:
    """Sources of one library; the first one includes the others."""

    name: str
    """Of the code in messages: ``the native decoder``."""
    sources: tuple[Path, ...]
    consequence: str
    """What is so without the library: ``Generation is slower``."""
    flags: tuple[str, ...] = ()
    """Compiler options in addition to FLAGS."""


@dataclass(frozen=True)
class NativeLibrary:
    """Loaded library, or None with the reason in ``warning``."""

    library: ctypes.CDLL | None
    warning: str = ""
    """One sentence for the user; empty if there is nothing to report."""


def build_library(code: NativeCode, report: Callable[[str], None]) -> NativeLibrary:
    """Load the library from the cache, or compile it first, which takes a few seconds once per machine.

    ``report`` receives a line before the compiler starts.
    """
    if not sys.platform.startswith("linux"):
        return _unavailable(code, f"it is not built on {platform.system()}")
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX") or "g++", "g++", "clang++"))), None)
    if compiler is None:
        return _unavailable(code, "this machine has no C++ compiler (install g++)")
    path = cache_dir("native") / f"{code.sources[0].stem}-{_cache_key(code, compiler)}.so"
    loaded = _load(path)
    if loaded:
        return NativeLibrary(loaded)
    report(f"Compiling {code.name} (once per machine, a few seconds) …")
    return _compile(code, compiler, path)


def _unavailable(code: NativeCode, reason: str) -> NativeLibrary:
    return NativeLibrary(None, f"{code.consequence} without {code.name}: {reason}.")


def _cache_key(code: NativeCode, compiler: str) -> str:
    """Return a hash of everything that the library depends on."""
    binary = Path(compiler).resolve()
    status = binary.stat()
    parts = [
        *(source.read_text(encoding="utf-8") for source in code.sources),
        *FLAGS,
        *code.flags,
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


def _compile(code: NativeCode, compiler: str, path: Path) -> NativeLibrary:
    """Compile the library and save it at ``path``. If it cannot be saved, return it with a warning."""
    with tempfile.TemporaryDirectory(prefix="fabella-") as temp_dir:
        output = Path(temp_dir) / "native.so"
        command = [compiler, *FLAGS, *code.flags, str(code.sources[0]), "-o", str(output), *LIBRARIES]
        try:
            process = subprocess.run(command, capture_output=True, timeout=COMPILER_TIMEOUT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return _unavailable(code, f"{compiler} did not finish ({error})")
        if process.returncode:
            errors = process.stderr.decode(errors="replace").strip().splitlines() or ["no error message"]
            return _unavailable(code, f"{compiler} exited with code {process.returncode}: {errors[0]}")
        loaded = _load(output)
        if loaded is None:
            return _unavailable(code, f"the library built by {compiler} cannot be loaded")
        try:
            make_dirs(path.parent)
            atomic_write(path, output.read_bytes())
        except (OSError, StorageError) as error:
            return NativeLibrary(loaded, f"Cannot save {code.name}; it is compiled at every start: {error}")
    return NativeLibrary(_load(path) or loaded)
