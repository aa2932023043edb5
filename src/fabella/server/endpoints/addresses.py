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
OTHER_APIS = {
    "/v1/messages": "That is an address of Anthropic's API.",
    "/v1/complete": "That is an address of Anthropic's API.",
    "/api/generate": "That is an address of Ollama's API.",
    "/api/chat": "That is an address of Ollama's API.",
    "/api/tags": "That is an address of Ollama's API.",
    "/completion": "That is an address of llama.cpp's own API.",
    "/infill": "That is an address of llama.cpp's own API.",
    "/props": "That is an address of llama.cpp's own API.",
    "/generate": "That is an address of Text Generation Inference.",
    "/generate_stream": "That is an address of Text Generation Inference.",
    "/v1/rerank": "The models generate text and rank nothing.",
    "/v1/score": "The models generate text and score no pairs.",
    "/v1": "It is the base URL of a client, which adds the address of a call.",
}
"""Address of another server's API → what it is. The answer lists the addresses of this one."""


def not_found(path: str, routes: Sequence[Route]) -> ApiError:
    """Return the error for an address that does not exist; ``routes`` are those that do."""
    message = "This address is not supported: "
    for prefix, advice in UNSUPPORTED.items():
        if any(path == start or path.startswith(f"{start}/") for start in (prefix, prefix.removeprefix("/v1"))):
            return ApiError(f"{message}{prefix}. {advice}", status=404, code="unsupported_endpoint")
    paths = [route.path for route in routes if "{" not in route.path and not route.path.startswith("/page")]
    below = [other for other in paths if path.strip("/") and other.startswith(f"{path.rstrip('/')}/")]
    if f"/v1{path}" in paths:
        advice = f"Did you mean /v1{path}? The base URL of a client ends in /v1."
    elif known := OTHER_APIS.get(path.rstrip("/")):
        advice = known
    elif len(below) == 1:
        advice = f"Did you mean {quote(below[0])}?"
    else:
        nearest = did_you_mean(path[:100], [other for other in paths if other != "/"])
        advice = nearest if nearest.startswith("Did you mean") else ""
    listed = ", ".join(
        f"{_method(route)} {route.path.replace(':path', '')}" for route in routes if route.path.startswith("/v1")
    )
    problem = " ".join(filter(None, (f"There is nothing at the address {quote(path)}.", advice)))
    message = f"{problem} Addresses of the API: {listed}."
    return ApiError(message, status=404, code="unknown_url")


def method_not_allowed(method: str, allowed: str) -> ApiError:
    """Return the error for a method that an address does not have; ``allowed`` is the header Allow."""
    methods = [name for name in allowed.replace(" ", "").split(",") if name != "HEAD"] or ["POST"]
    message = f"The method {quote(method)[1:-1]} is not allowed here. Use {' or '.join(sorted(methods))}."
    return ApiError(message, status=405, code="method_not_allowed")


def _method(route: Route) -> str:
    return "POST" if "POST" in (route.methods or ()) else "GET"
