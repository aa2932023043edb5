"""The served page follows its run, answers nobody else, and a terminal can follow, too."""

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
    place = tmp_path_factory.mktemp("runs")
    of = tiny.run("samples.every_steps=4", steps=8)
    start_run(of, place / "run", tiny.prepared(place, of))
    return place / "run"


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
class Answer:
    status: int
    headers: Message
    body: str


def ask(serving: ThreadingHTTPServer, path: str, **headers: str) -> Answer:
    with closing(http.client.HTTPConnection(HOST, serving.server_port, timeout=30)) as connection:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read().decode())


def test_what_has_not_changed_is_not_sent_again(followed: tuple[Path, ThreadingHTTPServer]) -> None:
    run, serving = followed
    first = ask(serving, "/main")
    known = first.headers["ETag"]
    assert (first.status, ask(serving, "/main", If_None_Match=known).status) == (200, 304)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "validation", "step": 8, "loss": 0.5, "bits_per_byte": 0.125}\n')
    again = ask(serving, "/main", If_None_Match=known)
    assert again.status == 200
    assert "0.1250" in again.body


def test_the_page_is_served_whole_with_a_policy(followed: tuple[Path, ThreadingHTTPServer]) -> None:
    _, serving = followed
    answer = ask(serving, "/")
    assert answer.status == 200
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "data-live=" in answer.body
    assert answer.body.endswith("</html>\n")


def test_other_paths_and_other_hosts_get_nothing(followed: tuple[Path, ThreadingHTTPServer]) -> None:
    _, serving = followed
    assert ask(serving, "/../config.yaml").status == 404
    assert ask(serving, "/", Host="elsewhere.example:80").status == 403


def test_a_run_that_is_damaged_on_the_way_is_told_in_words(followed: tuple[Path, ThreadingHTTPServer]) -> None:
    run, serving = followed
    (run / "metrics.jsonl").write_text("{]\n")
    answer = ask(serving, "/main")
    assert answer.status == 503
    assert "line 1: damaged" in answer.body


def test_a_port_in_use_is_told(followed: tuple[Path, ThreadingHTTPServer]) -> None:
    run, serving = followed
    with pytest.raises(UsageError, match=f"Port {serving.server_port} .* cannot be used"):
        server([run], serving.server_port)


def test_a_terminal_shows_an_ended_run_and_leaves(trained: Path) -> None:
    shown = io.StringIO()
    follow(trained, Console(file=shown, force_terminal=True, width=100))
    assert "step 8 of 8, ended" in shown.getvalue()
    assert "validation loss" in shown.getvalue()
    plain = io.StringIO()
    follow(trained, Console(file=plain, width=100))
    assert "tokens a second" in plain.getvalue()


def test_blocks_rise_with_the_values() -> None:
    assert blocks([1.0, 2.0, 3.0, 8.0]) == "\u2581\u2582\u2583\u2588"
    assert blocks([1.0] * 500, columns=10) == "\u2581" * 10
    assert len(blocks([float(n) for n in range(1000)], columns=48)) == 48
