"""Who may ask: every route and method has its rule; names, origins and keys are looked at before anything else."""

from collections.abc import Iterator

import pytest

from fabella.server.limits import Limits
from fabella.server.middleware import HEADERS, PUBLIC
from tests.server.stubs import InProcess, hashing, shelf

KEY = "correct-horse-battery-staple"
ROUTES = ["/", "/healthz", "/metrics", "/page/story.css", "/page/story.js", "/v1/models", "/v1/models/a",
          "/v1/completions", "/v1/chat/completions", "/reload", "/docs", "/openapi.json",
          "/v1/../metrics", "//metrics", "/nowhere"]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"]
NO_KEYS = [None, "", "Bearer", "Bearer ", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", f"Basic {KEY}", KEY,
           f"Bearer {KEY.upper()}", "Bearer \xe9\xff", "Bearer " + "a" * 10_000]  # fmt: skip


@pytest.fixture(scope="module")
def open_house() -> Iterator[InProcess]:
    with InProcess(shelf(hashing())) as found:
        yield found


@pytest.fixture(scope="module")
def locked() -> Iterator[InProcess]:
    with InProcess(shelf(hashing()), limits=Limits(), key=KEY) as found:
        yield found


@pytest.mark.fault("F16", cases=165)
@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("given", NO_KEYS, ids=[f"key-{i}" for i in range(len(NO_KEYS))])
def test_without_the_key_only_the_empty_page_is_open(locked: InProcess, path: str, given: str | None) -> None:
    headers = {} if given is None else {"authorization": given}
    for method in METHODS:
        answer = locked.ask(method, path, b"{}", content_type="application/json", **headers)
        if path in PUBLIC:
            assert answer.status in {200, 405}
        else:
            assert answer.status == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"


def test_with_the_key_everything_is_open(locked: InProcess) -> None:
    answer = locked.post("/v1/completions", {"prompt": "Once", "max_tokens": 2}, authorization=f"Bearer {KEY}")
    assert answer.status == 200
    assert locked.get("/metrics", authorization=f"bearer {KEY}").status == 200


@pytest.mark.fault("F18", cases=20)
@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("localhost:8000", 200), ("LOCALHOST:1", 200), ("127.0.0.1:8000", 200),
     ("[::1]:8000", 200), ("localhost.", 200),
     ("evil.example", 403), ("localhost.evil.example", 403), ("evil.example:8000", 403),
     ("127.0.0.1.evil.example", 403), ("", 403), ("[::1", 403), ("localhost@evil.example", 403), ("a, localhost", 403)],
)  # fmt: skip
def test_a_page_of_another_site_cannot_reach_us_by_a_name_of_its_own(
    open_house: InProcess, host: str, status: int
) -> None:
    assert open_house.get("/v1/models", host=host).status == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost:8000", 200), ("http://evil.example", 403), ("null", 403), ("http://localhost:9000", 403),
     ("http://localhost:8000.evil.example", 403), ("", 403)],
)  # fmt: skip
def test_other_origins_are_refused(open_house: InProcess, origin: str, status: int) -> None:
    answer = open_house.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, origin=origin)
    assert answer.status == status
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize("path", ["/", "/v1/models", "/nowhere", "/healthz"])
def test_every_answer_carries_the_policy(open_house: InProcess, path: str) -> None:
    headers = open_house.get(path).headers
    assert HEADERS.items() <= headers.items()
    assert "unsafe" not in headers["content-security-policy"]
    assert len(headers["x-request-id"]) == 16


def test_refusals_carry_it_too(open_house: InProcess) -> None:
    assert HEADERS.items() <= open_house.get("/", host="evil.example").headers.items()
