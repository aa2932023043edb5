"""JSON bodies, validated by pydantic; every violation becomes an error body in OpenAI's format."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails

from fabella.errors import did_you_mean
from fabella.server.api_error import ApiError, quote
from fabella.server.limits import Limits
from fabella.server.requests.neutral_fields import UnsupportedField, asks_for_nothing, is_empty

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


def require_encodable(text: str, name: str | None) -> str:
    """Return the text. Raises ValueError if it contains a lone surrogate, which JSON's escapes can spell."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} contains half of a surrogate pair, which is not a character.") from None
    return text


def _check_text(text: str, info: ValidationInfo) -> str:
    return require_encodable(text, info.field_name)


Text = Annotated[str, AfterValidator(_check_text)]
"""A string that UTF-8 can encode."""


class Body(BaseModel):
    """A JSON object.

    ``null`` means the default. Fields that are not supported are accepted with the values that change nothing, and
    unknown fields if they are empty; all others are refused by name.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    UNSUPPORTED: ClassVar[Mapping[str, UnsupportedField]] = {}

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, body: object) -> object:
        if not isinstance(body, dict):
            return body
        values = cast("dict[str, object]", body)
        return {name: value for name, value in values.items() if not cls._is_neutral(name, values)}

    @classmethod
    def _is_neutral(cls, name: str, body: Mapping[str, object]) -> bool:
        if body[name] is None:
            return True
        if name in cls.field_names():
            return False
        unsupported = cls.UNSUPPORTED.get(name)
        return asks_for_nothing(unsupported, name, body) if unsupported else is_empty(body[name])

    @classmethod
    def field_names(cls) -> set[str]:
        """Names of the fields as a client writes them."""
        return {field.alias or name for name, field in cls.model_fields.items()}


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
    if error["type"] == "extra_forbidden" and len(location) == 1 and field in kind.UNSUPPORTED:
        hint = kind.UNSUPPORTED[field].hint or "Leave it out."
        return ApiError(f"{field} is not supported. {hint}", param=field, code="unsupported_parameter")
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
