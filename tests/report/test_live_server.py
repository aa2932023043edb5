"""Tests that the live server follows its run for local browsers only, and tests the terminal view."""

import http.client
import io
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from email.message import Message
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from fabella.errors import UsageError
from fabella.report.live_server import HOST, server
from fabella.report.terminal_view import blocks, follow
from fabella.training.run import start_run
from tests.training import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs")
    config = tiny.run("samples.every_steps=4", steps=8)
    start_run(config, directory / "run", tiny.prepared(directory, config))
    return directory / "run"


@pytest.fixture
def followed(trained: Path, tmp_path: Path) -> Iterator[tuple[Path, ThreadingHTTPServer]]:
    shutil.copytree(trained, tmp_path / "run")
    with server([tmp_path / "run"], 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield tmp_path / "run", serving
        serving.shutdown()
        thread.join()


@dataclass
class Response:
    status: int
    headers: Message
    body: str


def get(serving: ThreadingHTTPServer, path: str, **headers: str) -> Response:
    with closing(http.client.HTTPConnection(HOST, serving.server_port, timeout=30)) as connection:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return Response(response.status, response.headers, response.read().decode())


def test_an_unchanged_page_is_not_sent_again(followed: tuple[Path, ThreadingHTTPServer]) -> None:
    run, serving = followed
    first = get(serving, "/main")
    etag = first.headers["ETag"]
    assert (first.status, get(serving, "/main", If_None_Match=etag).status) == (200, 304)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "validation", "step": 8, "loss": 0.5, "bits_per_byte": 0.125}\n')
    again = get(serving, "/main", If_None_Match=etag)
    assert again.status == 200
    assert "0.1250" in again.body


def test_the_page_is_served_with_a_content_security_policy(followed: tuple[Path, ThreadingHTTPServer]) -> None:
    _, serving = followed
    response = get(serving, "/")
    assert response.status == 200
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "data-live=" in response.body
    assert response.body.endswith("</html>\n")


def test_other_paths_and_other_hosts_are_refused(followed: tuple[Path, ThreadingHTTPServer]) -> None:
    _, serving = followed
    assert get(serving, "/../config.yaml").status == 404
    assert get(serving, "/", Host="elsewhere.example:80").status == 403


def test_damage_to_a_run_is_reported_in_the_response(followed: tuple[Path, ThreadingHTTPServer]) -> None:
    run, serving = followed
    (run / "metrics.jsonl").write_text("{]\n")
    response = get(serving, "/main")
    assert response.status == 503
    assert "line 1: damaged" in response.body


def test_a_port_in_use_is_an_error(followed: tuple[Path, ThreadingHTTPServer]) -> None:
    run, serving = followed
    with pytest.raises(UsageError, match=f"Cannot use port {serving.server_port} "):
        server([run], serving.server_port)


def test_the_terminal_view_of_an_ended_run_returns(trained: Path) -> None:
    output = io.StringIO()
    follow(trained, Console(file=output, force_terminal=True, width=100))
    assert "step 8 of 8, ended" in output.getvalue()
    assert "validation loss" in output.getvalue()
    plain = io.StringIO()
    follow(trained, Console(file=plain, width=100))
    assert "tokens per second" in plain.getvalue()


def test_blocks_rise_with_the_values() -> None:
    assert blocks([1.0, 2.0, 3.0, 8.0]) == "\u2581\u2582\u2583\u2588"
    assert blocks([1.0] * 500, columns=10) == "\u2581" * 10
    assert len(blocks([float(n) for n in range(1000)], columns=48)) == 48
