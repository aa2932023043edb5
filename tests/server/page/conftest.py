"""The browser of the tests of the story page."""

from collections.abc import Iterator

import pytest

from tests.server.chromium import Browser, find, started


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Start a browser for the tests of a file."""
    with started(find(), tmp_path_factory.mktemp("profile")) as started_browser:
        yield started_browser
