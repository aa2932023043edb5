"""Requests for completions: fields, types, bounds and defaults."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, Literal, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fabella.errors import UsageError
from fabella.generation.sampling import SamplingParams
from fabella.server.api_error import quote
from fabella.server.limits import Limits, set_by
from fabella.server.requests.chat_history import MESSAGE_SEPARATOR, AnyMessage, select_messages, texts_fit
from fabella.server.requests.chat_message import ChatMessage, require_no_tool_calls, require_written
from fabella.server.requests.json_body import Body, Text, require_encodable
from fabella.server.requests.neutral_fields import (
    OTHER_MAXIMA,
    UNSUPPORTED_IN_CHATS,
    UNSUPPORTED_IN_COMPLETIONS,
)
from fabella.server.requests.prompts import EncodedPrompt, Prompt, PromptEncoder

DEFAULT_MAX_TOKENS = 200
NO_MAXIMUM = -1
"""Value of ``max_tokens`` by which clients of LM Studio and llama.cpp ask for text until the context is full."""
RANDOM_SEED = -1
"""Value of ``seed`` by which clients of LM Studio, llama.cpp and vLLM ask for another text each time."""


def _limits(info: ValidationInfo) -> Limits:
    return cast("Limits", info.context)


def _require_between(value: int, low: int, high: int, info: ValidationInfo, limit: str) -> int:
    if not low <= value <= high:
        rule = f"{info.field_name} must be at least {low:,} and at most {high:,}, not {quote(value)}."
        raise ValueError(f"{rule} {set_by(limit)}" if limit and value > high else rule)
    return value


def _between(low: int, high: int) -> AfterValidator:
    return AfterValidator(lambda value, info: _require_between(value, low, high, info, ""))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


def _limited_by(limit: str, low: int) -> AfterValidator:
    """Require an integer from ``low`` to the field ``limit`` of ``Limits``."""

    def check(value: int, info: ValidationInfo) -> int:
        return _require_between(value, low, int(getattr(_limits(info), limit)), info, limit)

    return AfterValidator(check)


def _whole(value: object) -> object:
    """Return 3 for 3.0: JSON has one kind of number, and some clients write every number with a point."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**63 else value


def _max_new_tokens(low: int) -> AfterValidator:
    """Require ``NO_MAXIMUM``, or an integer from ``low`` to the limit of the server."""

    def check(value: int, info: ValidationInfo) -> int:
        if value == NO_MAXIMUM:
            return value
        most = _limits(info).max_tokens
        if not low <= value <= most:
            allowed = f"at least {low:,} and at most {most:,}, or -1 for no limit"
            rule = f"{info.field_name} must be {allowed}, not {quote(value)}."
            raise ValueError(f"{rule} {set_by('max_tokens')}" if value > most else rule)
        return value

    return AfterValidator(check)


Whole = Annotated[int, BeforeValidator(_whole)]
MaxTokens = Annotated[Whole, _max_new_tokens(1)]
NumLogprobs = Annotated[Whole, _limited_by("log_probabilities", 0)]


class StreamOptions(Body):
    """Options of a streamed response."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Accepted without effect: nothing is obfuscated."""
    continuous_usage_stats: Literal[False] = False


def _logit_bias(value: object) -> tuple[tuple[int, float], ...]:
    """Parse OpenAI's form: an object with token ids as strings. PHP writes an empty one as a list."""
    if value == []:
        return ()
    if not isinstance(value, dict):
        raise ValueError(f'logit_bias must be an object like {{"50": -100}}, not {quote(value)}.')
    biases = sorted((_token_id(token), bias) for token, bias in cast("dict[str, object]", value).items())
    try:
        SamplingParams(logit_bias=cast("tuple[tuple[int, float], ...]", tuple(biases)))
    except UsageError as error:
        raise ValueError(str(error)) from None
    return tuple((token, float(cast("float", bias))) for token, bias in biases)


def _token_id(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 12 and str(int(text)) == text):
        raise ValueError(f"logit_bias has the key {quote(text)}, which is not a token id.")
    return int(text)


def _random_seed() -> int:
    return secrets.randbelow(2**31)


def _random_if_unset(seed: int) -> int:
    return _random_seed() if seed == RANDOM_SEED else seed


class GenerationBody(Body):
    """Fields that completions and chat completions share."""

    model: Text = ""
    """Name of the model; empty for the first one."""
    n: Annotated[Whole, _limited_by("n", 1)] = 1
    """Completions per prompt."""
    max_tokens: MaxTokens | None = None
    """New tokens per completion, 200 by default; -1: until the context is full, as far as the server allows."""
    stop: Annotated[list[Text], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = Field(
        default_factory=list[Text]
    )
    """Stop sequences: one string or a list of them."""
    stream: bool = False
    """Send the text in chunks while it is generated."""
    stream_options: StreamOptions = StreamOptions()
    """``{"include_usage": true}``: end the stream with the number of tokens."""
    truncate_prompt_tokens: Annotated[Whole, _limited_by("prompt_tokens", -1)] = 0
    """Keep the last tokens of a longer prompt: this many, or as many as fit for -1. 0 truncates no prompt."""
    temperature: float = Field(1.0, allow_inf_nan=False)
    """Divisor of the logits; 0 always takes the most likely token."""
    top_p: float = Field(1.0, allow_inf_nan=False)
    """Keep the most likely tokens with this probability in sum, above 0; 1 keeps all."""
    min_p: float = Field(0.0, allow_inf_nan=False)
    """Drop tokens below this fraction of the top probability; 0 keeps all."""
    repetition_penalty: float = Field(1.0, allow_inf_nan=False)
    """Divide the logits of tokens of prompt and completion by it, or multiply negative ones; 1 disables it."""
    frequency_penalty: float = Field(0.0, allow_inf_nan=False)
    """Subtract it from a logit for each occurrence of the token in the completion."""
    presence_penalty: float = Field(0.0, allow_inf_nan=False)
    """Subtract it once from the logit of a token that the completion has."""
    logit_bias: Annotated[tuple[tuple[int, float], ...], PlainValidator(_logit_bias)] = ()
    """Numbers that are added to logits: an object with token ids, as text, as its keys."""
    top_k: Annotated[Whole, _between(-1, 2**31 - 1)] = 0
    """Keep this many of the most likely tokens; 0 and -1 disable it."""
    seed: Annotated[Whole, _between(-(2**63), 2**63 - 1), AfterValidator(_random_if_unset)] = Field(
        default_factory=_random_seed
    )
    """The same seed and prompt give the same text; -1 draws one, as leaving it out does."""

    @model_validator(mode="before")
    @classmethod
    def _read_no_maximum(cls, body: object) -> object:
        """Read -1 under another name as max_tokens, unless a maximum is given."""
        if not isinstance(body, dict):
            return body
        values = cast("dict[str, object]", body)
        given = any(values.get(name) is not None for name in ("max_tokens", "max_completion_tokens"))
        unlimited = any(values.get(name) == NO_MAXIMUM for name in OTHER_MAXIMA)
        return {**values, "max_tokens": NO_MAXIMUM} if unlimited and not given else values

    @field_validator("stop")
    @classmethod
    def _limit_stops(cls, stops: list[str], info: ValidationInfo) -> list[str]:
        limits = _limits(info)
        if len(stops) > limits.stops:
            rule = f"stop has {len(stops):,} strings; at most {limits.stops} are allowed."
            raise ValueError(f"{rule} {set_by('stops')}")
        for stop in stops:
            if len(stop) > limits.stop_characters:
                rule = f"A stop string has {len(stop):,} characters; at most {limits.stop_characters} are allowed."
                raise ValueError(f"{rule} {set_by('stop_characters')}")
        return [stop for stop in stops if stop]  # clients send the text of an empty form field

    @field_validator("stream_options")
    @classmethod
    def _require_stream(cls, options: StreamOptions, info: ValidationInfo) -> StreamOptions:
        if options.include_usage and not info.data.get("stream"):
            raise ValueError("stream_options needs stream to be true.")
        return options

    @field_validator("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
    @classmethod
    def _check_sampling(cls, value: float, info: ValidationInfo) -> float:
        try:
            SamplingParams(**{str(info.field_name): value})  # pyright: ignore[reportArgumentType]
        except UsageError as error:
            raise ValueError(str(error)) from None
        return value

    @property
    def sampling(self) -> SamplingParams:
        """Sampling parameters; a negative seed wraps around."""
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias=self.logit_bias,
            top_k=max(self.top_k, 0),
            seed=self.seed % 2**63,
        )

    @property
    def maximum(self) -> int | None:
        """The requested maximum number of new tokens, as the client sent it."""
        return self.max_tokens

    def new_tokens(self, limits: Limits, context_left: int | None = None) -> int:
        """Return the maximum number of new tokens per completion.

        ``context_left``: as many as fit into the context after the prompt; None if the context has no limit.
        """
        if self.maximum is None:
            return min(DEFAULT_MAX_TOKENS, limits.max_tokens)
        if self.maximum == NO_MAXIMUM:
            return limits.max_tokens if context_left is None else min(limits.max_tokens, context_left)
        return self.maximum


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in cast("list[object]", value))


def _prompt(value: object) -> Prompt:
    if _is_ids(value):
        return cast("list[int]", value)
    if not isinstance(value, str):
        raise ValueError(f"prompt must be a string, a list of token ids, or a list of these, not {quote(value)}.")
    return value


def _prompts(value: object, info: ValidationInfo) -> list[Prompt]:
    single = _is_ids(value) or not isinstance(value, list)
    prompts = [_prompt(item) for item in _limited([value] if single else value, "prompt", "prompts", info)]
    return [prompt if isinstance(prompt, list) else require_encodable(prompt, "prompt") for prompt in prompts]


def _limited(values: object, name: str, limit: str, info: ValidationInfo) -> list[object]:
    items, most = cast("list[object]", values), int(getattr(_limits(info), limit))
    if not items:
        raise ValueError(f"{name} is an empty list; give at least one item.")
    if len(items) > most:
        raise ValueError(f"{name} has {len(items):,} items; at most {most:,} are allowed. {set_by(limit)}")
    return items


class CompletionRequest(GenerationBody):
    """Body of ``/v1/completions``."""

    UNSUPPORTED: ClassVar = UNSUPPORTED_IN_COMPLETIONS

    prompts: Annotated[list[Prompt], PlainValidator(_prompts)] = Field([""], alias="prompt")
    """One prompt or a list of prompts; without one, generation starts at the beginning of a document."""
    max_tokens: Annotated[Whole, _max_new_tokens(0)] | None = None
    """New tokens per completion, 200 by default; 0 only scores or echoes the prompt, -1: until the context is full."""
    logprobs: Annotated[NumLogprobs | None, BeforeValidator(lambda value: None if value is False else value)] = None
    """Alternatives per token; false, which chats take, is accepted here as well."""
    echo: bool = False
    """Return the prompt before the completion; with ``logprobs``, also the log probabilities of its tokens."""

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives per token, at least 0; None without log probabilities."""
        return self.logprobs

    def encode(self, encoder: PromptEncoder, limits: Limits) -> list[EncodedPrompt]:
        """Return the ids of all prompts. Raises ApiError for a prompt that is too long or has unknown ids."""
        return [encoder.encode(prompt, self.truncate_prompt_tokens) for prompt in self.prompts]


class ChatRequest(GenerationBody):
    """Body of ``/v1/chat/completions``.

    A model that was trained with a chat template reads the messages in it. A base model knows no roles: the messages,
    joined by empty lines, are the prompt.
    """

    UNSUPPORTED: ClassVar = UNSUPPORTED_IN_CHATS

    messages: list[ChatMessage]
    """The conversation: objects with ``role`` and ``content``, the newest message last."""
    max_completion_tokens: MaxTokens | None = None
    """Another name of ``max_tokens``."""
    logprobs: bool = False
    """Return the log probability of each token of the answer."""
    top_logprobs: NumLogprobs = 0
    """Alternatives per token; needs ``logprobs``."""

    @field_validator("messages", mode="before")
    @classmethod
    def _limit_messages(cls, messages: object, info: ValidationInfo) -> object:
        return _limited(messages, "messages", "messages", info) if isinstance(messages, list) else messages

    @field_validator("max_completion_tokens")
    @classmethod
    def _require_one_maximum(cls, number: int | None, info: ValidationInfo) -> int | None:
        if number is not None and info.data.get("max_tokens") not in {None, number}:
            raise ValueError("max_tokens and max_completion_tokens differ; send one of them.")
        return number

    @field_validator("top_logprobs")
    @classmethod
    def _require_logprobs(cls, number: int, info: ValidationInfo) -> int:
        if number and not info.data.get("logprobs"):
            raise ValueError("top_logprobs needs logprobs to be true.")
        return number

    @property
    def echo(self) -> bool:
        """A chat never echoes its messages."""
        return False

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives per token, at least 0; None without log probabilities."""
        return self.top_logprobs if self.logprobs else None

    def encode(self, encoder: PromptEncoder, limits: Limits) -> list[EncodedPrompt]:
        """Return the ids of the only prompt: the messages that fit, see ``select_messages``.

        Raises ApiError if the last message alone is too long, for any longer chat with the policy ``refuse``, and for
        calls of tools and their results that the model would not read.
        """
        given = [message for sent in self.messages if (message := sent.as_message())]
        if encoder.chat:
            require_written(given, encoder.chat)
            kept = self._select(given, encoder, limits, partial(encoder.fits_chat, encoder.chat))
            prompt = encoder.encode_chat(encoder.chat, kept, self.truncate_prompt_tokens)
        else:
            require_no_tool_calls(given)
            texts = [message.content for message in given]
            kept = self._select(texts, encoder, limits, partial(texts_fit, encoder))
            prompt = encoder.encode(MESSAGE_SEPARATOR.join(kept), self.truncate_prompt_tokens)
        return [replace(prompt, dropped_messages=len(given) - len(kept))]

    def _select(
        self,
        messages: list[AnyMessage],
        encoder: PromptEncoder,
        limits: Limits,
        fits: Callable[[Sequence[AnyMessage], int], bool],
    ) -> list[AnyMessage]:
        if self.truncate_prompt_tokens:
            return messages
        new_tokens = self.new_tokens(limits)
        return select_messages(messages, encoder, new_tokens=new_tokens, policy=limits.long_chats, fits=fits)

    @property
    def maximum(self) -> int | None:
        """The requested maximum number of new tokens, as the client sent it."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
