"""Local HTTP server of the report page, which follows runs in training."""

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
HOST_NAMES = {"127.0.0.1", "localhost", "[::1]"}
"""Accepted host names; another name belongs to a web page elsewhere that tries to read this one (DNS rebinding)."""


def server(runs: Sequence[Path], port: int) -> ThreadingHTTPServer:
    """Return a server of the page of these runs on the loopback address. Raises UsageError if the port is in use."""
    try:
        return _Server((HOST, port), partial(_PageHandler, list(runs)))
    except OSError as error:
        raise UsageError(
            f"Cannot use port {port} of {HOST}: {error.strerror}.", hint="Choose another --port, or 0 for any free one."
        ) from error


def version(runs: Sequence[Path]) -> str:
    """Return an ETag that changes when the metrics, samples or evaluation of a run change."""
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
        """Ignore a disconnected browser; print other errors."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # pyright: ignore[reportArgumentType]


class _PageHandler(BaseHTTPRequestHandler):
    """Handler of ``/``, the page, and ``/main``, the part of it that changes; other paths are not found."""

    protocol_version = "HTTP/1.1"
    timeout = 30

    def __init__(self, runs: Sequence[Path], *arguments: object) -> None:
        self.runs = runs
        super().__init__(*arguments)  # pyright: ignore[reportArgumentType, reportCallIssue]

    def do_GET(self) -> None:
        """Handle one request."""
        if self.headers.get("Host", "").rpartition(":")[0] not in HOST_NAMES:
            return self._send(403, "Open http://127.0.0.1 instead.")
        if self.path not in {"/", "/main"}:
            return self._send(404, "Not found. The page is at /.")
        current = version(self.runs)
        if self.path == "/main" and self.headers.get("If-None-Match") == current:
            return self._send(304, "")
        try:
            histories = [read(run) for run in self.runs]
        except FabellaError as error:
            return self._send(503, str(error))
        html = page(histories, live=current) if self.path == "/" else main(histories)
        return self._send(200, html, kind="text/html", etag=current)

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
        """Print nothing: one line per request would hide the messages of the command."""
