"""The step of telling, compiled by the machine's own compiler for its own processor, once: decode.cpp.

The library is kept in the user's cache under a name that holds what it was made of: the source, the compiler, the
processor. It is written aside and renamed, so that half a library is never loaded; one that is damaged is made anew.
Compiled is on demand, never behind a telling that has begun: the same text from the same seed must not depend on when.
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

from fabella.errors import StorageError
from fabella.storage import atomic_write, cache_dir, make_dirs
from fabella.tracking.console import print_status

SOURCE = Path(__file__).with_name("decode.cpp")
SOURCES = (SOURCE, SOURCE.with_name("sample.h"), SOURCE.with_name("matmul.h"))
# Without contraction a sum has the same bits in whichever loop it stands; where it pays, matmul.h asks for it.
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-ffp-contract=off", "-fno-exceptions"),
    *("-fopenmp", "-fPIC", "-shared"),
)
# OpenMP comes from the program that loads the library, PyTorch: a second copy would have threads of its own.
LIBRARIES = ("-nodefaultlibs", "-lm", "-lc")
LONGEST_SECONDS = 300
TELLING_LINES = ("flags", "Features", "model name", "CPU part")
"""Of /proc/cpuinfo: what a processor can do."""


@dataclass(frozen=True)
class NativeLibrary:
    """The library, or why there is none."""

    library: ctypes.CDLL | None
    remark: str = ""
    """One sentence for people; empty where there is nothing to say."""


@cache
def step() -> NativeLibrary:
    """``find_step``, of which a process needs one."""
    return build_library()


def build_library() -> NativeLibrary:
    """The compiled step: loaded, or made first, which takes some seconds once on a machine."""
    if not sys.platform.startswith("linux"):
        return _without(f"it is not compiled on {platform.system()}")
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX") or "g++", "g++", "clang++"))), None)
    if compiler is None:
        return _without("there is no C++ compiler on this machine (install g++)")
    kept = cache_dir("step") / f"step-{_key(compiler)}.so"
    library = _load(kept)
    if library:
        return NativeLibrary(library)
    print_status("Compiling what tells stories fast, once on this machine; this takes some seconds.")
    return _made(compiler, kept)


def _without(why: str) -> NativeLibrary:
    return NativeLibrary(None, f"Texts are told without the compiled step, more slowly: {why}.")


def _key(compiler: str) -> str:
    """Whatever the library depends on."""
    binary = Path(compiler).resolve()
    state = binary.stat()
    parts = [
        *(source.read_text(encoding="utf-8") for source in SOURCES),
        *FLAGS,
        *LIBRARIES,
        str(binary),
        str(state.st_size),
        str(state.st_mtime_ns),
    ]
    return hashlib.sha256("\0".join([*parts, platform.machine(), _processor()]).encode()).hexdigest()[:20]


def _processor() -> str:
    """What the processor can do: of a cache that several machines share, each must find its own."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(TELLING_LINES)}))


def _load(path: Path) -> ctypes.CDLL | None:
    """The library at ``path``; None where there is none, or where it is damaged."""
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def _made(compiler: str, kept: Path) -> NativeLibrary:
    with tempfile.TemporaryDirectory(prefix="fabella-") as folder:
        made = Path(folder) / "step.so"
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(made), *LIBRARIES]
        try:
            done = subprocess.run(command, capture_output=True, timeout=LONGEST_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return _without(f"{compiler} did not come to an end ({error})")
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            return _without(f"{compiler} ended with code {done.returncode}: {said[0]}")
        library = _load(made)
        if library is None:
            return _without(f"what {compiler} made cannot be loaded")
        try:
            make_dirs(kept.parent)
            atomic_write(kept, made.read_bytes())
        except (OSError, StorageError) as error:
            return NativeLibrary(
                library, f"The compiled step of telling cannot be kept, and is made anew each time: {error}"
            )
    return NativeLibrary(_load(kept) or library)
