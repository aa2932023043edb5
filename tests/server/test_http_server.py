"""Tests that the port is bound and released properly, and that other machines need a key."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import pytest

from fabella.cli.main import run as fabella
from fabella.errors import UsageError
from fabella.server.http_server import bind, is_loopback, require_key
from fabella.server.limits import Limits
from tests.generation import tiny_run
from tests.server.stubs import TIMEOUT_SECONDS, connect, hashing, listening, served_models

KEY = "a-key-that-is-long-enough"


@pytest.mark.fault("C9", cases=10)
@pytest.mark.parametrize("attempt", range(10))
def test_a_used_port_is_an_error_that_names_a_free_one(attempt: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UsageError, match=rf"Port {port} of 127.0.0.1 is in use.*Try --port \d+\.") as caught:
            bind("127.0.0.1", port)
    with bind("127.0.0.1", int(caught.value.hint.split()[-1].rstrip("."))):
        pass


def test_a_released_port_can_be_bound_at_once() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            first.accept()[0].close()
    with bind("127.0.0.1", port) as second:
        assert second.getsockname()[1] == port


def test_a_host_of_another_machine_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Cannot listen on 192\.0\.2\.1, port 0"):
        bind("192.0.2.1", 0)


@pytest.mark.fault("F17", cases=12)
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.5", "example.org", "8.8.8.8", "localhost.example.org"])
def test_hosts_that_other_machines_reach_need_a_key(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(UsageError, match="without an API key anyone there could use the server"):
        require_key(host, "")
    require_key(host, KEY)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_loopback_hosts_need_no_key(host: str) -> None:
    require_key(host, "")


@pytest.mark.parametrize("key", ["short", "long enough but with spaces", "ключ-из-многих-букв", "x" * 30 + "\n"])
def test_a_weak_or_unreadable_key_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match="at least 16 printable ASCII"):
        require_key("127.0.0.1", key)


# ---------------------------------------------------------------- malformed HTTP

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
MALFORMED = {
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "no HTTP": b"hello\r\n\r\n",
    "length": HEAD + b"Content-Length: two\r\n\r\n{}",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "header": HEAD + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    "chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    # A proxy that believes the length would take the second request for a part of the body.
    "both": HEAD + b"Content-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with listening(served_models(hashing())) as port:
        yield port


@pytest.mark.fault("F1", cases=len(MALFORMED))
@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_requests_get_one_error_in_the_format_of_all_others(port: int, what: str) -> None:
    with connect(port) as connection:
        connection.sendall(MALFORMED[what])
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1, "nothing that follows is answered"
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost/healthz", "localhost", 200),
        ("HTTPS://127.0.0.1:8000/healthz?verbose=1", "other.example", 200),  # the host of the target counts
        ("http://localhost", "localhost", 200),
        ("http://localhost/nothing", "localhost", 404),
        ("http://other.example/healthz", "localhost", 403),
        ("http://localhost/http://localhost/healthz", "localhost", 404),
    ],
)
def test_a_request_may_name_the_whole_address(port: int, target: str, host: str, status: int) -> None:
    """As requests through a proxy do (RFC 9112, section 3.2.2)."""
    with connect(port) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.startswith(f"HTTP/1.1 {status} ".encode())


def test_connections_over_the_limit_get_503_in_the_same_format() -> None:
    limits = Limits(connections=2)
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with listening(served_models(hashing(), limits=limits), limits) as port:
        with ExitStack() as open_ones:
            for _ in range(2):
                idle = open_ones.enter_context(connect(port))
                idle.sendall(request[: -len(b"Connection: close\r\n\r\n")] + b"\r\n")
                assert idle.recv(65536).startswith(b"HTTP/1.1 200 OK")
            over = open_ones.enter_context(connect(port))
            over.sendall(request)
            received = b"".join(iter(lambda: over.recv(65536), b""))
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1" in head
        assert "--max-connections" in json.loads(body)["error"]["message"]


class Command:
    """``fabella serve`` in a child process."""

    def __init__(self, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "FABELLA_API_KEY"}
        command = [sys.executable, "-m", "fabella", "serve", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)

    @cached_property
    def first_line(self) -> str:
        """First line on standard error."""
        assert self.process.stderr
        return self.process.stderr.readline()

    @property
    def port(self) -> int:
        return int(self.first_line.split(";")[0].rsplit(":", 1)[1])

    def end(self, signal_number: int) -> int:
        self.process.send_signal(signal_number)
        code = self.process.wait(TIMEOUT_SECONDS)
        assert self.process.stderr
        self.process.stderr.close()
        return code


@pytest.mark.slow
def test_a_run_is_served_until_a_signal_arrives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run.make(tmp_path / "stories")
    first, other = Command(f"{run}@10", f"{run}@latest", "--port", "0"), Command(str(run), "--port", "0")
    assert first.first_line.startswith("Serving stories@10, stories@latest at http://127.0.0.1:")
    with urllib.request.urlopen(f"http://127.0.0.1:{first.port}/healthz", timeout=TIMEOUT_SECONDS) as response:
        assert response.status == 200
    assert fabella(["serve", str(run), "--port", str(first.port)]) == 2
    error = capsys.readouterr().err
    assert f"Port {first.port} of 127.0.0.1 is in use by process {first.process.pid}" in error
    assert first.end(signal.SIGTERM) == 0
    with bind("127.0.0.1", first.port):
        pass
    assert other.first_line.startswith("Serving stories at http://127.0.0.1:")
    assert other.end(signal.SIGINT) == 130
