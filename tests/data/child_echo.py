"""Child module of test_child_process.py: reverses the parts of a request, or obeys its first part."""

import os
import sys
from typing import Any

from fabella.data.child_process import Frame, Handler, serve
from fabella.errors import ConfigError, TextError


class OwnError(TextError):
    """Error that fabella.errors does not have."""


def open_handler(request: dict[str, Any]) -> Handler:
    """Refuse a request with "refuse"; otherwise return the handler."""
    if request.get("refuse"):
        raise ConfigError("refused", hint="Ask again.")

    def handle(parts: Frame) -> list[bytes]:
        match parts[0]:
            case b"error":
                raise OwnError("no text", hint="Bring some.")
            case b"crash":
                raise SystemError("broken library")
            case b"print":
                print("printed by a library")
            case b"exit":
                os._exit(7)
            case _:
                pass
        return [part[::-1] for part in parts]

    return handle


if __name__ == "__main__":
    sys.exit(serve(open_handler))
