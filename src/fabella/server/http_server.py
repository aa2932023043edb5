"""HTTP server: bind the port before a model is loaded, serve, and finish running requests after a signal."""

import asyncio
import errno
import ipaddress
import json
import signal
import socket
from collections.abc import Sequence
from types import FrameType
from typing import Any

import h11
import psutil
import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from fabella.errors import UsageError
from fabella.server.api_error import ApiError
from fabella.server.limits import Limits, set_by

MIN_KEY_LENGTH = 16
"""Minimum length of the API key in characters."""
_PORTS_TRIED = 100
"""Number of ports after the requested one among which a free one is looked for."""


def require_key(host: str, key: str) -> None:
    """Raise UsageError for a weak key, and for a host that other machines can reach without a key."""
    if key and (len(key) < MIN_KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key):
        raise UsageError(
            f"The API key must be at least {MIN_KEY_LENGTH} printable ASCII characters, without spaces.",
            hint="Create one with: python -c 'import secrets; print(secrets.token_urlsafe())'",
        )
    if not key and not is_loopback(host):
        raise UsageError(
            f"Other machines can reach {host}, and without an API key anyone there could use the server.",
            hint="Set FABELLA_API_KEY or --api-key-file, or use --host 127.0.0.1.",
        )


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach ``host``; any name but localhost may resolve to another address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes any free port.

    Raises UsageError that names the process which uses the port and the nearest free port.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise UsageError(f"Cannot resolve --host {host} ({error.strerror}).") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    # Closing connections of an earlier server must not block the port.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise _bind_error(host, port, error) from None
    return listener


def _bind_error(host: str, port: int, error: OSError) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        free = _free_port(host, port)
        hint = f"Try --port {free}." if free else "Use another port with --port."
        return UsageError(f"Port {port} of {host} is in use{_owner(port)}.", hint=hint)
    if error.errno == errno.EACCES:
        return UsageError(f"No permission to use port {port}.", hint="Use a port from 1024 up, e.g. --port 8000.")
    return UsageError(f"Cannot listen on {host}, port {port} ({error.strerror}).", hint="Use another --host.")


def _owner(port: int) -> str:
    """Return " by process PID", or an empty string if the system does not say."""
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return ""
    owners = [c.pid for c in connections if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port]
    return f" by process {owners[0]}" if owners and owners[0] else ""


def _free_port(host: str, port: int) -> int:
    """Return the next free port, or 0 if there is none near."""
    for other in range(port + 1, min(port + 1 + _PORTS_TRIED, 65536)):
        try:
            with socket.create_server((host, other), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
                return other
        except OSError:
            continue
    return 0


class Server(uvicorn.Server):
    """uvicorn server that finishes running requests after a signal, and stops at once after a second one."""

    interrupted = False
    """True after Ctrl-C."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.interrupted = self.interrupted or sig == signal.SIGINT
        self.force_exit, self.should_exit = self.should_exit, True


def server(app: ASGIApp, limits: Limits) -> Server:
    """Create the server of an application; ``run(sockets=[…])`` serves until a signal arrives."""
    limited = ConnectionLimit(app, limits.connections)
    config = uvicorn.Config(
        limited,
        loop="asyncio",
        http=type("HttpProtocol", (HeaderTimeoutProtocol,), {"seconds": limits.receive_timeout_seconds}),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(limits.shutdown_timeout_seconds),
        h11_max_incomplete_event_size=32 * 1024,
    )
    http_server = Server(config)
    limited.state = http_server.server_state
    return http_server


class ConnectionLimit:
    """ASGI middleware that answers 503 while too many connections are open; uvicorn's own answers in plain text."""

    state: ServerState | None = None
    """Connections of the server; None before it exists."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer with an error."""
        if scope["type"] != "http" or self.state is None or len(self.state.connections) <= self._most:
            await self._app(scope, receive, send)
            return
        message = f"More than {self._most:,} connections are open. Try again later. {set_by('connections')}"
        error = ApiError(message, status=503, code="too_many_connections", retry_after=1, closes=True)
        await JSONResponse(error.body(), error.status, error.headers)(scope, receive, send)


def serve(app: ASGIApp, sockets: Sequence[socket.socket], limits: Limits) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish running requests. Raises KeyboardInterrupt after Ctrl-C."""
    http_server = server(app, limits)
    http_server.run(sockets=list(sockets))
    if http_server.interrupted:
        raise KeyboardInterrupt


class HeaderTimeoutProtocol(H11Protocol):
    """HTTP/1.1 with a timeout for a request's headers; uvicorn itself has none."""

    seconds = 30.0
    """Timeout in seconds."""
    _waiting: asyncio.TimerHandle | None = None
    _lingering: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_headers()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and self._lingering is None:
            # Answered before the whole body arrived: the client may read the error, but not send without end.
            self._lingering = self.loop.call_later(self.seconds, self.transport.close)
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()
        if self._lingering:
            self._lingering.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request in the format of all other errors, instead of plain text."""
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.close()  # a response has begun: nothing can be said any more
            return
        error = ApiError(f"{msg} It is not valid HTTP/1.1.", code="invalid_http", closes=True)
        body = json.dumps(error.body()).encode()
        headers = {**error.headers, "content-type": "application/json", "content-length": str(len(body))}
        for event in (h11.Response(status_code=error.status, headers=list(headers.items())), h11.Data(data=body)):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.write(self.conn.send(h11.EndOfMessage()) or b"")
        self.transport.close()

    def _wait_for_headers(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(self.seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._waiting.cancel()
            self._waiting = None
