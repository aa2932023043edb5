"""Answers to wrong addresses and methods: they say which ones there are."""

from collections.abc import Sequence

from starlette.routing import Route

from fabella.errors import did_you_mean
from fabella.server.api_error import ApiError, quote

_CHAT = "/v1/chat/completions"
UNSUPPORTED = {
    "/v1/embeddings": "The models generate text and have no embeddings.",
    "/v1/responses": f"Use {_CHAT} (in OpenAI's clients: chat.completions.create instead of responses.create).",
    "/v1/moderations": "The models generate text and classify none.",
    "/v1/images": "The models generate text only.",
    "/v1/audio": "The models generate text only.",
    "/v1/files": "The server stores nothing.",
    "/v1/uploads": "The server stores nothing.",
    "/v1/batches": f"Send several prompts in one request to /v1/completions, or many requests to {_CHAT} at once.",
    "/v1/fine_tuning": "Train with the command fabella train.",
    "/v1/assistants": f"Use {_CHAT}.",
    "/v1/threads": f"Use {_CHAT}.",
    "/v1/conversations": f"Use {_CHAT}.",
    "/v1/vector_stores": "The server stores nothing.",
}
"""Address of OpenAI's API that is not supported → what to do instead. Includes all addresses below it."""


def not_found(path: str, routes: Sequence[Route]) -> ApiError:
    """Return the error for an address that does not exist; ``routes`` are those that do."""
    message = "This address is not supported: "
    for prefix, advice in UNSUPPORTED.items():
        if any(path == start or path.startswith(f"{start}/") for start in (prefix, prefix.removeprefix("/v1"))):
            return ApiError(f"{message}{prefix}. {advice}", status=404, code="unsupported_endpoint")
    paths = [route.path for route in routes if "{" not in route.path]
    if f"/v1{path}" in paths:
        advice = f"Did you mean /v1{path}? The base URL of a client ends in /v1."
    else:
        advice = did_you_mean(path[:100], paths)
    listed = ", ".join(
        f"{_method(route)} {route.path.replace(':path', '')}" for route in routes if route.path.startswith("/v1")
    )
    message = f"There is nothing at the address {quote(path)}. {advice} Addresses of the API: {listed}."
    return ApiError(message, status=404, code="unknown_url")


def method_not_allowed(method: str, allowed: str) -> ApiError:
    """Return the error for a method that an address does not have; ``allowed`` is the header Allow."""
    methods = [name for name in allowed.replace(" ", "").split(",") if name != "HEAD"] or ["POST"]
    message = f"The method {quote(method)[1:-1]} is not allowed here. Use {' or '.join(sorted(methods))}."
    return ApiError(message, status=405, code="method_not_allowed")


def _method(route: Route) -> str:
    return "POST" if "POST" in (route.methods or ()) else "GET"
