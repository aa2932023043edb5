"""Tests that a failure of the server reveals nothing to the client, and that a request cannot forge log lines."""

import re
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from fabella.errors import StorageError
from fabella.server.http_server import server
from fabella.server.limits import Limits
from tests.server.stubs import TIMEOUT_SECONDS, Gated, InProcess, Response, hashing, listening, served_models

CANARY = "canary-3fa9"
BODY = {"prompt": "Once", "max_tokens": 4}


class FailingModel(Gated):
    """A model whose error message contains what a client must not see."""

    def __init__(self, message: str) -> None:
        super().__init__()
        self.message = message
        self.close()

    def decode(self, tokens: object, state: object) -> object:
        raise RuntimeError(self.message)


def failing_step(app: InProcess) -> Response:
    return app.post("/v1/completions", BODY)


def failing_stream(app: InProcess) -> Response:
    return app.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "stream": True})


def dead_thread(app: InProcess) -> Response:
    app.served.close()
    return app.post("/v1/completions", BODY)


def no_health(app: InProcess) -> Response:
    app.served.close()
    return app.get("/healthz")


def failing_reload(app: InProcess) -> Response:
    def load() -> Any:
        raise StorageError(f"/home/{CANARY}/model.safetensors is torn")

    app.served.models["a"].load = load
    return app.post("/reload", {"model": "a"})


FAILURES: dict[str, tuple[Callable[[InProcess], Response], int]] = {
    "a step": (failing_step, 500), "a stream": (failing_stream, 200), "the end": (dead_thread, 503),
    "health": (no_health, 503), "reloading": (failing_reload, 500),
}  # fmt: skip


@pytest.mark.fault("F27", cases=5)
@pytest.mark.parametrize("way", FAILURES)
def test_a_failure_shows_an_id_and_nothing_about_the_machine(
    way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRET", CANARY)
    fail, status = FAILURES[way]
    with InProcess(served_models(FailingModel(f"/home/{CANARY}/x.py: {CANARY}").generator())) as app:
        response = fail(app)
    assert response.status == status
    body = response.body.decode()
    for leak in (CANARY, "Traceback", "File ", "/home", ".py", "RuntimeError", "torch"):
        assert leak not in body
    assert re.fullmatch("[0-9a-f]{16}", response.headers["x-request-id"])
    if way != "health":
        assert f"request {response.headers['x-request-id']}: " in capsys.readouterr().err


@pytest.mark.fault("F27", cases=1)
def test_an_unexpected_exception_is_a_plain_500(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception without a handler gives a 500 in the usual format, and the server continues."""
    models = served_models(hashing())
    with listening(models) as port:
        monkeypatch.setattr(type(models), "find", lambda *_: [][CANARY])  # pyright: ignore[reportArgumentType]
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models/a", timeout=TIMEOUT_SECONDS)
        response = caught.value
        assert response.code == 500
        assert response.read() == (
            b'{"error":{"message":"Internal server error.","type":"server_error","param":null,"code":null}}'
        )
        assert response.headers["x-request-id"]
        response.close()
        monkeypatch.undo()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models/a", timeout=TIMEOUT_SECONDS) as again:
            assert again.status == 200


HOSTILE_TEXTS = [
    "\r\nrequest 0: forged", "\nforged", "\rforged", "\x1b[2J\x1b]0;title\x07", "\x9b31m", "\x00", "\u2028forged",
    "\u202eforged", "\x0b\x0c\x85", "%0d%0aforged", "\x7f", "\x08\x08\x08",
]  # fmt: skip


@pytest.mark.fault("F24", cases=12 * 4)
def test_requests_cannot_forge_log_lines_and_prompts_are_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    for hostile in HOSTILE_TEXTS:
        prompt = f"a tale of {CANARY}{hostile}"
        with InProcess(served_models(FailingModel(f"failed at {hostile}").generator())) as app:
            printable = prompt.encode("ascii", "replace").decode()
            app.post("/v1/completions", {"prompt": prompt, "max_tokens": 2}, user_agent=printable)
            app.post("/v1/completions", {"prompt": "Once", "model": prompt})
            app.post("/v1/completions", {"prompt": "Once", prompt: 1})
            app.get(f"/v1/models/{prompt}", referer=printable)
    out, err = capsys.readouterr()
    assert out == ""
    assert CANARY not in err
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", err)
    lines = err.splitlines()
    assert len(lines) == len(HOSTILE_TEXTS), "one line for each failure, for any request"
    assert all(re.match("request [0-9a-f]{16}: RuntimeError: failed at ", line) for line in lines)


def test_the_limits_of_a_started_server_hold() -> None:
    """uvicorn must not log requests."""
    assert server(lambda *_: None, Limits()).config.access_log is False  # type: ignore[arg-type,return-value]
