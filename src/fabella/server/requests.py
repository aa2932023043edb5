"""What a request for text asks for, read from the body of ``/v1/completions`` or ``/v1/chat/completions``."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from fabella.errors import UsageError
from fabella.generation.sampling import SamplingParams
from fabella.server.api_error import ApiError, quote
from fabella.server.json_fields import Fields, readable
from fabella.server.limits import Limits

Prompt = str | list[int]
T = TypeVar("T")
# Fields of OpenAI's API that change nothing here.
_WITHOUT_EFFECT = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
)  # fmt: skip
# Fields that would, and are not offered: allowed only with the value that changes nothing.
_NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "echo": (False,), "suffix": ("",), "best_of": (1,), "logit_bias": ({},), "frequency_penalty": (0,),
    "presence_penalty": (0,), "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],), "function_call": (),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "audio": (), "prediction": (),
    "parallel_tool_calls": (True, False), "reasoning_effort": ("none",), "web_search_options": (), "verbosity": (),
}  # fmt: skip
_ROLES = ("system", "developer", "user", "assistant")
_BETWEEN_MESSAGES = "\n\n"
_USUAL_TOKENS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """A request that keeps the limits."""

    model: str
    """Empty: the first"""
    prompts: Sequence[Prompt]
    n: int
    sampling: SamplingParams
    max_tokens: int
    stops: tuple[str, ...]
    log_probabilities: bool
    alternatives: int
    stream: bool
    include_usage: bool
    keep_last: int
    """Of a longer prompt, its last so many tokens are read; -1: as many as can be, 0: a longer one is refused"""


def completion(body: dict[str, Any], limits: Limits) -> CompletionRequest:
    """Of ``/v1/completions``."""
    fields = Fields(body)
    prompts = _prompts(fields.take("prompt"), limits)
    asked = fields.take("logprobs")
    alternatives = 0 if asked is None else Fields({"logprobs": asked}).whole("logprobs", 0, 0, limits.log_probabilities)
    return _rest(fields, limits, prompts, ("max_tokens",), (asked is not None, alternatives))


def chat(body: dict[str, Any], limits: Limits) -> CompletionRequest:
    """Of ``/v1/chat/completions``: the messages one after another, with an empty line between, are the prompt."""
    fields = Fields(body)
    prompt = _BETWEEN_MESSAGES.join(_messages(fields.take("messages"), limits))
    log_probabilities = fields.flag("logprobs")
    alternatives = fields.whole("top_logprobs", 0, 0, limits.log_probabilities)
    if alternatives and not log_probabilities:
        raise ApiError("top_logprobs needs logprobs to be true.", param="top_logprobs")
    lengths = ("max_completion_tokens", "max_tokens")
    return _rest(fields, limits, [prompt], lengths, (log_probabilities, alternatives))


def _rest(
    fields: Fields, limits: Limits, prompts: Sequence[Prompt], lengths: Sequence[str], logprobs: tuple[bool, int]
) -> CompletionRequest:
    stream = fields.flag("stream")
    asked = CompletionRequest(
        model=fields.text("model", ""),
        prompts=prompts,
        n=fields.whole("n", 1, 1, limits.n),
        sampling=_sampling(fields),
        max_tokens=_max_tokens(fields, lengths, limits),
        stops=_stops(fields.take("stop"), limits),
        log_probabilities=logprobs[0],
        alternatives=logprobs[1],
        stream=stream,
        include_usage=_include_usage(fields.take("stream_options"), stream=stream),
        keep_last=fields.whole("truncate_prompt_tokens", 0, -1, limits.prompt_tokens),
    )
    for name in _WITHOUT_EFFECT:
        fields.take(name)
    for name, allowed in _NOT_OFFERED.items():
        value = fields.take(name)
        if value is not None and not any(value == one and type(value) is type(one) for one in allowed):
            raise ApiError(f"{name} is not offered; leave it out.", param=name, code="unsupported_parameter")
    fields.finish()
    return asked


def _max_tokens(fields: Fields, names: Sequence[str], limits: Limits) -> int:
    found = [fields.whole(name, 0, 1, limits.max_tokens) for name in names]
    return next((value for value in found if value), min(_USUAL_TOKENS, limits.max_tokens))


def _sampling(fields: Fields) -> SamplingParams:
    settings: dict[str, Any] = {
        "temperature": fields.number("temperature", 1.0),
        "top_p": fields.number("top_p", 1.0),
        "min_p": fields.number("min_p", 0.0),
        "repetition_penalty": fields.number("repetition_penalty", 1.0),
        "top_k": fields.whole("top_k", 0, 0, 2**31 - 1),
        "seed": fields.whole("seed", secrets.randbelow(2**31), -(2**63), 2**63 - 1) % 2**63,
    }
    for name, value in settings.items():
        try:
            SamplingParams(**{name: value})
        except UsageError as error:
            raise ApiError(str(error), param=name) from None
    return SamplingParams(**settings)


def _stops(value: Any, limits: Limits) -> tuple[str, ...]:
    stops = [] if value is None else value if isinstance(value, list) else [value]
    if len(stops) > limits.stops:
        raise ApiError(f"stop has {len(stops):,} texts; at most {limits.stops} are allowed.", param="stop")
    for stop in stops:
        text = readable(stop, "stop")
        if not 1 <= len(text) <= limits.stop_characters:
            rule = f"1 to {limits.stop_characters} characters"
            raise ApiError(f"A stop text must have {rule}, not {len(text):,}.", param="stop")
    return tuple(stops)


def _include_usage(value: Any, *, stream: bool) -> bool:
    if value is None:
        return False
    if not isinstance(value, dict):
        raise ApiError(f"stream_options must be an object, not {quote(value)}.", param="stream_options")
    if not stream:
        raise ApiError("stream_options needs stream to be true.", param="stream_options")
    options = Fields(value, within="stream_options")
    include = options.flag("include_usage")
    options.flag("include_obfuscation")  # nothing is obfuscated, asked for or not
    options.finish()
    return include


def _prompts(value: Any, limits: Limits) -> list[Prompt]:
    """Text, ids, or a list of either. Nothing at all: the model begins by itself."""
    if value is None:
        return [""]
    if isinstance(value, list):
        if value and all(_is_id(item) for item in value):
            return [value]
        return _each(value, "prompt", limits.prompts, _one_prompt)
    return [readable(value, "prompt")]


def _one_prompt(value: Any) -> Prompt:
    if isinstance(value, list) and value and all(_is_id(item) for item in value):
        return value
    return readable(value, "prompt")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _messages(value: Any, limits: Limits) -> list[str]:
    if not isinstance(value, list):
        raise ApiError(f"messages must be a list of messages, not {quote(value)}.", param="messages")
    return _each(value, "messages", limits.messages, _message)


def _message(value: Any) -> str:
    if not isinstance(value, dict):
        raise ApiError(f"A message must be an object with role and content, not {quote(value)}.", param="messages")
    message = Fields(value, within="messages")
    role = message.take("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise ApiError(f"role must be one of {', '.join(_ROLES)}, not {quote(role)}.", param="messages")
    message.text("name", "")
    content = message.take("content")
    for name in ("refusal", "annotations", "audio", "tool_calls", "function_call"):  # of an answer sent back
        message.take(name)
    message.finish()
    if isinstance(content, list):
        return "".join(_each(cast("list[Any]", content), "messages", 256, _part))
    return readable(content, "messages")


def _part(value: Any) -> str:
    if not isinstance(value, dict) or value.get("type") != "text":
        raise ApiError(f"Only parts of type text can be read, not {quote(value)}.", param="messages")
    return readable(value.get("text"), "messages")


def _each(values: list[Any], name: str, most: int, read: Callable[[Any], T]) -> list[T]:
    if not values:
        raise ApiError(f"{name} is an empty list; give at least one.", param=name)
    if len(values) > most:
        raise ApiError(f"{name} holds {len(values):,}; at most {most:,} are allowed.", param=name)
    return [read(value) for value in values]
