"""Why a request is not answered, in the shape that OpenAI's clients read."""

from contextvars import ContextVar
from typing import Any

from fabella.tracking.console import print_status
from fabella.tracking.terminal_escape import escape

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""Of the request that is being answered: in the header x-request-id, and where its failure is said"""


class ApiError(Exception):
    """Answered with ``status``: ``{"error": {"message", "type", "param", "code"}}``."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: int = 0,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code, self.retry_after = message, status, param, code, retry_after

    def body(self) -> dict[str, Any]:
        """The JSON object."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    @property
    def type(self) -> str:
        """As OpenAI's API names the kinds of errors."""
        named = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
        return named.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    @property
    def headers(self) -> dict[str, str]:
        """What goes with the body."""
        found = {"retry-after": str(self.retry_after)} if self.retry_after else {}
        return found | ({"www-authenticate": "Bearer"} if self.status == 401 else {})


def quote(value: object) -> str:
    """A value for a message: short, whatever was sent."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def report(refusal: ApiError) -> None:
    """Say to whoever runs the server what a client is not told."""
    if refusal.status >= 500:
        cause = refusal.__cause__
        what = f"{type(cause).__name__}: {cause}" if cause else refusal.message
        # On one line: what somebody sent must not look like a line of ours.
        print_status(f"request {request_id.get()}: {escape(what)}".replace("\n", "\\n"))
