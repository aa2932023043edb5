"""What all client checks share: the servers to talk to, and the results as JSON on standard output."""

import json
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar

ErrorT = TypeVar("ErrorT", bound=BaseException)
CHECKS = ("completion", "chat", "stream", "logprobs", "errors")
"""Columns of the table."""


@dataclass(frozen=True)
class Servers:
    """Addresses of servers of one model, named ``tiny``."""

    open: str
    """Needs no key."""
    keyed: str
    """Needs a key that the clients do not have."""
    full: str
    """Has no place for a request."""


def require(condition: object) -> None:
    """Raise AssertionError unless the condition holds."""
    assert condition


def caught(kind: type[ErrorT], call: Callable[..., object], *args: object, **options: object) -> ErrorT:
    """Return the error of exactly this class that the call raises. Raises AssertionError for any other outcome."""
    try:
        call(*args, **options)
    except kind as error:
        return error
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} instead of {kind.__name__}: {error}") from error
    raise AssertionError(f"no {kind.__name__}")


def run(package: str, **checks: Callable[[Servers], None]) -> None:
    """Run the checks and print ``{"version": …, "results": {check: "" or the reason why it failed}}``."""
    servers = Servers(**json.loads(os.environ["FABELLA_SERVERS"]))
    results: dict[str, Any] = {}
    for name, check in checks.items():
        try:
            check(servers)
            results[name] = ""
        except Exception:  # noqa: BLE001  # of any client: it becomes the result
            results[name] = traceback.format_exc()
    print(json.dumps({"version": version(package), "results": results}))
