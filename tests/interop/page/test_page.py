"""Tests of the exported page in a browser, opened from a file: desk and phone, mouse, touch and keyboard."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fabella.interop.formats import html
from fabella.interop.page.render import render
from fabella.interop.source import open_source
from tests.interop.tiny_exports import make_run
from tests.server.chromium import CONTROL, Browser, Page, find, started

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find(), reason="needs Chromium or Chrome")]

HOSTILE = "</script><img src=x onerror=hacked=1> & <b>Lily</b>"
NO_END = "Math.random = () => 0.7"
"""With other numbers, this model may end a story before the page shows that it can be stopped."""
IDLE = "document.querySelector('#stop').disabled && /per second/.test(document.querySelector('#status').textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with started(find(), tmp_path_factory.mktemp("profile")) as started_browser:
        yield started_browser


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    source = open_source(make_run(folder / "run", "llama", prompts=("Once upon a time", HOSTILE)), "best")
    (folder / html.FILE).write_text(render(source), encoding="utf-8")
    return folder / html.FILE


def assert_self_contained(page: Page, file: Path) -> None:
    assert page.complaints == []
    assert page.addresses - {"about:blank"} <= {file.as_uri(), "data:,"}
    assert page.run("typeof hacked") == "undefined"


@pytest.mark.parametrize(("width", "phone", "dark"), [(1000, False, False), (360, True, True)])
def test_a_page_generates_continues_and_stops_without_a_request(
    browser: Browser, file: Path, width: int, phone: bool, dark: bool
) -> None:
    page = browser.open(file.as_uri(), width=width, phone=phone, dark=dark)
    page.run(NO_END)
    act = page.tap if phone else page.click
    act("#generate")
    page.wait(IDLE)
    assert page.text("#beginning") == "Once upon a time"
    first = page.run("document.querySelector('#completion').textContent")
    page.run("document.querySelector('#length').value = 5000")
    act("#continue")
    page.wait("!document.querySelector('#stop').disabled")
    act("#stop")
    page.wait(IDLE)
    assert page.run("document.querySelector('#completion').textContent").startswith(first)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    assert_self_contained(page, file)


def test_temperature_0_gives_the_same_text_each_time(browser: Browser, file: Path) -> None:
    page = browser.open(file.as_uri())
    page.run("document.querySelector('#temperature').value = 0")
    texts: list[str] = []
    for _ in range(2):
        page.run("document.querySelector('#prompt').focus()")
        page.press("Enter", CONTROL)
        page.wait(IDLE)
        texts.append(page.run("document.querySelector('#completion').textContent"))
        page.run("document.querySelector('#status').textContent = ''")
    assert texts[0] == texts[1]


@pytest.mark.fault("E19", cases=1)
def test_markup_in_a_prompt_is_shown_as_text(browser: Browser, file: Path) -> None:
    page = browser.open(file.as_uri())
    page.run(NO_END)
    page.click("#examples button", 1)
    page.press("Enter", CONTROL)
    page.wait("!document.querySelector('#stop').disabled")
    page.press("Escape")
    page.wait(IDLE)
    assert page.run("document.querySelector('#beginning').textContent") == HOSTILE
    assert_self_contained(page, file)
