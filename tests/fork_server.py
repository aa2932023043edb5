"""Run commands of Python and Fabella in forks of one process that has imported the whole package.

Most of a short command's time is importing torch. Inside the block of ``fork_server``, its directory of programs comes
first in PATH: ``fabella`` and ``python`` there pass their arguments, directory, environment and open files to a server,
which forks, runs the command in the fork as the interpreter would, and returns its exit code.

    shell ─▶ fabella (this file, 20 ms) ── arguments, files ──▶ server ─ fork ─▶ command
                                        ◀──── exit code ───────
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

PROGRAMS = ("fabella", "python")


@contextlib.contextmanager
def fork_server(directory: Path) -> Iterator[Path]:
    """Start a server for the duration of the block, and yield the directory of its programs, for PATH."""
    address = directory / "socket"
    programs = directory / "bin"
    programs.mkdir(parents=True)
    for name in PROGRAMS:
        script = programs / name
        script.write_text(
            f"#!/bin/sh\nexec '{sys.executable}' -IS '{Path(__file__)}' client '{address}' {name} \"$@\"\n",
            encoding="utf-8",
        )
        script.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:  # only the server keeps it open, so that none waits for a dead one
        listener.bind(str(address))
        listener.listen()
        command = [sys.executable, "-P", str(Path(__file__)), "serve", str(listener.fileno())]
        process = subprocess.Popen(command, pass_fds=[listener.fileno()], stdin=subprocess.PIPE)
    try:
        yield programs
    finally:
        process.communicate()  # closes its standard input, on which it exits


# ---------------------------------------------------------------- client


def run_in_fork(address: str, arguments: list[str]) -> int:
    """Let the server run a command with the files, directory and environment of this process."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        task = {"arguments": arguments, "directory": os.getcwd(), "environment": dict(os.environ)}  # noqa: PTH109
        text = json.dumps(task).encode()
        connection.sendall(len(text).to_bytes(4, "little"))
        socket.send_fds(connection, [text[:1]], [0, 1, 2])
        connection.sendall(text[1:])
        code = connection.recv(1)
    return code[0] if code else 1


# ---------------------------------------------------------------- server


def serve(listener: socket.socket) -> None:
    """Fork for every connection, one after the other, until standard input ends, as it does when the tests exit.

    Returns only in a fork, which then runs its command.
    """
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            sys.exit()
        connection, _ = listener.accept()
        with connection:
            task, files = receive(connection)
            sys.stdout.flush()
            child = os.fork()
            if not child:
                listener.close()
                become(task, files)
                return
            for file in files:
                os.close(file)
            connection.sendall(bytes([wait(child, connection)]))


def receive(connection: socket.socket) -> tuple[dict[str, object], list[int]]:
    """Return the task and the three open files of a client."""
    size = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "little")
    first, files, _, _ = socket.recv_fds(connection, 1, 3)
    return json.loads(first + connection.recv(size - 1, socket.MSG_WAITALL)), files


def wait(child: int, connection: socket.socket) -> int:
    """Wait for a command and return its exit code as a shell does. Kill the command if its client has exited."""
    exited = os.pidfd_open(child)
    ready, _, _ = select.select([exited, connection], [], [])
    os.close(exited)
    if connection in ready:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def become(task: dict[str, object], files: list[int]) -> None:
    """Take over the files, directory, environment and arguments of a task."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # As the interpreter opens them: those of the server remember what kind of file it had.
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115 - open to the end
    sys.stderr.reconfigure(errors="backslashreplace", line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    os.chdir(str(task["directory"]))
    os.environ.clear()
    os.environ.update(task["environment"])  # pyright: ignore[reportArgumentType] - from os.environ of the client
    sys.argv = list(task["arguments"])  # pyright: ignore[reportArgumentType] - from sys.argv of the client
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run(arguments: list[str]) -> None:
    """Run ``fabella …``, ``python -c CODE …`` or ``python FILE …`` as the main program of this process."""
    match arguments:
        case ["fabella", *_]:
            sys.modules["fabella.cli.main"].main()
        case ["python", "-c", code, *rest]:
            sys.argv = ["-c", *rest]
            sys.path.insert(0, "")
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        case ["python", file, *rest] if not file.startswith("-"):
            sys.argv = [file, *rest]
            sys.path.insert(0, str(Path(file).parent.absolute()))
            runpy.run_path(file, run_name="__main__")
        case _:
            os.execv(sys.executable, [sys.executable, *arguments[1:]])


def run_and_exit(arguments: list[str]) -> NoReturn:
    """Run a command and end this process with its exit code.

    Like the interpreter, it waits for threads, calls exit functions and flushes. It leaves out the destruction of all
    objects: that copies the pages of the whole package, which fork and server share, and takes longer than most
    commands.
    """
    code = 0
    try:
        run(arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - reported as the interpreter does
        traceback.print_exc()
        code = 1
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # what the interpreter reports with this code
            code = code or 120
    os._exit(code)


QUICKSTART_STEPS = 100
"""Least steps of a quickstart in a fork: the first that print a speed. Nobody reads the stories."""


def import_everything() -> None:
    """Import the package except what needs JAX, and what torch imports at the first training step."""
    import pkgutil

    import torch._dynamo  # noqa: F401

    import fabella

    for module in pkgutil.walk_packages(fabella.__path__, "fabella."):
        if not module.name.endswith(("_jax", ".__main__")):
            with contextlib.suppress(ImportError):  # an optional package is missing
                importlib.import_module(module.name)
    sys.modules["fabella.training.setup.quickstart"].__dict__["MIN_STEPS"] = QUICKSTART_STEPS


if __name__ == "__main__":
    if sys.argv[1] == "client":
        sys.exit(run_in_fork(sys.argv[2], sys.argv[3:]))
    import_everything()
    gc.freeze()  # a collection in a fork would copy the pages of all objects
    serve(socket.socket(fileno=int(sys.argv[2])))
    run_and_exit(sys.argv)
