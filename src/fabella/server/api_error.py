"""Errors of the API, in the format of OpenAI's clients."""

from contextvars import ContextVar
from typing import Any

from fabella.tracking.console import print_status
from fabella.tracking.terminal_escape import escape

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""Id of the current request: sent in the header x-request-id and logged with a server error."""

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_QUOTED_CHARACTERS = 60


class ApiError(Exception):
    """Error response with an HTTP ``status``: ``{"error": {"message", "type", "param", "code"}}``."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: int = 0,
        closes: bool = False,
    ) -> None:
        """``retry_after``: seconds for the header Retry-After; 0 omits it. ``closes``: close the connection."""
        super().__init__(message)
        self.message, self.status, self.param, self.code, self.retry_after = message, status, param, code, retry_after
        self._closes = closes

    def body(self) -> dict[str, Any]:
        """Return the JSON object of the response."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    @property
    def type(self) -> str:
        """OpenAI's name for the kind of error."""
        return _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        headers = {"retry-after": str(self.retry_after)} if self.retry_after else {}
        headers |= {"connection": "close"} if self._closes else {}
        return headers | ({"www-authenticate": "Bearer"} if self.status == 401 else {})


def quote(value: object) -> str:
    """Return a value for a message, at most 60 characters long."""
    text = repr(value)
    return text if len(text) <= _QUOTED_CHARACTERS else f"{text[: _QUOTED_CHARACTERS - 3]}…"


def log_server_error(error: ApiError) -> None:
    """Log the cause of a 5xx error, which the client does not see."""
    if error.status >= 500:
        cause = error.__cause__
        reason = f"{type(cause).__name__}: {cause}" if cause else error.message
        # On one line: text that a client sent must not look like a log line of the server.
        print_status(f"request {request_id.get()}: {escape(reason)}".replace("\n", "\\n"))
