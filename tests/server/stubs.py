"""Untrained models, served in this process or on a local port, for the server tests."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Any

from starlette.types import ASGIApp
from torch import Tensor

from fabella.config.data import Packed
from fabella.generation.generator import TextGenerator
from fabella.server.access import Access
from fabella.server.app import application
from fabella.server.http_server import server
from fabella.server.limits import Limits
from fabella.server.served_models import ServedModel, ServedModels
from fabella.tokenizers.bytes import ByteTokenizer
from fabella.tokenizers.tokenizer import Tokenizer
from tests.generation import tiny_run
from tests.generation.fake_model import Config, Hashing, Parrot

TIMEOUT_SECONDS = 20.0
"""Seconds after which a test considers a server hung; far more than any working case needs."""
ATTEMPTS = 20
"""Maximum number of attempts of a client that a busy machine delays."""
CONTEXT = 64
SMALL = Limits(max_batch_size=4, max_queue_size=8, body_bytes=200_000, max_tokens=100_000)


def hashing(*, endless: bool = True, end_logit: float = -1e9) -> TextGenerator:
    """Return a model with a different completion for every prompt, and without EOS."""
    config = Config(vocab_size=256, context_length=CONTEXT, endless=endless)
    return _generator(Hashing(config, end=tiny_run.tokenizer().eos_id, end_logit=end_logit), config)


def spelling() -> TextGenerator:
    """Return a model with different completions of ASCII letters and spaces, and without EOS."""
    config = Config(vocab_size=256, context_length=CONTEXT, endless=True)
    model = Hashing(config)
    model.table[:, [token for token in range(256) if not (chr(token) == " " or chr(token) in ascii_lowercase)]] = -1e9
    model.table[:, ord(" ")] += 3.0  # words of a few letters
    return _generator(model, config)


def saying(text: str | bytes, *, prompt: int) -> TextGenerator:
    """Return a model that generates ``text`` and EOS after any prompt of ``prompt`` tokens."""
    config = Config(vocab_size=256, context_length=2**14)  # no context shift, after which it would start again
    output = text.encode() if isinstance(text, str) else text
    return _generator(Parrot(config, [*output, tiny_run.tokenizer().eos_id], prompt=prompt + 1), config)


class Words(ByteTokenizer):
    """Byte tokenizer with additional tokens, which need not be valid UTF-8."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self.words = words
        self.vocab_size = ByteTokenizer.vocab_size + len(words)

    def token_bytes(self, token: int) -> bytes:
        first = ByteTokenizer.vocab_size
        return super().token_bytes(token) if token < first else self.words[token - first]


def saying_words(words: Sequence[bytes]) -> tuple[TextGenerator, Callable[[Sequence[int]], None]]:
    """Return a model that generates words and EOS after a prompt of two bytes, and a function that sets the words."""
    tokenizer = Words(words)
    config = Config(vocab_size=tokenizer.vocab_size, context_length=64)
    model = Parrot(config, [tokenizer.eos_id], prompt=3)

    def say(numbers: Sequence[int]) -> None:
        model.output = [*(ByteTokenizer.vocab_size + number for number in numbers), tokenizer.eos_id]

    return _generator(model, config, tokenizer), say


def _generator(model: Any, config: Config, tokenizer: Tokenizer | None = None) -> TextGenerator:
    windows = Packed(length=config.context_length, stride=config.context_length)
    return TextGenerator(model, tokenizer or tiny_run.tokenizer(), config=config, sequences=windows, engine="torch")


class Gated(Hashing):
    """Model that waits before each step until ``gate`` is released; ``close`` releases it for good."""

    def __init__(self) -> None:
        super().__init__(
            Config(vocab_size=256, context_length=CONTEXT, endless=True),
            end=tiny_run.tokenizer().eos_id,
            end_logit=-1e9,
        )
        self.gate, self.open = threading.Semaphore(0), False

    def decode(self, tokens: Tensor, state: Any) -> Any:
        if not self.open:
            self.gate.acquire()
        return super().decode(tokens, state)

    def close(self) -> None:
        self.open = True
        self.gate.release(1000)

    def generator(self) -> TextGenerator:
        return _generator(self, self.config)  # pyright: ignore[reportArgumentType]


def served_models(*generators: TextGenerator, limits: Limits = SMALL) -> ServedModels:
    """Return models named a, b, c …"""
    return ServedModels(
        [ServedModel(name, generator, limits) for name, generator in zip("abcdef", generators, strict=False)]
    )


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """Events of a stream without the last one, which must be [DONE]."""
        lines = self.body.decode().split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


@dataclass
class InProcess:
    """The application without a port: a request is a function call."""

    served: ServedModels
    limits: Limits = SMALL
    key: str = ""
    origins: tuple[str, ...] = ()
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def __enter__(self) -> "InProcess":
        self.app = application(self.served, self.limits, Access(origins=self.origins, key=self.key))
        self.served.open(self.runner.get_loop())
        return self

    def __exit__(self, *_: object) -> None:
        self.served.close()
        self.runner.close()

    def post(self, path: str, body: Any, **headers: str) -> Response:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, sent, **{"content_type": "application/json", **headers})

    def get(self, path: str, **headers: str) -> Response:
        return self.request("GET", path, b"", **headers)

    def request(self, method: str, path: str, body: bytes, **headers: str) -> Response:
        all_headers = {"host": "localhost:8000", **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.runner.run(asyncio.wait_for(self._request(method, path, body, all_headers), TIMEOUT_SECONDS))

    async def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Response:
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(),
            "query_string": b"", "root_path": "", "scheme": "http", "server": ("localhost", 8000),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()], "state": {},
        }  # fmt: skip
        messages: Iterator[dict[str, Any]] = iter([{"type": "http.request", "body": body, "more_body": False}])
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            message = next(messages, None)
            return message if message else await asyncio.get_running_loop().create_future()

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)  # pyright: ignore[reportArgumentType]
        received = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Response(sent[0]["status"], received, b"".join(message.get("body", b"") for message in sent[1:]))


@contextmanager
def listening(
    served: ServedModels, limits: Limits = SMALL, *, key: str = "", wrap: Callable[[ASGIApp], ASGIApp] = lambda app: app
) -> Iterator[int]:
    """Serve the application, in a ``wrap`` of middleware, on a free local port, which is yielded."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        running = server(wrap(application(served, limits, Access(key=key))), limits)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with sent_within(
                limits.receive_timeout_seconds, port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            ) as first:
                assert first.recv(65536).startswith(b"HTTP/1.1 200 OK")
            yield port  # after the first response, its schedulers run
        finally:
            running.should_exit = True
            thread.join(TIMEOUT_SECONDS)
            assert not thread.is_alive(), "the server does not stop"


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)


def sent_within(
    seconds: float, port: int, sent: bytes, opened: Callable[[int], socket.socket] = connect
) -> socket.socket:
    """Return a connection over which everything was sent within the server's timeout, so that it must respond.

    The server may close connections that a busy machine delays for longer; they are tried again.
    """
    for _ in range(ATTEMPTS):
        start = time.monotonic()  # the server counts from accepting the connection, which is later
        connection = opened(port)
        with suppress(ConnectionError):
            connection.sendall(sent)
        if time.monotonic() - start < seconds:
            return connection
        connection.close()
    raise AssertionError(f"{ATTEMPTS} attempts to send within {seconds} s failed")


def until(condition: Callable[[], bool], steps: Callable[[], object]) -> int:
    """Call ``steps`` until the condition holds; return the number of calls."""
    for count in range(10_000):
        if condition():
            return count
        steps()
    raise AssertionError("the condition never held")


def texts(events: Sequence[Any]) -> dict[int, str]:
    """Return the text of each choice of a stream, of either format."""
    joined: dict[int, str] = {}
    for event in events:
        for choice in event["choices"]:
            piece = choice["text"] if "text" in choice else choice["delta"].get("content", "")
            joined[choice["index"]] = joined.get(choice["index"], "") + piece
    return joined
