"""Clients that leave, dawdle or crowd: a place is freed within a token, and others do not notice."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from http.client import HTTPResponse
from statistics import median

import pytest

from fabella.server.limits import Limits
from fabella.server.served_models import ServedModels
from tests.server.stubs import (
    PATIENCE,
    SMALL,
    Answer,
    Gated,
    InProcess,
    connect,
    hashing,
    listening,
    sent_within,
    shelf,
)

ENDLESS = {"prompt": "Once", "max_tokens": SMALL.max_tokens}


@pytest.fixture(scope="module")
def house() -> Iterator[tuple[ServedModels, int]]:
    models = shelf(hashing())
    with listening(models) as port:
        yield models, port


def request(body: object, path: str = "/v1/completions") -> bytes:
    sent = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}"
    return head.encode() + b"\r\n\r\n" + sent


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def status_of_whole_answer(connection: socket.socket) -> int:
    """Its body is read too, however many pieces it comes in: another request may follow on the same connection."""
    answer = HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


class Places:
    """Waits until so many texts are told or wait, by looking: whoever waits in vain fails."""

    def __init__(self, models: ServedModels) -> None:
        self._scheduler = models.models["a"].scheduler
        self._look = threading.Event()

    @property
    def tokens(self) -> int:
        """Told since the beginning"""
        return self._scheduler.tokens

    def wait_for(self, texts: int) -> None:
        self._wait(lambda: self._scheduler.running + self._scheduler.waiting == texts)

    def wait_for_tokens(self, more_than: int) -> None:
        """They are never fewer again, so that it is noticed however late this looks."""
        self._wait(lambda: self.tokens > more_than)

    def _wait(self, condition: Callable[[], bool]) -> None:
        for _ in range(int(PATIENCE / 0.005)):
            if condition():
                return
            self._look.wait(0.005)
        texts = f"{self._scheduler.running} running, {self._scheduler.waiting} waiting"
        raise AssertionError(f"{texts}, {self.tokens} tokens after {PATIENCE} s")


@pytest.mark.fault("F10", cases=100)
@pytest.mark.parametrize("way", ["streaming", "whole", "half closed", "before the first piece"])
def test_a_client_that_leaves_frees_its_place_within_a_second(
    house: tuple[ServedModels, int], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a second on a machine that is not held up: most of the times, and always long before its text ends."""
    models, port = house
    places, scheduler, arrived = Places(models), models.models["a"].scheduler, threading.Event()
    submit = scheduler.submit
    monkeypatch.setattr(scheduler, "submit", lambda tickets: (submit(tickets), arrived.set()))
    seconds: list[float] = []
    for _ in range(25):
        before = places.tokens
        arrived.clear()
        with connect(port) as connection:
            connection.sendall(request({**ENDLESS, "stream": way != "whole"}))
            assert arrived.wait(PATIENCE)
            if way == "streaming":
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
            if way != "before the first piece":
                places.wait_for_tokens(before)
            left = time.monotonic()
            if way == "half closed":
                connection.shutdown(socket.SHUT_WR)
                places.wait_for(0)
        places.wait_for(0)
        seconds.append(time.monotonic() - left)
        assert places.tokens - before < SMALL.max_tokens, "it was not cut, but told to its end"
    assert median(seconds) < 1.0


@pytest.mark.parametrize("told", [0, 3])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_is_told_no_more_than_the_token_under_way(
    stream: bool, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, given_up = Gated(), threading.Event()
    models = shelf(model.teller())
    with listening(models) as port, closing(model):
        scheduler, places = models.models["a"].scheduler, Places(models)
        cancel = scheduler.cancel
        monkeypatch.setattr(scheduler, "cancel", lambda tickets: (cancel(tickets), given_up.set()))
        with connect(port) as connection:
            connection.sendall(request({**ENDLESS, "stream": stream}))
            for _ in range(told):
                model.gate.release()
            places.wait_for(1)
            places.wait_for_tokens(told - 1)
        assert given_up.wait(PATIENCE)
        model.gate.release()  # the step that is under way, and no other
        places.wait_for(0)
        assert places.tokens <= told + 1


@pytest.mark.fault("F11", cases=64)
def test_a_crowd_is_served_or_told_to_come_back() -> None:
    model = Gated()
    limits = Limits(max_batch_size=2, max_queue_size=6, max_tokens=5)
    models = shelf(model.teller(), limits=limits)
    with listening(models, limits) as port, ExitStack() as open_ones:
        open_ones.callback(model.close)
        crowd = [open_ones.enter_context(connect(port)) for _ in range(64)]
        for connection in crowd:
            connection.sendall(request({"prompt": "Once"}).replace(b"\r\nHost", b"\r\nConnection: close\r\nHost"))
        Places(models).wait_for(8)
        model.close()
        answers = [read_all(connection) for connection in crowd]
    statuses = [int(answer.split()[1]) for answer in answers]
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) >= 8
    for answer in answers:
        if answer.split()[1] == b"429":
            assert b"\r\nretry-after: " in answer
            assert b'"code":"rate_limit_exceeded"' in answer


@pytest.mark.fault("F13", cases=20)
@pytest.mark.parametrize("stream", [True, False])
def test_a_text_that_takes_too_long_ends_there(stream: bool) -> None:
    model = Gated()
    limits = Limits(max_batch_size=1, max_queue_size=1, generation_timeout_seconds=0.02)
    models = shelf(model.teller(), limits=limits)
    with InProcess(models, limits) as near:
        for _ in range(10):
            answer = near.post("/v1/completions", {"prompt": "Once", "stream": stream})
            assert answer.status == 200
            last = answer.events[-1] if stream else answer.json
            assert last["choices"][0]["finish_reason"] == "length"
            model.gate.release()  # the step that nobody waits for any more
            Places(models).wait_for(0)
        model.close()


@pytest.mark.fault("F9", cases=200)
def test_those_who_never_finish_a_request_are_shown_out() -> None:
    limits = Limits(receive_timeout_seconds=0.3)
    good = request({"prompt": "Once", "max_tokens": 2})
    with listening(shelf(hashing()), limits) as port, ExitStack() as open_ones:
        slow = [open_ones.enter_context(connect(port)) for _ in range(200)]
        for number, connection in enumerate(slow):
            whole = request(ENDLESS)
            with suppress(ConnectionError):  # already shown out
                connection.sendall([b"", b"POST /v1/comp", whole[:60], whole[:-5]][number % 4])
        for _ in range(10):
            with sent_within(limits.receive_timeout_seconds, port, good) as honest:
                assert honest.recv(65536).startswith(b"HTTP/1.1 200 OK")
        for number, connection in enumerate(slow):
            answer = b""
            with suppress(ConnectionError):
                answer = read_all(connection)  # ends: the server has closed it
            assert not answer or (number % 4 == 3 and b" 408 " in answer.split(b"\r\n")[0])


@pytest.mark.fault("F9", cases=1)
def test_a_client_that_does_not_read_is_as_good_as_gone() -> None:
    limits = Limits(receive_timeout_seconds=0.2, max_tokens=SMALL.max_tokens)
    models = shelf(hashing(), limits=limits)

    def deaf(port: int) -> socket.socket:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", port))
        return connection

    asked = request({**ENDLESS, "stream": True, "logprobs": 20})
    with listening(models, limits) as port:
        places = Places(models)
        with sent_within(limits.receive_timeout_seconds, port, asked, deaf):
            places.wait_for_tokens(0)
            places.wait_for(0)
        assert places.tokens < SMALL.max_tokens, "it was not cut, but told to its end"


@pytest.mark.fault("F7", cases=5)
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Content-Length: 1073741824\r\n\r\n", b"413"),
        (b"Content-Length: -5\r\n\r\n", b"400"),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", b"400"),
        (b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08", b"415"),
        (b"X-Large: " + b"x" * 100_000, b"400"),
    ],
    ids=["1 GB", "negative", "two lengths", "gzip", "header"],
)
def test_bodies_and_heads_without_measure(house: tuple[ServedModels, int], head: bytes, status: bytes) -> None:
    _, port = house
    with connect(port) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + head
        )
        assert connection.recv(65536).split()[1] == status


DEAR = {"one letter": "a" * 10**6, "spaces": " " * 10**6, "Chinese": "字" * 10**6, "joined emoji": "👩‍👩‍👧‍👦" * 40_000}


@pytest.mark.fault("F8", cases=4)
@pytest.mark.parametrize("kind", DEAR)
def test_a_prompt_that_takes_long_to_tokenize_holds_nobody_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are answered in the middle of it, and no more of it is read than can be told from."""
    teller = hashing()
    begun, finish = threading.Event(), threading.Event()
    encode, longest = type(teller.tokenizer).encode, list[int]()

    def slow(self: object, text: str) -> object:
        longest.append(len(text.encode()))
        begun.set()
        assert finish.wait(PATIENCE), "nobody else was answered"
        return encode(self, text)  # pyright: ignore[reportArgumentType, reportCallIssue]

    monkeypatch.setattr(type(teller.tokenizer), "encode", slow)
    limits = replace(SMALL, body_bytes=8_000_000)
    with listening(shelf(teller, limits=limits), limits) as port, connect(port) as connection:
        connection.sendall(request({"prompt": DEAR[kind], "max_tokens": 1, "truncate_prompt_tokens": -1}))
        assert begun.wait(PATIENCE)
        for _ in range(20):
            with connect(port) as other:
                other.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert other.recv(65536).startswith(b"HTTP/1.1 200 OK")
        finish.set()
        assert status_of_whole_answer(connection) == 200
        assert longest[0] <= limits.prompt_tokens * 4, "a model of bytes reads one byte a token"
        connection.sendall(request({"prompt": DEAR[kind], "max_tokens": 1}))
        assert status_of_whole_answer(connection) == 400
        assert len(longest) == 1, "too long for any tokenization is refused without trying one"


@pytest.mark.fault("F7", cases=1)
def test_a_body_without_an_end_is_shown_out() -> None:
    limits = Limits(receive_timeout_seconds=0.2, body_bytes=100_000)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with listening(shelf(hashing(), limits=limits), limits) as port, connect(port) as connection:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(OSError, match=r"reset|[Pp]ipe"):
            send_for_ever(connection)


def send_for_ever(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")


@pytest.mark.fault("F14", cases=20)
def test_a_server_that_ends_finishes_what_it_tells() -> None:
    """Ten streams and ten whole answers, more than can be told at once; whoever comes later is turned away."""
    model = Gated()
    limits = replace(SMALL, waiting=20)
    models = shelf(model.teller(), limits=limits)
    with ExitStack() as open_ones:
        with listening(models, limits) as port:
            crowd = [open_ones.enter_context(connect(port)) for _ in range(20)]
            for number, connection in enumerate(crowd):
                connection.sendall(request({"prompt": "Once", "max_tokens": 8, "stream": number % 2 == 0}))
            Places(models).wait_for(20)
            opener = threading.Thread(target=open_once_closed, args=(port, model))
            opener.start()
        answers = [read_all(connection) for connection in crowd]
    opener.join()
    for number, answer in enumerate(answers):
        assert (b"data: [DONE]" if number % 2 == 0 else b'"completion_tokens":8') in answer


def open_once_closed(port: int, model: Gated) -> None:
    """Let texts be told on once nobody new is let in."""
    look = threading.Event()
    for _ in range(int(PATIENCE / 0.005)):
        try:
            connect(port).close()
        except OSError:
            break
        look.wait(0.005)
    model.close()


def test_an_error_in_the_middle_of_a_stream_is_its_last_event(capsys: pytest.CaptureFixture[str]) -> None:
    class Failing(Gated):
        steps = 0

        def decode(self, tokens: object, state: object) -> object:
            self.steps += 1
            if self.steps == 3:
                raise RuntimeError("secret detail\x1b[2J")
            return super().decode(tokens, state)  # pyright: ignore[reportArgumentType]

    model = Failing()
    model.close()
    with InProcess(shelf(model.teller())) as near:
        lines = near.post("/v1/completions", {"prompt": "Once", "stream": True}).body.decode().split("\n\n")
        last = json.loads(lines[-2].removeprefix("data: "))
        assert last == {
            "error": {"message": "The text could not be told.", "type": "server_error", "param": None, "code": None}
        }
        model.steps = 2
        whole: Answer = near.post("/v1/completions", {"prompt": "Once"})
        assert whole.status == 500
        assert b"secret" not in whole.body
        assert near.post("/v1/completions", {"prompt": "Once"}).status == 200
    said = capsys.readouterr().err
    assert f"request {whole.headers['x-request-id']}: RuntimeError: secret detail\\x1b[2J" in said
    assert "\x1b" not in said
