"""Tests that thousands of hostile requests, over every route, are refused with an error and never make the server fail.

Hypothesis generates them from a table of fields. Schemathesis would bring a dozen packages, and needs a published
schema of the API, which Fabella does not have.
"""

import json
import math
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fabella.generation.generator import TextGenerator
from fabella.server.app import PAGE
from fabella.server.limits import Limits
from tests.server.stubs import TIMEOUT_SECONDS, InProcess, Response, hashing, listening, sent_within, served_models

LIMITS = Limits(max_batch_size=4, max_queue_size=32, max_tokens=8, body_bytes=20_000)
"""Small limits: the tests are about accepted requests, not about completions."""
ROUTES = [*PAGE, "/healthz", "/metrics", "/v1/models", "/v1/models/a", "/reload",
          "/v1/completions", "/v1/chat/completions"]  # fmt: skip
COMPLETION_ROUTES = ROUTES[-2:]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]
EXPECTED = {200, 400, 401, 403, 404, 405, 408, 409, 413, 415, 429}

text = st.text(max_size=40) | st.sampled_from(
    ["", "\0", "a\0b", "\ud800", "\udfff x", "a" * 5000, "é" * 900, "🐉" * 90, "\r\n", "<script>", "../../etc/passwd",
     "%00", "<|endoftext|>", "\x1b[2J", "None", "null", "' OR 1=1", "{{7*7}}", "${jndi:x}", "\u202e", "\ufeff"]
)  # fmt: skip
number = (
    st.integers() | st.floats() | st.sampled_from([0, -1, 2**31, 2**53 + 1, -(2**63), 2**63, 2**64, 10**40, 10**400,
                                                   1e308, -1e308, 5e-324, -0.0, math.inf, -math.inf, math.nan])
)  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | number | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
)
message = st.fixed_dictionaries(
    {}, optional={"role": st.sampled_from(["user", "system", "assistant", "tool", ""]) | anything,
                  "content": text | st.lists(anything, max_size=3) | anything, "name": anything, "more": anything}
)  # fmt: skip
# Valid and nearly valid values of each field; any field may also get a hostile value.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "model": st.sampled_from(["a", "", "b", "a/../a"]),
    "prompt": text | st.lists(st.integers(-2, 300), max_size=70),
    "messages": st.lists(message, max_size=4),
    "max_tokens": st.integers(-1, 9),
    "max_completion_tokens": st.integers(0, 9),
    "n": st.integers(0, 6),
    "stream": st.booleans(),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(-1, 9),
    "min_p": st.floats(0, 1),
    "repetition_penalty": st.floats(0, 3),
    "stop": text | st.lists(text, max_size=6),
    "seed": st.integers(),
    "logprobs": st.integers(0, 25) | st.booleans(),
    "top_logprobs": st.integers(-1, 25),
    "truncate_prompt_tokens": st.integers(-2, 9000),
    "stream_options": st.dictionaries(st.sampled_from(["include_usage", "x"]), anything, max_size=2),
    "echo": st.booleans(),
    "suffix": text,
    "best_of": st.integers(0, 3),
    "user": text,
    "tools": st.lists(anything, max_size=1),
    "logit_bias": st.dictionaries(text, number, max_size=3),
    "response_format": anything,
    "frequency_penalty": number,
}
fields = st.fixed_dictionaries({}, optional={name: good | anything for name, good in FIELDS.items()})
bodies = st.one_of(
    fields.map(lambda body: json.dumps(body).encode()),
    fields.map(lambda body: json.dumps({"prompt": "O", "max_tokens": 2, **body}).encode()),
    anything.map(lambda body: json.dumps(body).encode()),
    st.tuples(fields, st.integers(0, 400), st.binary(min_size=1, max_size=4)).map(lambda parts: _damaged(*parts)),
    st.binary(max_size=80),
    st.integers(1, 30_000).map(lambda depth: b'{"a":' * depth),
    st.integers(1, 9000).map(lambda depth: b'{"prompt":' + b"[" * depth + b"]" * depth + b"}"),
    st.integers(1, 19_000).map(lambda digits: b'{"seed":' + b"9" * digits + b"}"),
)
headers = st.fixed_dictionaries(
    {}, optional={name: st.text(st.characters(max_codepoint=255), max_size=30) for name in
                  ("content_type", "content_encoding", "authorization", "origin", "host", "accept", "range", "cookie",
                   "x_forwarded_for", "transfer_encoding", "expect", "referer")}
)  # fmt: skip
paths = (st.sampled_from(ROUTES) | st.tuples(st.sampled_from(ROUTES), text).map("/".join) | text.map("/".__add__)).map(
    lambda path: path.encode("utf-8", "replace").decode()
)  # a decoded request path never has a surrogate


def _damaged(body: dict[str, Any], position: int, damage: bytes) -> bytes:
    data = json.dumps(body).encode()
    return data[:position] + damage + data[position:]


class FuzzedServer:
    """Checks and counts responses, and sends a valid request after every hundred."""

    def __init__(self, app: InProcess) -> None:
        self.app, self.count = app, 0
        self.expected = self._good()

    def _good(self) -> Any:
        response = self.app.post("/v1/completions", {"prompt": "Once", "max_tokens": 6, "seed": 1})
        assert response.status == 200
        return response.json["choices"]

    def check(self, response: Response, method: str) -> None:
        """Check that the response is an error in the usual format or a success, and shows no traceback."""
        assert response.status in EXPECTED, (response.status, response.body[:500])
        if response.status >= 400 and method != "HEAD":
            assert set(response.error) == {"message", "type", "param", "code"}
            assert len(response.body) < 2000
        assert b"Traceback" not in response.body
        self.count += 1
        if self.count % 100 == 0:
            assert self._good() == self.expected
            assert self.app.get("/healthz").status == 200


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[FuzzedServer]:
    generator: TextGenerator = hashing()
    with InProcess(served_models(generator, limits=LIMITS), LIMITS) as app:
        server = FuzzedServer(app)
        yield server
        scheduler = app.served.models["a"].scheduler
        assert (scheduler.running, scheduler.waiting) == (0, 0), "every row of the batch is free again"


def fuzz(cases: int) -> Any:
    """Return hypothesis settings with ``cases`` examples and all health checks off."""
    return settings(
        max_examples=cases, phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck)
    )  # fmt: skip


def send(fuzzed: FuzzedServer, method: str, path: str, body: bytes, more: dict[str, str]) -> None:
    usual = {"content_type": "application/json"}
    fuzzed.check(fuzzed.app.request(method, path, body, **{**usual, **more}), method)


@pytest.mark.fault("F1", cases=200)
@fuzz(200)
@given(path=st.sampled_from(COMPLETION_ROUTES), body=bodies)
def test_hostile_bodies_are_refused_or_get_a_response(fuzzed: FuzzedServer, path: str, body: bytes) -> None:
    send(fuzzed, "POST", path, body, {})


@pytest.mark.fault("F1", cases=100)
@fuzz(100)
@given(method=st.sampled_from(METHODS), path=paths, body=bodies, more=headers)
def test_every_route_and_method_survives_any_request(
    fuzzed: FuzzedServer, method: str, path: str, body: bytes, more: dict[str, str]
) -> None:
    send(fuzzed, method, path, body, more)


@pytest.mark.faults
@pytest.mark.fault("F1", cases=3500)
@fuzz(3500)
@given(path=st.sampled_from(COMPLETION_ROUTES), body=bodies)
def test_thousands_of_hostile_bodies(fuzzed: FuzzedServer, path: str, body: bytes) -> None:
    send(fuzzed, "POST", path, body, {})


@pytest.mark.faults
@pytest.mark.fault("F1", cases=1500)
@fuzz(1500)
@given(method=st.sampled_from(METHODS), path=paths, body=bodies, more=headers)
def test_thousands_of_hostile_requests_everywhere(
    fuzzed: FuzzedServer, method: str, path: str, body: bytes, more: dict[str, str]
) -> None:
    send(fuzzed, method, path, body, more)


# ---------------------------------------------------------------- by hand, over a socket

HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\n" + HOST + JSON
INVALID_REQUESTS = {
    "nothing": b"\r\n\r\n",
    "noise": bytes(range(256)) * 4,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9": b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\n" + HOST * 2 + b"\r\n",
    "NUL in path": b"GET /\x00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in header": b"GET / HTTP/1.1\r\nX: \x00\r\n" + HOST + b"\r\n",
    "line in header": b"GET / HTTP/1.1\r\nX: a\n b\r\n" + HOST + b"\r\n",
    "folded": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n  b\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "long line": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n",
    "long header": b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 9000,
    "absolute": b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "connect": b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length not a number": POST + b"Content-Length: two\r\n\r\n{}",
    "huge length": POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    "minus": POST + b"Content-Length: -1\r\n\r\n{}",
    "plus": POST + b"Content-Length: +2\r\n\r\n{}",
    "both": POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
    "chunk with invalid size": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "huge chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 60 + b"\r\n",
    "chunk extension": POST + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"a" * 70_000,
    "gzip": POST + b"Transfer-Encoding: gzip\r\n\r\n\x1f\x8b",
    "expect": POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    "upgrade": b"GET / HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "h2c": b"GET / HTTP/1.1\r\n"
    + HOST
    + b"Upgrade: h2c\r\nHTTP2-Settings: AAAA\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n",
    "ranges": b"GET /page/story.js HTTP/1.1\r\n"
    + HOST
    + b"Range: bytes="
    + b",".join(b"%d-" % i for i in range(3000))
    + b"\r\n\r\n",
    "no end": POST + b"Content-Length: 100\r\n\r\n{",
    "bare CR": b"GET / HTTP/1.1\rHost: localhost\r\r",
    "bad escape": b"GET /%zz%u0000 HTTP/1.1\r\n" + HOST + b"\r\n",
    "query": b"GET /?" + b"a=b&" * 5000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "fragment": b"GET /#x HTTP/1.1\r\n" + HOST + b"\r\n",
    "lower": b"get / http/1.1\r\n" + HOST + b"\r\n",
    "pipelined": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n") * 50,
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with listening(served_models(hashing(), limits=LIMITS), LIMITS) as found:
        yield found


def connect(port: int, sent: bytes) -> socket.socket:
    """Open a connection and send as much of ``sent`` as the server accepts."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)
    with suppress(ConnectionResetError, BrokenPipeError):
        connection.sendall(sent)
    return connection


def status_codes(connection: socket.socket) -> list[int]:
    """Return the status code of each response until the server closes the connection."""
    received = b""
    with connection, suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return [int(line.split()[1]) for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


@pytest.mark.fault("F1", cases=len(INVALID_REQUESTS))
def test_invalid_requests_are_refused_or_disconnected() -> None:
    limits = Limits(max_tokens=8, receive_timeout_seconds=0.5)
    valid_request = b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    with listening(served_models(hashing(), limits=limits), limits) as port, ExitStack() as stack:
        connections = {name: stack.enter_context(connect(port, sent)) for name, sent in INVALID_REQUESTS.items()}
        assert status_codes(sent_within(limits.receive_timeout_seconds, port, valid_request)) == [200]
        for name, connection in connections.items():
            assert {status // 100 for status in status_codes(connection)} <= {1, 2, 4}, name


STEPS = ["..", "%2e%2e", "%2E%2e", ".%2e", "..%2f", "%2e%2e%2f", "..%5c", "..\\", "%252e%252e", "..%00", "....//",
         "..;", "%c0%ae%c0%ae", "%uff0e%uff0e", "..%01"]  # fmt: skip


@pytest.mark.fault("F20", cases=30)
@pytest.mark.parametrize("base", ["/page/", "/"])
@pytest.mark.parametrize("step", STEPS)
def test_no_path_escapes_the_page_folder(port: int, base: str, step: str) -> None:
    for name in ("app.py", "etc/passwd"):
        path = f"{base}{'/'.join([step] * 4)}/{name}".encode()
        sent = b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
        assert status_codes(connect(port, sent)) == [404]
