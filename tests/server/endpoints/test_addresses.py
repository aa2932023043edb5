"""Wrong addresses, methods and media types are answered with the right ones."""

from collections.abc import Iterator

import pytest

from fabella.server.endpoints.addresses import OTHER_APIS, UNSUPPORTED
from tests.server.stubs import InProcess, hashing, served_models


@pytest.fixture(scope="module")
def app() -> Iterator[InProcess]:
    with InProcess(served_models(hashing())) as app:
        yield app


@pytest.mark.parametrize("path", ["/completions", "/chat/completions", "/models"])
def test_an_address_without_v1_is_answered_with_the_right_one(app: InProcess, path: str) -> None:
    for method in ("GET", "POST"):
        response = app.request(method, path, b"{}", content_type="application/json")
        assert response.status == 404
        assert f"Did you mean /v1{path}? The base URL of a client ends in /v1." in response.error["message"]


def test_an_unknown_address_is_answered_with_those_of_the_api(app: InProcess) -> None:
    message = app.get("/v2/nothing").error["message"]
    assert "POST /v1/completions, POST /v1/chat/completions, GET /v1/models" in message
    assert "Did you mean '/tokenize'?" in app.post("/tokenise", {}).error["message"]
    assert "Did you mean '/v1/chat/completions'?" in app.post("/v1/chat", {}).error["message"]


@pytest.mark.parametrize("path", [*OTHER_APIS, "/v1/", "/graphql", "/page/nothing.js", "/index.php"])
def test_an_address_of_another_api_is_answered_with_those_of_this_one(app: InProcess, path: str) -> None:
    message = app.post(path, {}).error["message"]
    assert OTHER_APIS.get(path.rstrip("/"), "There is nothing at the address") in message
    assert "Addresses of the API: POST /v1/completions" in message
    assert "Did you mean" not in message
    assert "story.js" not in message


@pytest.mark.parametrize("path", UNSUPPORTED)
def test_an_unsupported_endpoint_of_openai_says_so(app: InProcess, path: str) -> None:
    for address in (path, path.removeprefix("/v1"), f"{path}/x"):
        response = app.post(address, {"model": "a", "input": "Once"})
        assert (response.status, response.error["code"]) == (404, "unsupported_endpoint")
        assert UNSUPPORTED[path] in response.error["message"]


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [("GET", "/v1/completions", "POST"), ("PUT", "/v1/chat/completions", "POST"), ("POST", "/v1/models", "GET"),
     ("DELETE", "/v1/models/a", "GET"), ("GET", "/tokenize", "POST"), ("POST", "/tokenizer_info", "GET")],
)  # fmt: skip
def test_a_wrong_method_is_answered_with_the_right_one(app: InProcess, method: str, path: str, right: str) -> None:
    response = app.request(method, path, b"")
    assert response.status == 405
    assert response.error["message"] == f"The method {method} is not allowed here. Use {right}."
    assert right in response.headers["allow"]


@pytest.mark.parametrize("media_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_a_wrong_media_type_is_answered_with_an_example(app: InProcess, media_type: str) -> None:
    """curl sends a form without the option -H."""
    response = app.post("/v1/completions", {"prompt": "x"}, content_type=media_type)
    assert response.status == 415
    assert "-H 'content-type: application/json'" in response.error["message"]
