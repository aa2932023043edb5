"""What Windows lacks and refuses, for every Python process that has this directory in PYTHONPATH.

Python imports `sitecustomize` at its start, so child processes are on this "Windows", too. Modules and names that
Windows does not have are hidden from Fabella only: the Python and the libraries of this system need them. What Windows
refuses is refused to all: opening a directory, fsync of a file that is open for reading, renaming or removing a file
that is open, and names with characters that are not allowed. Not emulated: `os.name`, drive letters, line ends of text
files.
"""

import builtins
import contextlib
import fcntl
import importlib
import io
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

MODULES = ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog", "readline", "curses")
NAMES = {
    os: """
        O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_SYNC WNOHANG chown chroot confstr ctermid fchdir fchmod
        fchown fdatasync fork forkpty fpathconf fstatvfs get_blocking getegid geteuid getgid getgroups
        getloadavg getpgid getpgrp getpriority getsid getuid getxattr killpg lchown lockf mkfifo mknod nice
        openpty pathconf pipe2 posix_fadvise posix_fallocate posix_spawn posix_spawnp pread preadv pwrite
        pwritev readv register_at_fork sched_getaffinity sched_setaffinity sched_yield sendfile set_blocking
        setpgid setpriority setsid setuid statvfs sync sysconf tcgetpgrp ttyname uname wait wait3 wait4 waitid
        writev WIFEXITED WIFSIGNALED WIFSTOPPED WEXITSTATUS WTERMSIG
    """,
    signal: """
        SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGIO SIGKILL SIGPIPE SIGPROF SIGQUIT SIGSTOP SIGTSTP SIGTTIN
        SIGTTOU SIGURG SIGUSR1 SIGUSR2 SIGVTALRM SIGWINCH alarm getitimer setitimer pause pthread_kill
        pthread_sigmask sigpending siginterrupt sigtimedwait sigwait sigwaitinfo
    """,
    socket: "AF_UNIX SO_REUSEPORT sethostname if_nameindex CMSG_LEN",
    time: "clock_gettime clock_settime tzset pthread_getcpuclockid CLOCK_MONOTONIC CLOCK_PROCESS_CPUTIME_ID",
}
"""What the modules of Windows' Python do not have (its documentation says "Availability: Unix" there)."""
HIDDEN = {module.__name__: frozenset(names.split()) for module, names in NAMES.items()}
BINARY = 1 << 30
"""Value of `os.O_BINARY`, which the real `os.open` does not know."""
COMPILERS = ("g++", "clang++")
"""Fabella builds native code on Linux only."""
REFUSED = set('<>:"|?*') | {chr(code) for code in range(32)}


def is_fabella(depth: int) -> bool:
    name = sys._getframe(depth + 1).f_globals.get("__name__", "")
    return name == "fabella" or name.startswith("fabella.")


class Hiding(ModuleType):
    """A module that hides its names from Fabella."""

    def __getattribute__(self, name: str) -> Any:
        if name in HIDDEN[ModuleType.__getattribute__(self, "__name__")] and is_fabella(1):
            raise AttributeError(f"Windows has no {name}", name=name, obj=self)
        return ModuleType.__getattribute__(self, name)


def hide_modules() -> None:
    real, real_module = builtins.__import__, importlib.import_module

    def imported(name: str, *rest: Any, **named: Any) -> ModuleType:
        require_module(name)
        return real(name, *rest, **named)

    def imported_module(name: str, package: str | None = None) -> ModuleType:
        require_module(name)
        return real_module(name, package)

    builtins.__import__, importlib.import_module = imported, imported_module


def require_module(name: str) -> None:
    if name.partition(".")[0] in MODULES and is_fabella(2):
        raise ModuleNotFoundError(f"Windows has no {name}", name=name)


def open_paths() -> set[str]:
    """Return the files that this process has open."""
    paths: set[str] = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor of this listing
            paths.add(str(descriptor.readlink()))
    return paths


def mapped_paths() -> set[str]:
    """Return the files that this process has mapped into its memory."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    return {fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6}


def require_closed(path: Any, *, mapped: bool) -> None:
    real = os.path.realpath(os.fsdecode(path))
    used = open_paths() | (mapped_paths() if mapped else set())
    if any(each == real or each.startswith(real + os.sep) for each in used):
        raise PermissionError(13, "The process cannot access the file because it is being used", os.fsdecode(path))


def require_name(path: Any) -> None:
    if isinstance(path, int):
        return
    text = os.fsdecode(path)
    for name in PurePath(text).parts:
        if name not in ("/", ".", "..") and (REFUSED & set(name) or name[-1] in ". "):
            raise OSError(22, "The filename is incorrect for Windows", text)


REAL = {name: getattr(os, name) for name in ("open", "close", "fsync", "rename", "replace", "unlink", "mkdir", "write")}
REAL_OPEN, REAL_WHICH = io.open, shutil.which
TEXT_MODE: set[int] = set()
"""Descriptors on which Windows converts line ends."""


def open_descriptor(path: Any, flags: int, mode: int = 0o777, **named: Any) -> int:
    require_name(path)
    if Path(os.fsdecode(path)).is_dir():
        raise PermissionError(13, "Permission denied: a directory", os.fsdecode(path))
    descriptor = REAL["open"](path, flags & ~BINARY, mode, **named)
    (TEXT_MODE.discard if flags & BINARY else TEXT_MODE.add)(descriptor)
    return descriptor


def write(descriptor: int, data: Any) -> int:
    if descriptor in TEXT_MODE and is_fabella(1):
        raise OSError(22, "Windows converts line ends here: os.open without O_BINARY")
    return REAL["write"](descriptor, data)


def close(descriptor: int) -> None:
    TEXT_MODE.discard(descriptor)
    REAL["close"](descriptor)


def fsync(file: Any) -> None:
    descriptor = file if isinstance(file, int) else file.fileno()
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(9, "Bad file descriptor: fsync needs write access")
    REAL["fsync"](descriptor)


def rename(source: Any, target: Any, **named: Any) -> None:
    require_name(target)
    require_closed(source, mapped=False)
    if os.path.lexists(target):
        raise FileExistsError(17, "Cannot create a file when that file already exists", os.fsdecode(target))
    REAL["rename"](source, target, **named)


def replace(source: Any, target: Any, **named: Any) -> None:
    require_name(target)
    require_closed(source, mapped=False)
    if Path(os.fsdecode(target)).is_dir():
        raise PermissionError(13, "Access is denied", os.fsdecode(target))
    if os.path.lexists(target):
        require_closed(target, mapped=True)
    REAL["replace"](source, target, **named)


def unlink(path: Any, **named: Any) -> None:
    require_closed(path, mapped=True)
    REAL["unlink"](path, **named)


def mkdir(path: Any, mode: int = 0o777, **named: Any) -> None:
    require_name(path)
    REAL["mkdir"](path, mode, **named)


def open_file(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
    if set(mode) & set("wax+"):
        require_name(file)
    if "b" not in mode and len(rest) < 2 and named.get("encoding") is None:
        if is_fabella(1):
            raise EncodingWarning(f"{file}: text without an encoding is in the code page of the machine")
        named["encoding"] = "locale"
    return REAL_OPEN(file, mode, *rest, **named)


def which(name: str, *rest: Any, **named: Any) -> str | None:
    return None if name in COMPILERS else REAL_WHICH(name, *rest, **named)


def refuse() -> None:
    """Replace the functions of the standard library by those that refuse what Windows refuses."""
    os.open, os.write, os.close, os.fsync = open_descriptor, write, close, fsync
    os.rename, os.replace, os.mkdir = rename, replace, mkdir
    os.unlink = os.remove = unlink
    os.O_BINARY = BINARY  # pyright: ignore[reportAttributeAccessIssue]
    io.open = builtins.open = open_file
    shutil.which = which
    shutil._use_fd_functions = False  # pyright: ignore[reportAttributeAccessIssue] - rmtree opens directories with them
    tempfile.TemporaryFile = tempfile.NamedTemporaryFile  # Windows' own removes its file when it is closed, too


refuse()
hide_modules()
for module in NAMES:
    module.__class__ = Hiding
warnings.filterwarnings("error", category=EncodingWarning, module=r"fabella(\..*)?")
