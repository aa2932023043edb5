"""The page on this machine's own address, following runs that go on."""

import hashlib
import sys
from collections.abc import Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from fabella.errors import FabellaError, UsageError
from fabella.report.page import POLICY, main, page
from fabella.report.run_history import EVALUATION, METRICS, SAMPLES, read

HOST = "127.0.0.1"
NAMES = {"127.0.0.1", "localhost", "[::1]"}
"""Other names in a request are those of a page elsewhere that tries to read this one."""


def server(runs: Sequence[Path], port: int) -> ThreadingHTTPServer:
    """A server of the page of these runs, on this machine only. Raises UsageError where the port is taken."""
    try:
        return _Server((HOST, port), partial(_Answer, list(runs)))
    except OSError as error:
        raise UsageError(
            f"Port {port} of {HOST} cannot be used: {error.strerror}.", hint="Choose another with --port, or 0 for any."
        ) from error


def version(runs: Sequence[Path]) -> str:
    """Changes when a run has measured something new."""
    digest = hashlib.sha256()
    for run in runs:
        for name in (METRICS, SAMPLES, EVALUATION):
            file = run / name
            status = file.stat() if file.exists() else None
            digest.update(f"{file}:{status.st_size if status else 0}:{status.st_mtime_ns if status else 0};".encode())
    return f'"{digest.hexdigest()[:24]}"'


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes away is no error; anything else is told as Python does."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # pyright: ignore[reportArgumentType]


class _Answer(BaseHTTPRequestHandler):
    """``/`` is the page, ``/main`` what changes in it; the rest is not found."""

    protocol_version = "HTTP/1.1"
    timeout = 30

    def __init__(self, runs: Sequence[Path], *arguments: object) -> None:
        self.runs = runs
        super().__init__(*arguments)  # pyright: ignore[reportArgumentType, reportCallIssue]

    def do_GET(self) -> None:
        """Answer one request."""
        if self.headers.get("Host", "").rpartition(":")[0] not in NAMES:
            return self._send(403, "Ask for http://127.0.0.1.")
        if self.path not in {"/", "/main"}:
            return self._send(404, "There is nothing here; the page is at /.")
        now = version(self.runs)
        if self.path == "/main" and self.headers.get("If-None-Match") == now:
            return self._send(304, "")
        try:
            histories = [read(run) for run in self.runs]
        except FabellaError as error:
            return self._send(503, str(error))
        shown = page(histories, live=now) if self.path == "/" else main(histories)
        return self._send(200, shown, kind="text/html", etag=now)

    def _send(self, status: int, text: str, *, kind: str = "text/plain", etag: str = "") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if etag:
            self.send_header("ETag", etag)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 304:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
        """Nothing: a line for each request would hide what is said."""
