"""The port is bound and released properly; other machines need a key."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from functools import cached_property
from pathlib import Path

import pytest

from fabella.cli.main import run as fabella
from fabella.errors import UsageError
from fabella.server.http_server import bind, is_loopback, require_key
from tests.generation import tiny_run
from tests.server.stubs import TIMEOUT_SECONDS

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
