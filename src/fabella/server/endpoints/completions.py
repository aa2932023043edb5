"""Completion endpoint: a plain ASGI application, because it must notice when the client disconnects."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from fabella.errors import UsageError
from fabella.generation.continuous_batching import SequenceRequest
from fabella.generation.sampling import require_vocab_biases
from fabella.server.api_error import ApiError, log_server_error
from fabella.server.endpoints.request_body import read_body
from fabella.server.limits import Limits, set_by
from fabella.server.metrics import Metrics
from fabella.server.requests.json_body import validate
from fabella.server.requests.prompts import EncodedPrompt
from fabella.server.requests.schema import ChatRequest, CompletionRequest
from fabella.server.responses import CompletionChoice, ResponseFormat, usage
from fabella.server.scheduler import ClosedError, Job, QueueFullError
from fabella.server.served_completion import Delta, Echo, PromptText, ServedCompletion
from fabella.server.served_models import ServedModel, ServedModels

_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
_JSON = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
DROPPED_MESSAGES = b"x-fabella-dropped-messages"
"""Response header with the number of messages of a long chat that the model did not read."""

GenerationRequest = CompletionRequest | ChatRequest


class ClientDisconnectedError(Exception):
    """The client disconnected before the end of the response."""


@dataclass
class ResponseStream:
    """Jobs of one request and the queue of their events."""

    jobs: list[Job]
    events: "asyncio.Queue[tuple[int, Delta | BaseException]]"
    prompt_tokens: int
    dropped_messages: int = 0
    started: bool = False
    """True after the first delta."""

    @property
    def completion_tokens(self) -> int:
        """Tokens of all completions."""
        return sum(job.completion.tokens for job in self.jobs)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Response headers of this request."""
        dropped = str(self.dropped_messages).encode()
        return [(DROPPED_MESSAGES, dropped)] if self.dropped_messages else []

    async def deltas(self, until: float) -> AsyncIterator[list[tuple[int, Delta]]]:
        """Yield lists of (index of the completion, delta): all that have arrived since the last list.

        Ends when all completions have ended. At ``until`` (event loop time in seconds), unfinished ones are truncated.
        Raises ApiError where generation failed.
        """
        unfinished = set(range(len(self.jobs)))
        while unfinished:
            try:
                async with asyncio.timeout_at(until):
                    events = [await self.events.get()]
            except TimeoutError:
                yield [(index, self.jobs[index].completion.truncate()) for index in sorted(unfinished)]
                return
            while not self.events.empty():  # a slow client gets more per chunk
                events.append(self.events.get_nowait())
            deltas = [(index, event) for index, event in events if isinstance(event, Delta)]
            unfinished.difference_update(index for index, delta in deltas if delta.finish_reason)
            if ready := [(i, delta) for i, delta in deltas if delta.text or delta.tokens or delta.finish_reason]:
                yield ready
            for _, event in events:
                if isinstance(event, ClosedError):
                    raise ApiError("The server is shutting down.", status=503)
                if isinstance(event, BaseException):
                    raise ApiError("Generation failed.", status=500) from event


class CompletionEndpoint:
    """Validates a request, submits its jobs and sends the response, whole or as a stream."""

    def __init__(
        self,
        served: ServedModels,
        metrics: Metrics,
        limits: Limits,
        request_type: type[CompletionRequest] | type[ChatRequest],
        format_type: type[ResponseFormat],
    ) -> None:
        self._served, self._metrics, self._limits = served, metrics, limits
        self._request_type, self._format_type = request_type, format_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises ApiError before anything has been sent."""
        body = await read_body(scope, receive, self._limits)
        with suppress(ClientDisconnectedError):
            await self.cancel_on_disconnect(receive, self._respond(body, send))

    async def cancel_on_disconnect(self, receive: Receive, response: Coroutine[Any, Any, None]) -> None:
        """Send the response; cancel it as soon as the client disconnects, streaming or not."""
        sending, disconnected = asyncio.ensure_future(response), asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait([sending, disconnected], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
            else:
                self._metrics.disconnects.inc()
        finally:
            for task in (sending, disconnected):
                task.cancel()
            await asyncio.gather(sending, disconnected, return_exceptions=True)

    async def _respond(self, body: bytes, send: Send) -> None:
        start = time.monotonic()
        request = await asyncio.to_thread(validate, self._request_type, body, self._limits)
        model, prompts = await self._encode(request)
        response_format = self._format_type(
            model.name, _fingerprint(model), model.generator.tokenizer,
            log_probabilities=request.num_logprobs is not None,
        )  # fmt: skip
        stream = self._submit(model, request, prompts)
        self._metrics.prompt_tokens.inc(stream.prompt_tokens)
        try:
            if request.stream:
                await self._send_stream(
                    stream, response_format, send, start, include_usage=request.stream_options.include_usage
                )
            else:
                await self._send_whole(stream, response_format, send, start)
        finally:
            model.scheduler.cancel(stream.jobs)
            self._metrics.request_latency.observe(time.monotonic() - start)

    async def _encode(self, request: GenerationRequest) -> tuple[ServedModel, list["_Prompt"]]:
        """Return the model and the encoded prompts; long prompts are tokenized in a thread."""
        while True:
            model = self._served.find(request.model)
            prompts = await asyncio.to_thread(_encode, model, request, self._limits)
            if self._served.find(request.model) is model:  # no reload has replaced it meanwhile
                return model, prompts

    def _submit(self, model: ServedModel, request: GenerationRequest, prompts: Sequence["_Prompt"]) -> ResponseStream:
        events: asyncio.Queue[tuple[int, Delta | BaseException]] = asyncio.Queue()
        chat = model.encoder.chat if isinstance(request, ChatRequest) else None
        stops = [*request.stop, *(chat.stop if chat else ())]
        stop_ids = chat.stop_ids if chat else frozenset[int]()

        def job(index: int) -> Job:
            prompt = prompts[index // request.n]
            sequence = SequenceRequest(
                ids=prompt.encoded.ids, sampling=request.sampling, row=index % request.n, num_prefix_tokens=1,
                log_probabilities=request.num_logprobs is not None, alternatives=request.num_logprobs or 0,
            )  # fmt: skip
            new_tokens = request.new_tokens(self._limits, model.context_left(prompt.encoded.ids))
            completion = ServedCompletion(
                model.generator.tokenizer, stops=stops, max_tokens=new_tokens, prompt_characters=prompt.characters,
                stop_ids=stop_ids,
            )  # fmt: skip
            return Job(sequence, completion, lambda event: events.put_nowait((index, event)), prompt.echo)

        jobs = [job(index) for index in range(len(prompts) * request.n)]
        _require_capacity(len(jobs), self._limits)
        try:
            model.scheduler.submit(jobs)
        except QueueFullError as full:
            raise _rate_limit_error(full.seconds, self._limits) from None
        except ClosedError:
            raise ApiError("The server is shutting down.", status=503) from None
        return ResponseStream(
            jobs,
            events,
            prompt_tokens=sum(len(prompt.encoded.given_ids) for prompt in prompts),
            dropped_messages=sum(prompt.encoded.dropped_messages for prompt in prompts),
        )

    async def _send_whole(
        self, stream: ResponseStream, response_format: ResponseFormat, send: Send, start: float
    ) -> None:
        choices = [CompletionChoice() for _ in stream.jobs]
        async for deltas in stream.deltas(self._deadline()):
            self._observe_first(stream, start)
            for index, delta in deltas:
                choices[index].add(delta)
        body = _json(response_format.response(choices, usage(stream.prompt_tokens, stream.completion_tokens)))
        headers = _JSON + stream.headers + _length(body)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send(send, {"type": "http.response.body", "body": body})

    async def _send_stream(
        self, stream: ResponseStream, response_format: ResponseFormat, send: Send, start: float, *, include_usage: bool
    ) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM + stream.headers})
        first = [response_format.first_chunk(index) for index in range(len(stream.jobs))]
        unused = {"usage": None} if include_usage else {}  # OpenAI's clients expect the key in every chunk
        await self._send_events(send, [{**chunk, **unused} for chunk in first if chunk])
        try:
            async for deltas in stream.deltas(self._deadline()):
                self._observe_first(stream, start)
                chunks = [response_format.chunk(index, delta) for index, delta in deltas]
                await self._send_events(send, [{**chunk, **unused} for chunk in chunks])
        except ApiError as error:  # the status has been sent: the error is the last event
            log_server_error(error)
            await self._send_events(send, [error.body()])
            await self._send(send, {"type": "http.response.body"})
            return
        if include_usage:
            total = usage(stream.prompt_tokens, stream.completion_tokens)
            await self._send_events(send, [response_format.usage_chunk(total)])
        await self._send(send, {"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._limits.generation_timeout_seconds

    def _observe_first(self, stream: ResponseStream, start: float) -> None:
        if not stream.started:
            stream.started = True
            self._metrics.time_to_first_token.observe(time.monotonic() - start)

    async def _send_events(self, send: Send, chunks: Sequence[dict[str, Any]]) -> None:
        if chunks:
            body = b"".join(b"data: " + _json(chunk) + b"\n\n" for chunk in chunks)
            await self._send(send, {"type": "http.response.body", "body": body, "more_body": True})

    async def _send(self, send: Send, message: Message) -> None:
        """Send a message; a client that does not read counts as disconnected after the receive timeout."""
        try:
            async with asyncio.timeout(self._limits.receive_timeout_seconds):
                await send(message)
        except TimeoutError:
            self._metrics.disconnects.inc()
            raise ClientDisconnectedError from None


@dataclass(frozen=True, slots=True)
class _Prompt:
    """Encoded prompt and what the response says of it."""

    encoded: EncodedPrompt
    characters: int = 0
    """Length of its text; 0 if no offsets are returned."""
    echo: Echo | None = None


def _encode(model: ServedModel, request: GenerationRequest, limits: Limits) -> list[_Prompt]:
    """Raises ApiError for a prompt that is too long, and for token ids outside the vocabulary."""
    tokenizer, scored = model.generator.tokenizer, request.num_logprobs is not None
    try:
        require_vocab_biases(request.sampling, tokenizer.vocab_size)
    except UsageError as error:
        raise ApiError(str(error), param="logit_bias") from None

    def prompt(encoded: EncodedPrompt) -> _Prompt:
        if not (scored or request.echo):
            return _Prompt(encoded)
        text = PromptText.of(encoded.given_ids, tokenizer)
        echo = Echo(text, encoded.ids, encoded.num_prefix_tokens, scored, request.num_logprobs or 0)
        return _Prompt(encoded, len(text.text), echo if request.echo else None)

    return [prompt(encoded) for encoded in request.encode(model.encoder, limits)]


def _require_capacity(jobs: int, limits: Limits) -> None:
    """Raise ApiError for a request that the queue never has space for, so that no client tries it again."""
    if jobs > limits.jobs:
        rule = f"The request asks for {jobs:,} completions; at most {limits.jobs:,} run or wait at once."
        raise ApiError(f"{rule} {set_by('max_queue_size')} Send fewer prompts or a smaller n.", param="n")


def _rate_limit_error(seconds: int, limits: Limits) -> ApiError:
    rule = f"Rate limit reached: {limits.jobs:,} completions run or wait. Try again later."
    return ApiError(f"{rule} {set_by('max_queue_size')}", status=429, code="rate_limit_exceeded", retry_after=seconds)


async def _disconnected(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _fingerprint(model: ServedModel) -> str:
    return f"fabella-{model.generator.tokenizer.fingerprint[:8]}-{model.generator.step}"


_LINE_ENDS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}
"""Line ends that JSON does not escape. Server-sent events do not know them, but some parsers split at them."""


def _json(value: dict[str, Any]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return (text if text.isascii() else text.translate(_LINE_ENDS)).encode()


def _length(body: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", str(len(body)).encode())]
