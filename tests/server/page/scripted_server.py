"""Serves the story page with a fake API, whose status, body and early ends a test chooses."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from fabella.server.app import PAGE

MODEL: dict[str, Any] = {"id": "a", "fabella": {"parameters": 1000, "step": 5, "prompt_tokens": 31, "max_tokens": 70}}
MODELS = "/v1/models"
COMPLETIONS = "/v1/completions"
TIMEOUT_SECONDS = 60.0


@dataclass
class Answer:
    """An answer of the API. ``events`` are sent as a stream.

    Without ``end``, the connection breaks after them as soon as the test sets ``ScriptedServer.lost``.
    """

    status: int = 200
    body: str = ""
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    events: tuple[str, ...] = ()
    end: bool = True


def models(*entries: Mapping[str, Any]) -> Answer:
    return Answer(body=json.dumps({"object": "list", "data": list(entries)}))


def refused(message: str, status: int = 400, code: str | None = None, **headers: str) -> Answer:
    return Answer(status, json.dumps({"error": {"message": message, "code": code}}), headers=headers)


def html(status: int) -> Answer:
    return Answer(status, f"<html><h1>{status} Bad Gateway</h1></html>", "text/html")


def tokens(*texts: str, reason: str | None = "stop", end: bool = True) -> Answer:
    """Return a stream of tokens, each with probability 0.5 and two alternatives."""
    made: list[str] = []
    for index, text in enumerate(texts):
        last = index == len(texts) - 1
        top = {text: -0.6931, " other": -1.4, "<|endoftext|>": -9.5}
        number = len(text and "1")  # the end of the text is no token
        logprobs = {"tokens": [text] * number, "token_logprobs": [-0.6931] * number, "text_offset": [0] * number,
                    "top_logprobs": [top] * number}  # fmt: skip
        made.append(json.dumps({"choices": [{"text": text, "logprobs": logprobs,
                                             "finish_reason": reason if last else None}]}))  # fmt: skip
    return Answer(events=(*made, *(["[DONE]"] if end else [])), end=end)


class ScriptedServer(ThreadingHTTPServer):
    """``answers``: path → function from the parsed body to an answer. ``received``: path, body, headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Callable[[Any], Answer]] = {MODELS: lambda _: models(MODEL)}
        self.lost = threading.Event()
        self.received: list[tuple[str, Any, Mapping[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def completes(self, *answers: Answer) -> None:
        """Answer generations in this order, the last one for ever; scoring of the beginning is not offered."""
        left = list(answers)

        def answer(body: Any) -> Answer:
            if body.get("echo"):
                return refused("echo is not supported; leave it out.", code="unsupported_parameter")
            return left.pop(0) if len(left) > 1 else left[0]

        self.answers[COMPLETIONS] = answer


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        if self.path in PAGE:
            name, kind = PAGE[self.path]
            content = (resources.files("fabella.server") / "page" / name).read_text("utf-8")
            return self._send(Answer(body=content, kind=kind))
        return self._respond(None)

    def do_POST(self) -> None:
        self._respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _respond(self, body: Any) -> None:
        self.server.received.append((self.path, body, dict(self.headers)))
        known = self.server.answers.get(self.path)
        self._send(known(body) if known else Answer(404, "nothing", "text/plain"))

    def _send(self, answer: Answer) -> None:
        kind = "text/event-stream" if answer.events else answer.kind
        content = "".join(f"data: {event}\n\n" for event in answer.events).encode() or answer.body.encode()
        self.send_response(answer.status)
        for name, value in {"Content-Type": kind, "Cache-Control": "no-store", **answer.headers}.items():
            self.send_header(name, value)
        # A length that is not reached is a connection that breaks.
        self.send_header("Content-Length", str(len(content) + (0 if answer.end else 1)))
        self.end_headers()
        self.wfile.write(content)
        if not answer.end:
            assert self.server.lost.wait(TIMEOUT_SECONDS)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
        """Print nothing."""


@contextmanager
def scripted() -> Iterator[ScriptedServer]:
    """Run a scripted server on a free local port."""
    with ScriptedServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()
