"""Request bodies of the API, validated by pydantic; every violation becomes an error body in OpenAI's format."""

import json
import secrets
from collections.abc import Callable
from typing import Annotated, Any, Literal, NoReturn, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from fabella.errors import UsageError, did_you_mean
from fabella.generation.sampling import SamplingParams
from fabella.server.api_error import ApiError, quote
from fabella.server.limits import Limits

Prompt = str | list[int]
"""Text, or token ids."""
DEFAULT_MAX_TOKENS = 200
MESSAGE_SEPARATOR = "\n\n"
MAX_CONTENT_PARTS = 256
BodyT = TypeVar("BodyT", bound="Body")


def parse_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a request body.

    Raises ApiError for anything but a UTF-8 JSON object, for NaN and Infinity, and for a key that occurs twice.
    """
    try:
        value = json.loads(body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ApiError("The body is nested too deeply.") from None
    except UnicodeDecodeError:
        raise ApiError("The body is not UTF-8.") from None
    except ValueError as error:
        raise ApiError(f"The body is not JSON: {quote(str(error))[1:-1]}") from None
    if not isinstance(value, dict):
        raise ApiError('The body must be a JSON object, as in {"prompt": "Once upon a time"}.')
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ApiError(f"{name} is not a JSON number.")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ApiError("The body contains a key twice.")
    return value


def _require_encodable(text: str, name: str | None) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} contains half of a surrogate pair, which is not a character.") from None
    return text


def _check_text(text: str, info: ValidationInfo) -> str:
    return _require_encodable(text, info.field_name)


Text = Annotated[str, AfterValidator(_check_text)]
"""A string that UTF-8 can encode; JSON's escapes can spell lone surrogates."""


def _limits(info: ValidationInfo) -> Limits:
    return cast("Limits", info.context)


def _require_between(value: int, low: int, high: int, name: str | None) -> int:
    if not low <= value <= high:
        raise ValueError(f"{name} must be at least {low:,} and at most {high:,}, not {quote(value)}.")
    return value


def _between(low: int, high: Callable[[Limits], int]) -> AfterValidator:
    return AfterValidator(
        lambda value, info: _require_between(value, low, high(_limits(info)), info.field_name)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType, reportUnknownMemberType]
    )


MaxTokens = Annotated[int, _between(1, lambda limits: limits.max_tokens)]
NumLogprobs = Annotated[int, _between(0, lambda limits: limits.log_probabilities)]


class Body(BaseModel):
    """A JSON object. Unknown fields are refused; ``null`` means the default."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, body: object) -> object:
        if not isinstance(body, dict):
            return body
        values = cast("dict[str, object]", body)
        return {name: value for name, value in values.items() if value is not None or name not in cls.field_names()}

    @classmethod
    def field_names(cls) -> set[str]:
        """Names of the fields as a client writes them."""
        return {field.alias or name for name, field in cls.model_fields.items()}


class ReloadRequest(Body):
    """Body of ``/reload``."""

    model: Text = ""
    """Name of the model; empty for the first one."""


class StreamOptions(Body):
    """Options of a streamed response."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Accepted without effect: nothing is obfuscated."""


class UnsupportedFields(Body):
    """Fields of OpenAI's API that are not supported: only the value that changes nothing is accepted."""

    echo: Literal[False] = False
    suffix: Literal[""] = ""
    best_of: Literal[1] = 1
    logit_bias: dict[str, Any] = Field({}, max_length=0)
    frequency_penalty: Literal[0] = 0
    presence_penalty: Literal[0] = 0
    tools: list[Any] = Field([], max_length=0)
    tool_choice: Literal["none", "auto"] = "none"
    functions: list[Any] = Field([], max_length=0)
    function_call: None = None
    response_format: dict[Literal["type"], Literal["text"]] = Field({"type": "text"}, min_length=1)
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] = ["text"]
    audio: None = None
    prediction: None = None
    parallel_tool_calls: bool = False
    reasoning_effort: Literal["none"] = "none"
    web_search_options: None = None
    verbosity: None = None


class GenerationBody(UnsupportedFields):
    """Fields that completions and chat completions share."""

    model: Text = ""
    """Name of the model; empty for the first one."""
    n: Annotated[int, _between(1, lambda limits: limits.n)] = 1
    """Completions per prompt."""
    max_tokens: MaxTokens | None = None
    stop: Annotated[list[Text], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = []
    """Stop sequences: one string or a list of them."""
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    truncate_prompt_tokens: Annotated[int, _between(-1, lambda limits: limits.prompt_tokens)] = 0
    """Keep the last tokens of a longer prompt: this many, or as many as fit for -1. 0 refuses a longer prompt."""
    temperature: float = Field(1.0, allow_inf_nan=False)
    top_p: float = Field(1.0, allow_inf_nan=False)
    min_p: float = Field(0.0, allow_inf_nan=False)
    repetition_penalty: float = Field(1.0, allow_inf_nan=False)
    top_k: Annotated[int, _between(0, lambda _: 2**31 - 1)] = 0
    seed: Annotated[int, _between(-(2**63), lambda _: 2**63 - 1)] = Field(
        default_factory=lambda: secrets.randbelow(2**31)
    )

    # Accepted without effect.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None

    @field_validator("stop")
    @classmethod
    def _limit_stops(cls, stops: list[str], info: ValidationInfo) -> list[str]:
        limits = _limits(info)
        if len(stops) > limits.stops:
            raise ValueError(f"stop has {len(stops):,} strings; at most {limits.stops} are allowed.")
        for stop in stops:
            if not 1 <= len(stop) <= limits.stop_characters:
                rule = f"1 to {limits.stop_characters} characters"
                raise ValueError(f"A stop string must have {rule}, not {len(stop):,}.")
        return stops

    @field_validator("stream_options")
    @classmethod
    def _require_stream(cls, options: StreamOptions, info: ValidationInfo) -> StreamOptions:
        if not info.data.get("stream"):
            raise ValueError("stream_options needs stream to be true.")
        return options

    @field_validator("temperature", "top_p", "min_p", "repetition_penalty")
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
            top_k=self.top_k,
            seed=self.seed % 2**63,
        )

    def new_tokens(self, limits: Limits) -> int:
        """Return the maximum number of new tokens per completion."""
        return self.max_tokens or min(DEFAULT_MAX_TOKENS, limits.max_tokens)


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
    prompts = [_prompt(item) for item in _limited([value] if single else value, "prompt", _limits(info).prompts)]
    return [prompt if isinstance(prompt, list) else _require_encodable(prompt, "prompt") for prompt in prompts]


def _limited(values: object, name: str, most: int) -> list[object]:
    items = cast("list[object]", values)
    if not items:
        raise ValueError(f"{name} is an empty list; give at least one item.")
    if len(items) > most:
        raise ValueError(f"{name} has {len(items):,} items; at most {most:,} are allowed.")
    return items


class CompletionRequest(GenerationBody):
    """Body of ``/v1/completions``."""

    prompts: Annotated[list[Prompt], PlainValidator(_prompts)] = Field([""], alias="prompt")
    """One prompt or a list of prompts; without one, generation starts at the beginning of a document."""
    logprobs: NumLogprobs | None = None

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives per token, at least 0; None without log probabilities."""
        return self.logprobs


def _content(value: object) -> object:
    """Join content parts into one string."""
    if not isinstance(value, list):
        return value
    return "".join(_part(part) for part in _limited(value, "content", MAX_CONTENT_PARTS))


def _part(part: object) -> str:
    fields = cast("dict[str, object]", part) if isinstance(part, dict) else {}
    text = fields.get("text")
    if fields.get("type") != "text" or not isinstance(text, str):
        raise ValueError(f'A content part must have the form {{"type": "text", "text": "…"}}, not {quote(part)}.')
    return text


class ChatMessage(Body):
    """A message. Its content is a string or a list of text parts."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_content)]
    name: Text = ""

    # Fields of a response that is sent back; accepted without effect.
    refusal: Any = None
    annotations: Any = None
    audio: Any = None
    tool_calls: Any = None
    function_call: Any = None


class ChatRequest(GenerationBody):
    """Body of ``/v1/chat/completions``.

    A base model knows no roles: the messages, joined by empty lines, are the prompt.
    """

    messages: list[ChatMessage]
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool = False
    top_logprobs: NumLogprobs = 0

    @field_validator("messages", mode="before")
    @classmethod
    def _limit_messages(cls, messages: object, info: ValidationInfo) -> object:
        return _limited(messages, "messages", _limits(info).messages) if isinstance(messages, list) else messages

    @field_validator("top_logprobs")
    @classmethod
    def _require_logprobs(cls, number: int, info: ValidationInfo) -> int:
        if number and not info.data.get("logprobs"):
            raise ValueError("top_logprobs needs logprobs to be true.")
        return number

    @property
    def prompts(self) -> list[Prompt]:
        """The only prompt."""
        return [MESSAGE_SEPARATOR.join(message.content for message in self.messages)]

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives per token, at least 0; None without log probabilities."""
        return self.top_logprobs if self.logprobs else None

    def new_tokens(self, limits: Limits) -> int:
        return self.max_completion_tokens or super().new_tokens(limits)


def validate(kind: type[BodyT], body: bytes, limits: Limits) -> BodyT:
    """Return the validated request body. Raises ApiError that names the first violation and its field."""
    values = parse_json(body)
    try:
        return kind.model_validate(values, context=limits)
    except ValidationError as error:
        raise _api_error(error.errors(include_url=False)[0], kind) from None


_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a finite number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
"""Pydantic's error types as the value that would be right."""


def _api_error(error: ErrorDetails, kind: type[Body]) -> ApiError:
    location = error["loc"]
    field = str(location[0]) if location else ""
    param = field[:60] if field.isprintable() and location else None
    if field in UnsupportedFields.model_fields:
        return ApiError(f"{field} is not supported; leave it out.", param=field, code="unsupported_parameter")
    return ApiError(_message(error, kind), param=param)


def _message(error: ErrorDetails, kind: type[Body]) -> str:
    location, value = error["loc"], quote(error["input"])
    name = ".".join(str(part) for part in location) or "The body"
    if expected := _EXPECTED.get(error["type"]):
        return f"{name} must be {expected}, not {value}."
    match error["type"]:
        case "value_error":
            return str(error.get("ctx", {})["error"])
        case "extra_forbidden":
            hint = did_you_mean(str(location[-1])[:100], kind.field_names()) if len(location) == 1 else ""
            return f"Unknown field {quote(location[-1])}. {hint}".rstrip()
        case "missing":
            return f"{name} is required."
        case _:
            return f"{name} is not valid: {error['msg'][:1].lower()}{error['msg'][1:]}, not {value}."
