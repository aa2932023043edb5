"""The reference page of the HTTP API, as tables and as an OpenAPI document.

The addresses are read from the server's routes: one without a description here stops the build of the site.
"""

import ast
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from markdown_reference import attribute_docs, default_text, escape, markdown, table_lines, type_name

import fabella
from fabella.server.endpoints.reload import ReloadRequest
from fabella.server.endpoints.tokenizer import DetokenizeRequest, TokenizeRequest
from fabella.server.requests.chat_message import ChatMessage
from fabella.server.requests.json_body import Body
from fabella.server.requests.schema import ChatRequest, CompletionRequest

ROUTES = Path(fabella.__file__).parent / "server" / "app.py"
TEXT, INTEGER, NUMBER, BOOLEAN = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}


def listed(item: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a list."""
    return {"type": "array", "items": item}


def made_of(**properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with these keys."""
    return {"type": "object", "required": list(properties), "properties": properties}


USAGE = made_of(prompt_tokens=INTEGER, completion_tokens=INTEGER, total_tokens=INTEGER)
LOGPROBS = {"type": ["object", "null"], "description": "null unless the request has logprobs"}
REASON = {"enum": ["stop", "length", None], "description": "null in a chunk that is not the last one"}
HEAD = {"id": TEXT, "object": TEXT, "created": INTEGER, "model": TEXT, "system_fingerprint": TEXT}
CHOICE = {"index": INTEGER, "logprobs": LOGPROBS, "finish_reason": REASON}
ANSWER = made_of(role=TEXT, content=TEXT, refusal={"type": "null"})
RESPONSES: dict[str, dict[str, Any]] = {
    "Completion": made_of(**HEAD, choices=listed(made_of(text=TEXT, **CHOICE)), usage=USAGE),
    "ChatCompletion": made_of(**HEAD, choices=listed(made_of(message=ANSWER, **CHOICE)), usage=USAGE),
    "Model": made_of(id=TEXT, object=TEXT, created=INTEGER, owned_by=TEXT, fabella={"type": "object"}),
    "Models": made_of(object=TEXT, data=listed({"$ref": "#/components/schemas/Model"})),
    "Tokens": made_of(count=INTEGER, max_model_len=INTEGER, tokens=listed(INTEGER)),
    "Prompt": made_of(prompt=TEXT),
    "TokenizerInfo": made_of(
        tokenizer_class=TEXT, vocab_size=INTEGER, model_max_length=INTEGER, eos_token=TEXT, eos_token_id=INTEGER,
        bos_token={"type": ["string", "null"]}, chat_template={"type": ["string", "null"]},
    ),
    "Health": made_of(status={"enum": ["ok", "failing"]}),
    "Error": made_of(
        error=made_of(
            message=TEXT, type=TEXT, param={"type": ["string", "null"]}, code={"type": ["string", "null"]}
        )
    ),
}  # fmt: skip
"""Name → schema of a response."""
ENDPOINTS: dict[str, tuple[str, type[Body] | None, str]] = {
    "/v1/completions": ("Continue one prompt or several.", CompletionRequest, "Completion"),
    "/v1/chat/completions": ("Answer a conversation.", ChatRequest, "ChatCompletion"),
    "/v1/models": ("List the served models.", None, "Models"),
    "/v1/models/{name}": ("Describe one served model.", None, "Model"),
    "/tokenize": ("Return the token ids of a text.", TokenizeRequest, "Tokens"),
    "/detokenize": ("Return the text of token ids.", DetokenizeRequest, "Prompt"),
    "/tokenizer_info": ("Describe the tokenizer of a model; `?model=NAME` chooses one.", None, "TokenizerInfo"),
    "/reload": ("Load the newest checkpoint of a model, without downtime.", ReloadRequest, "Model"),
    "/healthz": ("Say whether all models work: 200, else 503.", None, "Health"),
    "/metrics": ("Return the metrics in the text format of Prometheus.", None, ""),
}
"""Address → what it does, the body of its request, and the name of its response."""
TYPES = {
    "prompt": ("text, list of token ids, or list of these", '`""`'),
    "stop": ("text or list of text", "`[]`"),
    "logit_bias": ("object of numbers", "`{}`"),
}
"""Field → type and default as a client writes them, where the server holds another form."""
ERRORS = {
    400: "a field is wrong, not supported, or the prompt is too long",
    401: "the API key is missing or wrong",
    403: "the host or the origin of the request is not allowed",
    404: "there is no such model or address",
    405: "the address has another method",
    408: "the body took too long to arrive",
    409: "the newest checkpoint is older than the served one",
    413: "the body is too large",
    415: "the body is not application/json",
    429: "the queue is full; Retry-After says when to try again",
    500: "the generation or the loading of a checkpoint failed; the server's log has the cause",
    503: "the server ends, or has too many connections",
}


def http_page() -> str:
    """Return the addresses, the fields of their requests, the errors, and the OpenAPI document."""
    lines = [
        "# HTTP API",
        "",
        "`fabella serve RUN` has OpenAI's API. [Serving](../guide-serve.md) has examples and limits. `null` in a field",
        "means its default. With an API key, send `Authorization: Bearer KEY`. The [OpenAPI document](#openapi) is at",
        "the end of this page.",
        "",
    ]
    rows = [(f"`{method} {path}`", ENDPOINTS[path][0]) for path, method in routes()]
    lines += table_lines(("Address", "What it does"), rows)
    for path, method in routes():
        _, request, response = ENDPOINTS[path]
        lines += [f"## {method} {path}", "", markdown(request) if request else ENDPOINTS[path][0], ""]
        lines += _fields(request) if request else []
        if response:
            keys = ", ".join(f"`{name}`" for name in RESPONSES[response]["properties"])
            lines += [f"The response is an object with {keys}.", ""]
    lines += ["## Streamed responses", "", STREAMS, "", "## Errors", "", ERROR_FORM, ""]
    lines += table_lines(("Status", "Cause"), [(str(status), cause) for status, cause in ERRORS.items()])
    lines += ["## OpenAPI", "", "```json", json.dumps(openapi(), indent=1, default=str), "```", ""]
    return "\n".join(lines)


STREAMS = """With `stream: true`, the response is a stream of server-sent events (`text/event-stream`). Each line
`data: …` is a chunk: the object of the whole response without `usage`, and with `delta` in place of `message` for a
chat. The last line is `data: [DONE]`. With `stream_options: {"include_usage": true}` a chunk with `usage` and without
choices comes before it. An error after the first chunk is an event with the key `error`."""
ERROR_FORM = 'An error is `{"error": {"message", "type", "param", "code"}}`; `param` names the field, if it is one.'


def _fields(request: type[Body]) -> Iterator[str]:
    docs = attribute_docs(request)
    rows: list[tuple[str, ...]] = []
    for name, field in request.model_fields.items():
        kind, default = TYPES.get(field.alias or name, (type_name(field.annotation), default_text(field)))
        rows.append((f"`{field.alias or name}`", escape(kind), default, escape(docs.get(name, ""))))
    return table_lines(("Field", "Type", "Default", "Meaning"), rows)


@cache
def routes() -> tuple[tuple[str, str], ...]:
    """Return the addresses of the API and their methods, in the order of ENDPOINTS."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(ROUTES.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Route":
            path = node.args[0]
            if isinstance(path, ast.Constant):
                methods = [ast.literal_eval(word.value) for word in node.keywords if word.arg == "methods"]
                found[str(path.value).replace(":path", "")] = methods[0][0] if methods else "GET"
    if set(found) != set(ENDPOINTS):
        raise ValueError(f"docs/hooks/http_reference.py and the routes differ: {set(found) ^ set(ENDPOINTS)}")
    return tuple((path, found[path]) for path in ENDPOINTS)


def openapi() -> dict[str, Any]:
    """Return the API as an OpenAPI 3.1 document."""
    paths: dict[str, Any] = {}
    for path, method in routes():
        summary, request, response = ENDPOINTS[path]
        operation: dict[str, Any] = {"summary": summary, "responses": _responses(path, request, response)}
        if request:
            operation["requestBody"] = {"required": True, "content": _content(request.__name__)}
        if "{name}" in path:
            operation["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": TEXT}]
        if path == "/tokenizer_info":
            operation["parameters"] = [{"name": "model", "in": "query", "schema": TEXT}]
        paths[path] = {method.lower(): operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Fabella", "version": fabella.__version__},
        "servers": [{"url": "http://127.0.0.1:8000"}],
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {**_request_schemas(), **RESPONSES},
        },
    }


def _responses(path: str, request: type[Body] | None, response: str) -> dict[str, Any]:
    statuses = [status for status in ERRORS if request or status in {401, 403, 503}]
    if path == "/v1/models/{name}":
        statuses = [401, 403, 404, 503]
    result: dict[str, Any] = {"200": {"description": "success"}}
    result["200"]["content"] = _content(response) if response else {"text/plain": {"schema": TEXT}}
    if request in {CompletionRequest, ChatRequest}:
        result["200"]["content"]["text/event-stream"] = {"schema": TEXT}
    for status in sorted(statuses):
        if status not in {405, 409} or (status == 409 and path == "/reload"):
            result[str(status)] = {"description": ERRORS[status], "content": _content("Error")}
    return result


def _content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _request_schemas() -> dict[str, Any]:
    """Return the schemas of all requests and of what they contain, as the server reads them."""
    schemas: dict[str, Any] = {}
    for request in (CompletionRequest, ChatRequest, TokenizeRequest, DetokenizeRequest, ReloadRequest, ChatMessage):
        schema = request.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[request.__name__] = schema
        docs = attribute_docs(request)
        for name, field in request.model_fields.items():
            entry = schema["properties"][field.alias or name]
            entry.pop("title", None)
            if name in docs:
                entry["description"] = docs[name]
    ids = listed(INTEGER)
    prompt = schemas["CompletionRequest"]["properties"]["prompt"]
    prompt |= {"anyOf": [TEXT, ids, listed({"anyOf": [TEXT, ids]})], "default": ""}
    for key in ("type", "items"):
        prompt.pop(key, None)
    for name in ("CompletionRequest", "ChatRequest"):
        properties = schemas[name]["properties"]
        bias = {"type": "object", "additionalProperties": NUMBER, "default": {}}
        properties["logit_bias"] = bias | {"description": properties["logit_bias"].get("description", "")}
        properties["stop"] = {"anyOf": [TEXT, listed(TEXT)], "description": properties["stop"].get("description", "")}
    return schemas
