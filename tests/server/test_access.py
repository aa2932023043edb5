"""Origins are written as browsers write them."""

import pytest

from fabella.errors import UsageError
from fabella.server.access import option_for_host, option_for_origin, require_origins


@pytest.mark.parametrize(
    ("given", "origin"),
    [("http://localhost:3000", "http://localhost:3000"), ("http://localhost:3000/", "http://localhost:3000"),
     ("https://Example.org", "https://example.org"), ("https://example.org:443", "https://example.org"),
     ("http://example.org:80", "http://example.org"), ("http://[::1]:5173", "http://[::1]:5173")],
)  # fmt: skip
def test_an_origin_is_normalized(given: str, origin: str) -> None:
    assert require_origins([given]) == [origin]


@pytest.mark.parametrize(
    "given",
    ["*", "null", "localhost:3000", "http://", "http://a/page", "http://a?b", "http://*.a", "ftp://a", "http://u@a",
     "http://a:99999", ""],
)  # fmt: skip
def test_anything_else_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match=r"--allowed-origin http://localhost:3000"):
        require_origins([given])


@pytest.mark.parametrize(
    ("sent", "option"),
    [("http://localhost:3001", "http://localhost:3001"), ("http://[::1]:5173", "http://[::1]:5173"),
     ("null", "http://HOST:PORT"), ("http://a b", "http://HOST:PORT"), ("http://a;rm", "http://HOST:PORT"),
     ("http://a:99999", "http://HOST:PORT")],
)  # fmt: skip
def test_a_refused_origin_is_named_in_the_option_that_allows_it(sent: str, option: str) -> None:
    assert option_for_origin(sent) == f"--allowed-origin {option}"
    if sent == option:
        assert require_origins([sent]) == [sent]


@pytest.mark.parametrize(
    ("sent", "name"),
    [("my-service:8000", "my-service"), ("a.example.org", "a.example.org"), ("", "NAME"), ("a$(b)", "NAME")],
)
def test_a_refused_host_is_named_in_the_option_that_allows_it(sent: str, name: str) -> None:
    assert option_for_host(sent) == f"--allowed-host {name}"
