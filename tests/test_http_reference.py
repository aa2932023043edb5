"""Tests that the OpenAPI document of the reference describes what the server reads and sends."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.stubs import InProcess, hashing, served_models

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema: make test installs it")
pytestmark = pytest.mark.needs("mkdocs")

HOOKS = Path(__file__).parents[1] / "docs" / "hooks"
CHAT = {"messages": [{"role": "user", "content": "Once"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def document() -> Any:
    sys.path.insert(0, str(HOOKS))
    try:
        import http_reference
    finally:
        sys.path.pop(0)
    return http_reference.openapi()


@pytest.fixture(scope="module")
def app() -> Iterator[InProcess]:
    with InProcess(served_models(hashing())) as app:
        yield app


def validate(document: Any, name: str, value: Any) -> None:
    """Raise ValidationError if a value is not of a schema of the document."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_every_reference_of_the_document_exists(document: Any) -> None:
    schemas = document["components"]["schemas"]
    references = {value for value in strings(document) if value.startswith("#/components/schemas/")}
    assert len(references) > 10
    assert {name.rpartition("/")[2] for name in references} - set(schemas) == set()
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def strings(value: Any) -> Iterator[str]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in items:
        yield from strings(item)
    if isinstance(value, str):
        yield value


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/a", "/tokenizer_info", "/healthz"])
def test_what_is_read_is_as_described(app: InProcess, document: Any, path: str) -> None:
    described = document["paths"][path.replace("/models/a", "/models/{name}")]["get"]
    response = app.get(path)
    assert response.status == 200
    validate(document, name_of(described["responses"]["200"]), response.json)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": ["Once", [1, 2]], "max_tokens": 4, "stop": "x", "logit_bias": {"5": 1.5}}),
        ("/v1/completions", {"max_tokens": 4, "logprobs": 2, "stop": ["a", "b"], "seed": 3}),
        ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2}),
        ("/tokenize", {"prompt": "Once"}),
        ("/detokenize", {"tokens": [1, 2, 3]}),
    ],
)
def test_a_request_and_its_response_are_as_described(app: InProcess, document: Any, path: str, body: Any) -> None:
    described = document["paths"][path]["post"]
    validate(document, name_of(described["requestBody"]), body)
    response = app.post(path, body)
    assert response.status == 200, response.body
    validate(document, name_of(described["responses"]["200"]), response.json)


@pytest.mark.parametrize("body", [{"prompt": 5}, {"max_tokens": "many"}, {"unknown_field": 1}, {"stop": 3}])
def test_what_the_document_does_not_allow_is_refused_with_the_described_error(
    app: InProcess, document: Any, body: Any
) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate(document, "CompletionRequest", body)
    response = app.post("/v1/completions", body)
    assert response.status == 400
    validate(document, "Error", response.json)


def name_of(content: Any) -> str:
    return str(content["content"]["application/json"]["schema"]["$ref"]).rpartition("/")[2]
