"""A server from its port to its end: taken before anything is loaded, drained before it is given back."""

import asyncio
import errno
import ipaddress
import signal
import socket
from collections.abc import Sequence
from types import FrameType
from typing import Any

import h11
import psutil
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from fabella.errors import UsageError
from fabella.server.limits import Limits

SHORTEST_KEY = 16
_PORTS_TRIED = 100


def require_key(host: str, key: str) -> None:
    """Raises UsageError where others could reach the server and anybody could use it."""
    if key and (len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key):
        raise UsageError(
            f"The API key must be at least {SHORTEST_KEY} printable ASCII characters, without spaces.",
            hint="Make one with: python -c 'import secrets; print(secrets.token_urlsafe())'",
        )
    if not key and not is_loopback(host):
        raise UsageError(
            f"{host} can be reached from other machines, and without an API key anybody there could use the server.",
            hint="Set FABELLA_API_KEY or --api-key-file, or leave --host at 127.0.0.1.",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it; a name other than localhost may lead anywhere."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """The port, ours from now on; 0: any. Raises UsageError that says who has it, and the nearest free one."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise UsageError(f"--host {host} is no address of this machine ({error.strerror}).") from None
    taken = socket.socket(family, socket.SOCK_STREAM)
    # After an end, connections that are dying must not keep the port.
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(address)
        taken.listen(256)
    except OSError as error:
        taken.close()
        raise _refused(host, port, error) from None
    return taken


def _refused(host: str, port: int, error: OSError) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        free = _free(host, port)
        fix = f"Try --port {free}." if free else "Give another with --port."
        return UsageError(f"Port {port} of {host} is in use{_by(port)}.", hint=fix)
    if error.errno == errno.EACCES:
        return UsageError(f"Port {port} may not be used by everybody.", hint="Give one from 1024 on with --port.")
    return UsageError(f"{host}, port {port} cannot be used ({error.strerror}).", hint="Give another with --host.")


def _by(port: int) -> str:
    """Who has it, where the system tells."""
    try:
        found = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return ""
    owners = [one.pid for one in found if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port]
    return f" by process {owners[0]}" if owners and owners[0] else ""


def _free(host: str, port: int) -> int:
    for other in range(port + 1, min(port + 1 + _PORTS_TRIED, 65536)):
        try:
            with socket.create_server((host, other), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
                return other
        except OSError:
            continue
    return 0


class Server(uvicorn.Server):
    """Ends after a signal when the texts being told have ended; at once after a second one."""

    interrupted = False
    """Whether Ctrl-C ended it"""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        self.interrupted = self.interrupted or sig == signal.SIGINT
        self.force_exit, self.should_exit = self.should_exit, True


def server(app: ASGIApp, limits: Limits) -> Server:
    """Of an application; ``run(sockets=[…])`` serves until a signal comes."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=type("Patient", (HeaderTimeoutProtocol,), {"seconds": limits.receive_timeout_seconds}),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(limits.shutdown_timeout_seconds),
        h11_max_incomplete_event_size=32 * 1024,
    )
    return Server(config)


def serve(app: ASGIApp, sockets: Sequence[socket.socket], limits: Limits) -> None:
    """Answer until SIGTERM or Ctrl-C, then drain. Raises KeyboardInterrupt after Ctrl-C."""
    running = server(app, limits)
    running.run(sockets=list(sockets))
    if running.interrupted:
        raise KeyboardInterrupt


class HeaderTimeoutProtocol(H11Protocol):
    """HTTP whose patience for a request's headers ends: uvicorn alone waits for ever."""

    seconds = 30.0
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
            # Refused before its body was whole: the client may read why, but not send for ever.
            self._lingering = self.loop.call_later(self.seconds, self.transport.close)
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()
        if self._lingering:
            self._lingering.cancel()

    def _wait_for_headers(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(self.seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._waiting.cancel()
            self._waiting = None
