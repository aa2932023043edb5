"""Models that have learned nothing, on a server in this process or on a port of this machine."""

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

from torch import Tensor

from fabella.config.data import Packed
from fabella.generation.generator import TextGenerator
from fabella.server.app import application
from fabella.server.http_server import server
from fabella.server.limits import Limits
from fabella.server.served_models import ServedModel, ServedModels
from fabella.tokenizers.bytes import ByteTokenizer
from fabella.tokenizers.tokenizer import Tokenizer
from tests.generation import tiny_run
from tests.generation.fake_model import Config, Hashing, Parrot

PATIENCE = 20.0
"""Seconds after which a test calls a server hung; nothing that works comes near it."""
ATTEMPTS = 20
"""That many times a client that was held up on the way asks again"""
CONTEXT = 64
SMALL = Limits(max_batch_size=4, max_queue_size=8, body_bytes=200_000, max_tokens=100_000)


def hashing(*, endless: bool = True, end_logit: float = -1e9) -> TextGenerator:
    """Says something else after every prompt, and does not end by itself."""
    config = Config(vocab_size=256, context_length=CONTEXT, endless=endless)
    return _teller(Hashing(config, end=tiny_run.tokenizer().eos_id, end_logit=end_logit), config)


def spelling() -> TextGenerator:
    """Says some other word of ASCII letters after every prompt, and does not end by itself."""
    config = Config(vocab_size=256, context_length=CONTEXT, endless=True)
    model = Hashing(config)
    model.table[:, [token for token in range(256) if not (chr(token) == " " or chr(token) in ascii_lowercase)]] = -1e9
    return _teller(model, config)


def saying(text: str | bytes, *, prompt: int) -> TextGenerator:
    """Says this after a prompt of so many tokens, whatever it is, and ends."""
    config = Config(vocab_size=256, context_length=2**14)  # no window is left behind, where it would begin anew
    spoken = text.encode() if isinstance(text, str) else text
    return _teller(Parrot(config, [*spoken, tiny_run.tokenizer().eos_id], prompt=prompt + 1), config)


class Words(ByteTokenizer):
    """Bytes, and an id for each of some words, which need not be text."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self.words = words
        self.vocab_size = ByteTokenizer.vocab_size + len(words)

    def token_bytes(self, token: int) -> bytes:
        first = ByteTokenizer.vocab_size
        return super().token_bytes(token) if token < first else self.words[token - first]


def saying_words(words: Sequence[bytes]) -> tuple[TextGenerator, Callable[[Sequence[int]], None]]:
    """Says words by their numbers after a prompt of two bytes, and ends; which ones is set by what comes with it."""
    tokenizer = Words(words)
    config = Config(vocab_size=tokenizer.vocab_size, context_length=64)
    model = Parrot(config, [tokenizer.eos_id], prompt=3)

    def say(numbers: Sequence[int]) -> None:
        model.says = [*(ByteTokenizer.vocab_size + number for number in numbers), tokenizer.eos_id]

    return _teller(model, config, tokenizer), say


def _teller(model: Any, config: Config, tokenizer: Tokenizer | None = None) -> TextGenerator:
    windows = Packed(length=config.context_length, stride=config.context_length)
    return TextGenerator(model, tokenizer or tiny_run.tokenizer(), config=config, windows=windows, engine="torch")


class Gated(Hashing):
    """Waits before each step until it is let through; ``close`` lets everything through."""

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

    def teller(self) -> TextGenerator:
        return _teller(self, self.config)  # pyright: ignore[reportArgumentType]


def shelf(*tellers: TextGenerator, limits: Limits = SMALL) -> ServedModels:
    """Models a, b, c …"""
    return ServedModels([ServedModel(name, teller, limits) for name, teller in zip("abcdef", tellers, strict=False)])


@dataclass
class Answer:
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
        """What a stream sent, without its last event, which must be [DONE]."""
        lines = self.body.decode().split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


@dataclass
class InProcess:
    """The application without a port: a request is a function call."""

    shelf: ServedModels
    limits: Limits = SMALL
    key: str = ""
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def __enter__(self) -> "InProcess":
        self.app = application(self.shelf, self.limits, key=self.key)
        self.shelf.open(self.runner.get_loop())
        return self

    def __exit__(self, *_: object) -> None:
        self.shelf.close()
        self.runner.close()

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", path, sent, **{"content_type": "application/json", **headers})

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, b"", **headers)

    def ask(self, method: str, path: str, body: bytes, **headers: str) -> Answer:
        named = {"host": "localhost:8000", **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.runner.run(asyncio.wait_for(self._ask(method, path, body, named), PATIENCE))

    async def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
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
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))


@contextmanager
def listening(shelf: ServedModels, limits: Limits = SMALL, *, key: str = "") -> Iterator[int]:
    """The application on a free port of this machine, which is given."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = server(application(shelf, limits, key=key), limits)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [taken]})
        thread.start()
        try:
            with sent_within(
                limits.receive_timeout_seconds, port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            ) as first:
                assert first.recv(65536).startswith(b"HTTP/1.1 200 OK")
            yield port  # from the first answer on, its models tell
        finally:
            running.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive(), "the server does not end"


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def sent_within(
    seconds: float, port: int, sent: bytes, opened: Callable[[int], socket.socket] = connect
) -> socket.socket:
    """A connection over which this was sent before the server's patience ended: it must be answered.

    Whoever is held up for longer by a busy machine may be shown out, and asks again.
    """
    for _ in range(ATTEMPTS):
        came = time.monotonic()  # the server counts from when it takes the connection, which is later
        connection = opened(port)
        with suppress(ConnectionError):
            connection.sendall(sent)
        if time.monotonic() - came < seconds:
            return connection
        connection.close()
    raise AssertionError(f"{ATTEMPTS} times nothing could be sent within {seconds} s")


def until(condition: Callable[[], bool], steps: Callable[[], object]) -> int:
    """Do ``steps`` until the condition holds; how often."""
    for count in range(10_000):
        if condition():
            return count
        steps()
    raise AssertionError("the condition never held")


def texts(events: Sequence[Any]) -> dict[int, str]:
    """The text of each choice of a stream, of either shape."""
    found: dict[int, str] = {}
    for event in events:
        for choice in event["choices"]:
            piece = choice["text"] if "text" in choice else choice["delta"].get("content", "")
            found[choice["index"]] = found.get(choice["index"], "") + piece
    return found
