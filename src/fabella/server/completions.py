"""One request for text, from its body to the last piece: a plain ASGI application, since it must notice who leaves."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.types import Message, Receive, Scope, Send

from fabella.generation.continuous_batching import SequenceRequest
from fabella.server.api_error import ApiError, report
from fabella.server.delta_stream import ActiveCompletion, Delta
from fabella.server.json_fields import parse
from fabella.server.limits import Limits
from fabella.server.metrics import Metrics
from fabella.server.rate_limit import RateLimiter
from fabella.server.requests import CompletionRequest
from fabella.server.responses import CompletionChoice, ResponseFormat, usage
from fabella.server.scheduler import ClosedError, Job, QueueFullError
from fabella.server.served_models import ServedModel, ServedModels

_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
_JSON = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]


class ClientDisconnected(Exception):
    """The client went away; there is nobody to answer."""


@dataclass
class ResponseStream:
    """The texts of one request and what is heard of them, in the order in which it is told."""

    tickets: list[Job]
    news: "asyncio.Queue[tuple[int, Delta | BaseException]]"
    prompt_tokens: int
    begun: bool = False
    """Whether anything was heard"""

    @property
    def told_tokens(self) -> int:
        """Of all texts together."""
        return sum(ticket.told.tokens for ticket in self.tickets)

    async def pieces(self, until: float) -> AsyncIterator[list[tuple[int, Delta]]]:
        """Every piece with the number of its text, those together that have come by then, until all texts have ended or
        time is over (see ``Limits``)."""
        open_texts = set(range(len(self.tickets)))
        while open_texts:
            try:
                async with asyncio.timeout_at(until):
                    heard = [await self.news.get()]
            except TimeoutError:
                yield [(index, self.tickets[index].told.truncate()) for index in sorted(open_texts)]
                return
            while not self.news.empty():  # whoever is slow hears more at a time
                heard.append(self.news.get_nowait())
            told = [(index, piece) for index, piece in heard if isinstance(piece, Delta)]
            open_texts.difference_update(index for index, piece in told if piece.ended_by)
            if ready := [(index, piece) for index, piece in told if piece.text or piece.tokens or piece.ended_by]:
                yield ready
            for _, failure in heard:
                if isinstance(failure, ClosedError):
                    raise ApiError("The server is ending.", status=503)
                if isinstance(failure, BaseException):
                    raise ApiError("The text could not be told.", status=500) from failure


class CompletionEndpoint:
    """Answers requests for text. What a request is, ``read`` says; how it is answered, ``shape``."""

    def __init__(
        self, shelf: ServedModels, metrics: Metrics, limits: Limits, rate: RateLimiter, *,
        read: Callable[[dict[str, Any], Limits], CompletionRequest], shape: type[ResponseFormat],
    ) -> None:  # fmt: skip
        self._shelf, self._metrics, self._limits, self._rate = shelf, metrics, limits, rate
        self._read, self._shape = read, shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises Refusal while nothing has been sent."""
        wait = self._rate.take(str((scope.get("client") or ("",))[0]))
        if wait:
            message = f"More than {self._limits.requests_per_minute:g} requests a minute. Try again in {wait} seconds."
            raise ApiError(message, status=429, code="rate_limit_exceeded", retry_after=wait)
        body = await body_of(scope, receive, self._limits)
        with suppress(ClientDisconnected):
            await self.cancel_on_disconnect(receive, self._answer(body, send))

    async def cancel_on_disconnect(self, receive: Receive, answering: Any) -> None:
        """Give up answering as soon as the client has left, whether it streams or not."""
        answer, left = asyncio.ensure_future(answering), asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait([answer, left], return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                await answer
            else:
                self._metrics.disconnects += 1
        finally:
            for task in (answer, left):
                task.cancel()
            await asyncio.gather(answer, left, return_exceptions=True)

    async def _answer(self, body: bytes, send: Send) -> None:
        began = time.monotonic()
        asked = self._read(await asyncio.to_thread(parse, body), self._limits)
        model, ids = await self._encoded(asked)
        shape = self._shape(
            model.name, _fingerprint(model), model.teller.tokenizer, log_probabilities=asked.log_probabilities
        )
        hearing = self._submit(model, asked, ids)
        self._metrics.prompt_tokens += hearing.prompt_tokens
        try:
            if asked.stream:
                await self._stream(hearing, shape, send, began, asked.include_usage)
            else:
                await self._whole(hearing, shape, send, began)
        finally:
            model.scheduler.cancel(hearing.tickets)
            self._metrics.answer.add(time.monotonic() - began)

    async def _encoded(self, asked: CompletionRequest) -> tuple[ServedModel, list[NDArray[np.int32]]]:
        """The model that is asked, and what it reads; long prompts take a while, and meanwhile others are answered."""
        while True:
            model = self._shelf.find(asked.model)
            ids = await asyncio.to_thread(_ids, model, asked)
            if self._shelf.find(asked.model) is model:  # and no newer checkpoint has taken its place meanwhile
                return model, ids

    def _submit(self, model: ServedModel, asked: CompletionRequest, ids: Sequence[Any]) -> ResponseStream:
        news: asyncio.Queue[tuple[int, Delta | BaseException]] = asyncio.Queue()

        def ticket(index: int) -> Job:
            request = SequenceRequest(
                ids=ids[index // asked.n], sampling=asked.sampling, row=index % asked.n, opening=1,
                log_probabilities=asked.log_probabilities, alternatives=asked.alternatives,
            )  # fmt: skip
            told = ActiveCompletion(model.teller.tokenizer, stops=asked.stops, max_tokens=asked.max_tokens)
            return Job(request, told, lambda heard: news.put_nowait((index, heard)))

        tickets = [ticket(index) for index in range(len(ids) * asked.n)]
        try:
            model.scheduler.submit(tickets)
        except QueueFullError as full:
            message = "Too many texts are being told. Try again later."
            raise ApiError(message, status=429, code="rate_limit_exceeded", retry_after=full.seconds) from None
        except ClosedError:
            raise ApiError("The server is ending.", status=503) from None
        return ResponseStream(tickets, news, sum(len(one) - 1 for one in ids))

    async def _whole(self, hearing: ResponseStream, shape: ResponseFormat, send: Send, began: float) -> None:
        choices = [CompletionChoice() for _ in hearing.tickets]
        async for pieces in hearing.pieces(self._until()):
            self._first(hearing, began)
            for index, piece in pieces:
                choices[index].add(piece)
        body = _json(shape.answer(choices, usage(hearing.prompt_tokens, hearing.told_tokens)))
        await send({"type": "http.response.start", "status": 200, "headers": _JSON + _length(body)})
        await self._send(send, {"type": "http.response.body", "body": body})

    async def _stream(
        self, hearing: ResponseStream, shape: ResponseFormat, send: Send, began: float, include_usage: bool
    ) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM})
        opening = [shape.first_chunk(index) for index in range(len(hearing.tickets))]
        await self._events(send, [chunk for chunk in opening if chunk])
        try:
            async for pieces in hearing.pieces(self._until()):
                self._first(hearing, began)
                await self._events(send, [shape.piece(index, piece) for index, piece in pieces])
        except ApiError as refusal:  # the answer has begun: the error is its last event
            report(refusal)
            await self._events(send, [refusal.body()])
            await self._send(send, {"type": "http.response.body"})
            return
        if include_usage:
            await self._events(send, [shape.usage(usage(hearing.prompt_tokens, hearing.told_tokens))])
        await self._send(send, {"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self._limits.generation_timeout_seconds

    def _first(self, hearing: ResponseStream, began: float) -> None:
        if not hearing.begun:
            hearing.begun = True
            self._metrics.first_piece.add(time.monotonic() - began)

    async def _events(self, send: Send, chunks: Sequence[dict[str, Any]]) -> None:
        if chunks:
            body = b"".join(b"data: " + _json(chunk) + b"\n\n" for chunk in chunks)
            await self._send(send, {"type": "http.response.body", "body": body, "more_body": True})

    async def _send(self, send: Send, message: Message) -> None:
        """A client that does not read is as good as gone."""
        try:
            async with asyncio.timeout(self._limits.receive_timeout_seconds):
                await send(message)
        except TimeoutError:
            self._metrics.disconnects += 1
            raise ClientDisconnected from None


def _ids(model: ServedModel, asked: CompletionRequest) -> list[NDArray[np.int32]]:
    return [model.ids(prompt, asked.keep_last) for prompt in asked.prompts]


async def body_of(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """The whole body, counted while it comes. Raises Refusal for one too large, too slow, or of another type."""
    headers = dict(scope["headers"])
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise ApiError("The body must be sent as application/json.", status=415)
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise ApiError("The body must not be compressed.", status=415)
    too_large = ApiError(f"The body is larger than {limits.body_bytes:,} bytes.", status=413)
    if int(headers.get(b"content-length", b"0")) > limits.body_bytes:
        raise too_large
    found = bytearray()
    try:
        async with asyncio.timeout(limits.receive_timeout_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return b""  # nobody reads the answer
                found += message.get("body", b"")
                if len(found) > limits.body_bytes:
                    raise too_large
                if not message.get("more_body"):
                    return bytes(found)
    except TimeoutError:
        raise ApiError(
            f"The body did not come within {limits.receive_timeout_seconds:g} seconds.", status=408
        ) from None


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _fingerprint(model: ServedModel) -> str:
    return f"fabella-{model.teller.tokenizer.fingerprint[:8]}-{model.teller.step}"


_LINE_ENDS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}
"""Unicode's; JSON escapes those of ASCII. The stream's format does not know them, but some that read it do."""


def _json(value: dict[str, Any]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return (text if text.isascii() else text.translate(_LINE_ENDS)).encode()


def _length(body: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", str(len(body)).encode())]
