"""Child processes that serve requests: one protocol for encoding, streaming, measuring and benchmarking.

    parent                                       child: ``python -P -m MODULE``, whose main calls ``serve``
    ChildProcess(module, request)   ── JSON ──▶  open_handler(request) → handler
    child.request(*parts)           ─ frame ──▶  handler(parts)
                                    ◀─ frame ──  DONE and its result, or FAILED and the error

A frame is a list of byte strings. An error of Fabella raised in the child is raised again in the parent, with its
class, message and hint. The child exits as soon as its standard input ends, whatever it is doing, so that it never
outlives its parent. It ignores the signals of a terminal and a cluster, which are for the parent to handle.

Plain subprocesses instead of ``multiprocessing``: they import nothing of the main program (users need no ``__main__``
guard), share no memory, and exit by themselves when the pipe from their parent closes.
"""

import contextlib
import io
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import IO, Any, Self

from fabella import errors
from fabella.errors import DataError, FabellaError

DONE, FAILED = b"done", b"failed"
COUNT = struct.Struct("<I")
SIZE = struct.Struct("<Q")
PARENT_SIGNALS = [
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # Windows has the first two
]
"""Signals that only the parent handles."""

EXIT_SECONDS = 5.0
"""Seconds that a child has to exit by itself after it closed its pipe."""

Frame = Sequence[bytes]
Part = bytes | memoryview
Handler = Callable[[Frame], Sequence[Part]]


class ChildExitedError(DataError):
    """A child process was killed or crashed; ``status`` is "killed by SIGKILL" or "exit code 1"."""

    def __init__(self, name: str, status: str) -> None:
        super().__init__(f"{name} exited ({status}).")
        self.status = status


# ---------------------------------------------------------------- frames


def send(stream: IO[bytes], *parts: Part) -> None:
    """Write one frame, which the other side reads with ``receive``."""
    stream.write(COUNT.pack(len(parts)) + b"".join(SIZE.pack(memoryview(part).nbytes) for part in parts))
    for part in parts:
        stream.write(part)
    stream.flush()


def receive(stream: IO[bytes]) -> Frame:
    """Read one frame. Raises EOFError if the other side has exited."""
    (count,) = COUNT.unpack(_read_exactly(stream, COUNT.size))
    sizes = [SIZE.unpack(_read_exactly(stream, SIZE.size))[0] for _ in range(count)]
    return [_read_exactly(stream, size) for size in sizes]


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("the other side of the pipe has exited")
    return data


# ---------------------------------------------------------------- child


def serve(open_handler: Callable[[dict[str, Any]], Handler]) -> None:
    """Serve the requests of the parent until it closes the pipe. Call it from the ``main`` of a child module.

    ``open_handler`` gets the request object and returns the handler of the following frames. A FabellaError of either
    is sent to the parent, and the handler stays in use; any other error ends the process with a traceback.
    """
    for number in PARENT_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # Frames go to a copy of standard output; what libraries print goes to standard error.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as responses:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        requests: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(requests,), daemon=True).start()
        request = json.loads(requests.get()[0])
        handler: Handler | None = None
        while True:
            parts = requests.get()
            try:
                handler = handler or open_handler(request)
                result = handler(parts)
            except FabellaError as error:
                send(responses, FAILED, *_encode_error(error))
            else:
                send(responses, DONE, *result)


def _listen(requests: "queue.SimpleQueue[Frame]") -> None:
    """Queue the frames of the parent. Exit at once when it closes the pipe, whatever the main thread waits for."""
    # A copy of the file: Python must not wait for this thread when it closes sys.stdin at exit.
    with os.fdopen(os.dup(sys.stdin.fileno()), "rb") as stream:
        try:
            while True:
                requests.put(receive(stream))
        except EOFError:
            os._exit(0)


def _encode_error(error: FabellaError) -> list[bytes]:
    classes = json.dumps([kind.__name__ for kind in type(error).__mro__])
    return [text.encode(errors="replace") for text in (classes, error.message, error.hint)]


def _decode_error(parts: Frame) -> FabellaError:
    """Return the error of the child, as the nearest class that fabella.errors has."""
    classes, message, hint = (part.decode() for part in parts)
    kind: type[FabellaError] = next(getattr(errors, name) for name in json.loads(classes) if hasattr(errors, name))
    return kind(message, hint=hint)


# ---------------------------------------------------------------- parent


@contextlib.contextmanager
def _signals_blocked() -> Generator[None]:
    """Block the parent's signals for a child started inside, which could not ignore them yet."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PARENT_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ChildProcess:
    """Child that runs ``python -P -m MODULE`` and serves requests. A context manager: it never outlives the block.

    ``request`` is a JSON object for ``open_handler``. ``name`` is the subject of error messages. ``environment`` is
    added to that of this process. ``keep_stderr`` keeps what the child prints for ``stderr`` instead of showing it.
    Raises OSError if the process cannot be started.
    """

    def __init__(
        self,
        module: str,
        request: Mapping[str, Any],
        *,
        name: str = "The child process",
        environment: Mapping[str, str] | None = None,
        keep_stderr: bool = False,
    ) -> None:
        self.name = name
        self._request: bytes | None = json.dumps(request).encode()
        self._lock = threading.Lock()
        self._waiting: threading.Thread | None = None
        self._stderr = tempfile.TemporaryFile() if keep_stderr else None  # noqa: SIM115 (closed with the pipes)
        # -P: a file in the user's directory must not replace a module. Its own process group: no Ctrl-C.
        paths = os.pathsep.join(path for path in sys.path if path)
        try:
            with _signals_blocked():
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._stderr,
                    env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
                    process_group=0,
                )
        except OSError:
            if self._stderr:
                self._stderr.close()
            raise
        self.pid = self._process.pid

    def request(self, *parts: Part) -> Frame:
        """Send one request and wait for its result. Raises the child's FabellaError, or ChildExitedError."""
        self.send(*parts)
        return self.receive()

    def send(self, *parts: Part) -> None:
        """Send one request. Raises ChildExitedError if the child has exited."""
        stream = self._process.stdin
        assert stream is not None, "stdin is a pipe"
        try:
            if self._request is not None:
                send(stream, self._request)
                self._request = None
            send(stream, *parts)
        except (OSError, ValueError) as error:
            raise self._exited() from error

    def has_response(self, seconds: float) -> bool:
        """Wait at most ``seconds`` for the start of a response, or for the child's exit."""
        stream = self._process.stdout
        assert isinstance(stream, io.BufferedReader), "stdout is a pipe"
        if self._waiting is None:  # a thread: select cannot wait for a pipe on Windows
            self._waiting = threading.Thread(target=stream.peek, args=(1,), name=f"{self.name} waits", daemon=True)
            self._waiting.start()
        self._waiting.join(seconds)
        if self._waiting.is_alive():
            return False
        self._waiting = None
        return True

    def receive(self) -> Frame:
        """Wait for the result of a request. Raises the child's FabellaError, or ChildExitedError."""
        stream = self._process.stdout
        assert stream is not None, "stdout is a pipe"
        try:
            status, *parts = receive(stream)
        except (OSError, EOFError, ValueError) as error:
            raise self._exited() from error
        if status == FAILED:
            raise _decode_error(parts)
        return parts

    def stderr(self) -> str:
        """Return what the child has printed, with ``keep_stderr``."""
        assert self._stderr is not None, "keep_stderr was set"
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def _exited(self) -> ChildExitedError:
        # The pipe closes before the process has exited; its own exit status says more than that of a kill.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=EXIT_SECONDS)
        self.kill()
        code = self._process.returncode
        status = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return ChildExitedError(str(self), status)

    def kill(self) -> None:
        """Kill the process unless it has exited, and wait for it. Safe to call from several threads."""
        with self._lock:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Close the pipes of a process that has exited."""
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe is not None:
                # Unsent data is dropped: no process reads it.
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.kill()
        self.close()

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"
