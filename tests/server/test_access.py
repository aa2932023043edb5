"""Origins are written as browsers write them."""

import pytest

from fabella.errors import UsageError
from fabella.server.access import require_origins


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
