"""The fields of a JSON body, each taken once and checked: its type, its bounds, in plain words."""

import json
import math
from typing import Any, NoReturn

from fabella.server.api_error import ApiError, quote


def parse(body: bytes) -> dict[str, Any]:
    """The object that a body holds. Raises Refusal for anything else, for numbers that are none, and doubled keys."""
    try:
        value = json.loads(body.decode(), parse_constant=_no_number, object_pairs_hook=_once)
    except RecursionError:
        raise ApiError("The body is nested too deeply.") from None
    except UnicodeDecodeError:
        raise ApiError("The body is not UTF-8.") from None
    except ValueError as error:
        raise ApiError(f"The body is not JSON: {quote(str(error))[1:-1]}") from None
    if not isinstance(value, dict):
        raise ApiError('The body must be a JSON object, as in {"prompt": "Once upon a time"}.')
    return value


def _no_number(name: str) -> NoReturn:
    raise ApiError(f"{name} is no number in JSON.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ApiError("The body names a key twice.")
    return found


class Fields:
    """What is taken is checked; what nobody took is refused by ``finish``. ``null`` stands for the default."""

    def __init__(self, body: dict[str, Any], *, within: str = "") -> None:
        """``within``: the field of the request that the body is a part of."""
        self._left, self._within = dict(body), within

    def take(self, name: str) -> Any:
        """The value as it is, None where there is none."""
        return self._left.pop(name, None)

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number within bounds."""
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise ApiError(f"{name} must be a whole number, not {quote(value)}.", param=name)
        if not low <= value <= high:
            raise ApiError(f"{name} must be at least {low:,} and at most {high:,}, not {quote(value)}.", param=name)
        return value

    def number(self, name: str, default: float) -> float:
        """A finite number; its bounds are the sampling's own."""
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ApiError(f"{name} must be a number, not {quote(value)}.", param=name)
        if not math.isfinite(value) if isinstance(value, float) else abs(value) > 2**53:
            raise ApiError(f"{name} must be a finite number, not {quote(value)}.", param=name)
        return value

    def flag(self, name: str) -> bool:
        """True or false; false by default."""
        value = self.take(name)
        if not (value is None or isinstance(value, bool)):
            raise ApiError(f"{name} must be true or false, not {quote(value)}.", param=name)
        return bool(value)

    def text(self, name: str, default: str) -> str:
        """Text."""
        value = self.take(name)
        return default if value is None else readable(value, name)

    def finish(self) -> None:
        """Raises Refusal for the first field that nobody knows."""
        for name in self._left:
            known = quote(name)
            raise ApiError(
                f"There is no field {known}.", param=self._within or (name[:60] if name.isprintable() else None)
            )


def readable(value: Any, name: str) -> str:
    """Text that can be encoded. Raises Refusal for lone surrogates and for anything but text."""
    if not isinstance(value, str):
        raise ApiError(f"{name} must be text, not {quote(value)}.", param=name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ApiError(f"{name} holds half of a surrogate pair, which is no character.", param=name) from None
    return value
