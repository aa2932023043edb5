"""Tests that host, origin and key are checked before anything else, for every route and method."""

from collections.abc import Iterator

import pytest

from fabella.server.app import PAGE
from fabella.server.limits import Limits
from fabella.server.middleware import HEADERS, PUBLIC
from tests.server.stubs import InProcess, hashing, served_models

KEY = "correct-horse-battery-staple"
ROUTES = [*PAGE, "/healthz", "/metrics", "/v1/models", "/v1/models/a", "/v1/completions", "/v1/chat/completions",
          "/reload", "/tokenize", "/tokenizer_info", "/docs", "/openapi.json",
          "/v1/../metrics", "//metrics", "/nowhere"]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"]
WRONG_KEYS = [None, "", "Bearer", "Bearer ", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", f"Basic {KEY}", KEY,
           f"Bearer {KEY.upper()}", "Bearer \xe9\xff", "Bearer " + "a" * 10_000]  # fmt: skip


@pytest.fixture(scope="module")
def open_server() -> Iterator[InProcess]:
    with InProcess(served_models(hashing())) as app:
        yield app


@pytest.fixture(scope="module")
def locked() -> Iterator[InProcess]:
    with InProcess(served_models(hashing()), limits=Limits(), key=KEY) as app:
        yield app


@pytest.mark.fault("F16", cases=len(ROUTES) * len(WRONG_KEYS))
@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("given", WRONG_KEYS, ids=[f"key-{i}" for i in range(len(WRONG_KEYS))])
def test_without_the_key_only_public_paths_are_open(locked: InProcess, path: str, given: str | None) -> None:
    headers = {} if given is None else {"authorization": given}
    for method in METHODS:
        response = locked.request(method, path, b"{}", content_type="application/json", **headers)
        if path in PUBLIC:
            assert response.status in {200, 405}
        else:
            assert response.status == 401, (method, path)
            assert response.headers["www-authenticate"] == "Bearer"


def test_with_the_key_every_path_is_open(locked: InProcess) -> None:
    response = locked.post("/v1/completions", {"prompt": "Once", "max_tokens": 2}, authorization=f"Bearer {KEY}")
    assert response.status == 200
    assert locked.get("/metrics", authorization=f"bearer {KEY}").status == 200


@pytest.mark.fault("F18", cases=20)
@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("localhost:8000", 200), ("LOCALHOST:1", 200), ("127.0.0.1:8000", 200),
     ("[::1]:8000", 200), ("localhost.", 200),
     ("evil.example", 403), ("localhost.evil.example", 403), ("evil.example:8000", 403),
     ("127.0.0.1.evil.example", 403), ("", 403), ("[::1", 403), ("localhost@evil.example", 403), ("a, localhost", 403)],
)  # fmt: skip
def test_hosts_other_than_known_names_and_addresses_are_refused(open_server: InProcess, host: str, status: int) -> None:
    assert open_server.get("/v1/models", host=host).status == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost:8000", 200), ("http://evil.example", 403), ("null", 403), ("http://localhost:9000", 403),
     ("http://localhost:8000.evil.example", 403), ("", 403), ("http://[::1", 403)],
)  # fmt: skip
def test_other_origins_are_refused(open_server: InProcess, origin: str, status: int) -> None:
    response = open_server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, origin=origin)
    assert response.status == status
    assert not any(name.startswith("access-control") for name in response.headers)


@pytest.mark.parametrize("path", ["/", "/v1/models", "/nowhere", "/healthz"])
def test_every_response_has_the_security_headers(open_server: InProcess, path: str) -> None:
    headers = open_server.get(path).headers
    assert HEADERS.items() <= headers.items()
    assert "unsafe" not in headers["content-security-policy"]
    assert len(headers["x-request-id"]) == 16


def test_error_responses_have_the_security_headers(open_server: InProcess) -> None:
    assert HEADERS.items() <= open_server.get("/", host="evil.example").headers.items()


# ---------------------------------------------------------------- pages of other origins

ORIGIN = "http://localhost:3000"
PREFLIGHT = {"access_control_request_method": "POST", "access_control_request_headers": "authorization,content-type"}


@pytest.fixture(scope="module")
def with_page() -> Iterator[InProcess]:
    """A server with a key that a page of one's own may use."""
    with InProcess(served_models(hashing()), limits=Limits(), key=KEY, origins=(ORIGIN,)) as app:
        yield app


def test_a_page_of_an_allowed_origin_may_send_requests(with_page: InProcess) -> None:
    """The browser first asks, without the key; then it sends the request and hides no part of the answer."""
    asked = with_page.request("OPTIONS", "/v1/completions", b"", origin=ORIGIN, **PREFLIGHT)
    assert asked.status == 200
    assert asked.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in asked.headers["access-control-allow-methods"]
    allowed = asked.headers["access-control-allow-headers"].lower().replace(" ", "").split(",")
    assert {"authorization", "content-type"} <= set(allowed)
    body = {"prompt": "a", "max_tokens": 1}
    for headers, status in (({"authorization": f"Bearer {KEY}"}, 200), ({}, 401)):
        response = with_page.post("/v1/completions", body, origin=ORIGIN, **headers)
        assert response.status == status
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "retry-after" in response.headers["access-control-expose-headers"].lower()
        assert "origin" in response.headers["vary"].lower()
        assert HEADERS.items() <= response.headers.items()


@pytest.mark.fault("F18", cases=16)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/models", "/reload", "/nowhere"])
@pytest.mark.parametrize(
    "origin", ["http://localhost:3001", "https://localhost:3000", "http://localhost:3000.evil.example", "null"]
)
def test_pages_of_other_origins_stay_refused(with_page: InProcess, path: str, origin: str) -> None:
    for method, headers in (("OPTIONS", PREFLIGHT), ("POST", {"authorization": f"Bearer {KEY}"})):
        response = with_page.request(method, path, b"{}", origin=origin, **headers)
        assert response.status == 403
        assert "--allowed-origin" in response.error["message"]
        assert not any(name.startswith("access-control-allow") for name in response.headers)
