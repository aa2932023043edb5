"""Tests that the story page reports every failure, discards failed changes, and remains usable."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.chromium import Browser, Page, find
from tests.server.page.scripted_server import (
    COMPLETIONS,
    MODEL,
    MODELS,
    Answer,
    ScriptedServer,
    html,
    models,
    refused,
    scripted,
    tokens,
)
from tests.server.page.states import generate

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find(), reason="needs Chromium or Chrome")]

FAILED = "document.querySelector('#status.failed')"
DOGS = tokens(" dog", " ran", " and", " sat", reason="length")
ANY_STATUS = [300, 400, 403, 404, 405, 408, 413, 422, 429, 500, 501, 502, 503, 504, 520]
BODIES = {
    "html": ("<html>Bad gateway</html>", "text/html"),
    "empty": ("", "text/plain"),
    "list": ("[1, 2]", "application/json"),
    "string": ('"no"', "application/json"),
    "null": ("null", "application/json"),
    "other error": ('{"error": "no"}', "application/json"),
    "blank message": ('{"error": {"message": " "}}', "application/json"),
    "torn": ('{"error": {"mess', "application/json"),
}


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted() as running:
        running.completes(DOGS)
        yield running


@pytest.fixture
def page(browser: Browser, server: ScriptedServer) -> Iterator[Page]:
    page = browser.open(server.url)
    yield page
    assert not any("Uncaught" in complaint or "exceptionThrown" in complaint for complaint in page.complaints)


def story(page: Page) -> str:
    return page.run("document.querySelector('.story').textContent")


def versions(page: Page) -> list[str]:
    return page.run("[...document.querySelectorAll('.versions button')].map((one) => one.textContent)")


def is_sentence(status: str) -> bool:
    return len(status) > 30 and "undefined" not in status and "JSON" not in status and "<" not in status


@pytest.mark.fault("I13", cases=len(ANY_STATUS) * len(BODIES))
def test_any_status_with_any_body_is_explained_and_leaves_nothing(page: Page, server: ScriptedServer) -> None:
    generate(page)
    before = story(page)
    for status in ANY_STATUS:
        for body, kind in BODIES.values():
            server.completes(Answer(status, body, kind))
            said = generate(page)
            assert is_sentence(said), (status, body, said)
            assert f"HTTP {status}" in said
            assert page.run("document.querySelector('#status').className") == "failed"
            assert (story(page), versions(page)) == (before, [])
    server.completes(DOGS)
    assert generate(page).startswith("4 tokens")
    assert len(versions(page)) == 2


def test_the_words_of_the_server_are_shown(page: Page, server: ScriptedServer) -> None:
    server.completes(refused("The queue is full. Try again later.", 429, **{"Retry-After": "3"}))
    assert generate(page) == "The queue is full. Try again later. Retry after 3 seconds."
    color = page.run("getComputedStyle(document.querySelector('#status')).color")
    assert color == page.run("getComputedStyle(document.querySelector('h1')).color"), "errors have the accent color"


STREAMS = [
    Answer(200, "<html>Log in</html>", "text/html"),
    Answer(200, "{}", "application/json"),
    Answer(events=("{torn",)),
    Answer(events=('{"error": {"message": "Generation failed. The device has no memory left."}}',)),
    Answer(events=('{"choices": []}',)),
    Answer(events=('{"choices": []}',), end=False),
]


@pytest.mark.fault("I13", cases=len(STREAMS))
@pytest.mark.parametrize("answer", STREAMS)
def test_a_stream_that_is_none_is_explained(page: Page, server: ScriptedServer, answer: Answer) -> None:
    server.completes(answer)
    server.lost.set()
    assert is_sentence(generate(page))
    assert page.run(f"Boolean({FAILED})")
    assert story(page).startswith("The story appears here.")
    assert page.run("document.querySelector('#continue').disabled"), "there is nothing to continue"


def test_a_lost_connection_keeps_the_text_and_continue_goes_on(page: Page, server: ScriptedServer) -> None:
    server.completes(tokens(" dog", " ran", reason=None, end=False), tokens(" home", "."))
    page.click("#generate")
    page.wait("/ran$/.test(document.querySelector('.story').textContent)")
    server.lost.set()
    page.wait(FAILED)
    assert page.text("#status") == (
        "The connection to the server was lost before the end of the text. The text so far is kept: press Continue."
    )
    assert story(page) == "Once upon a time dog ran"
    assert "2 tokens" in generate(page, "#continue")
    assert story(page) == "Once upon a time dog ran home."
    assert versions(page) == []


def test_the_end_of_a_story_cannot_be_continued(page: Page, server: ScriptedServer) -> None:
    server.completes(tokens(" dog", "."))
    assert "complete" in generate(page)
    assert page.run("document.querySelector('#continue').disabled")
    page.click(".word")
    generate(page, "#regenerate")
    assert page.run("document.querySelector('#continue').disabled")
    server.completes(tokens(""))
    assert "ended the text at once" in generate(page)


def test_an_invalid_setting_in_the_closed_panel_is_shown(page: Page, server: ScriptedServer) -> None:
    for field, value, rule in (
        ("length", "999999", "Max new tokens must be a whole number from 1 to 70."),
        ("length", "", "Max new tokens must be a whole number from 1 to 70."),
        ("seed", "1.5", "Seed must be a whole number from 0 to 2,147,483,647."),
    ):
        page.run("document.querySelector('#panel').open = false")
        page.run(f"document.querySelector('#{field}').value = '{value}'")
        assert generate(page) == rule
        assert page.run("document.activeElement.id") == field
        assert page.run("document.activeElement.offsetHeight") > 0, "its panel is open"
        page.run(f"document.querySelector('#{field}').value = 5")
    assert [path for path, _, _ in server.received if path == COMPLETIONS] == []
    assert "tokens" in generate(page)


def test_a_beginning_that_is_cut_is_said_to_be_cut(page: Page, server: ScriptedServer) -> None:
    def answer(body: Any) -> Answer:
        if body.get("truncate_prompt_tokens") or body.get("echo"):
            return DOGS if not body.get("echo") else refused("echo is not supported.", code="unsupported_parameter")
        return refused("This model's maximum context length is 31 tokens.", code="context_length_exceeded")

    server.answers[COMPLETIONS] = answer
    page.run("document.querySelector('#beginning').value = 'many words '.repeat(1000)")
    assert "it read only the last 31 tokens of it" in generate(page)
    assert story(page).endswith("many words  dog ran and sat")
    box = page.run("document.querySelector('#beginning').offsetHeight")
    assert box <= 256
    assert page.run("document.querySelector('#generate').getBoundingClientRect().bottom <= innerHeight")


def test_a_server_that_has_gone_is_reported_and_found_again(browser: Browser) -> None:
    with scripted() as server:
        server.completes(DOGS)
        page = browser.open(server.url)
        generate(page)
        before = story(page)
    said = generate(page)
    assert said.startswith(f"The server at 127.0.0.1:{server.server_port} cannot be reached. Check that fabella serve")
    assert (story(page), versions(page)) == (before, [])


def test_a_device_without_network_is_reported(page: Page) -> None:
    page.ask("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    try:
        assert "This device is offline. Check the network, then try again." in generate(page)
    finally:
        page.ask("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1,
                 uploadThroughput=-1)  # fmt: skip
    assert "4 tokens" in generate(page)


FIRST = [html(502), Answer(200, "<html>", "text/html"), models(), Answer(200, "{}"), Answer(200, '{"data": 3}')]


@pytest.mark.parametrize("first", FIRST)
def test_a_page_that_cannot_start_offers_to_try_again(browser: Browser, server: ScriptedServer, first: Answer) -> None:
    server.answers[MODELS] = lambda _: first
    page = browser.open(server.url)
    assert is_sentence(page.text("#status"))
    assert page.run("document.querySelector('#generate').disabled")
    server.answers[MODELS] = lambda _: models(MODEL)
    page.click("#retry")
    page.wait("document.body.dataset.ready")
    assert "4 tokens" in generate(page)
    assert page.run("document.querySelector('#retry').hidden")


def with_key(server: ScriptedServer, key: str) -> None:
    """Require an API key, as bytes of UTF-8 in the header."""
    answers = dict(server.answers)

    def guarded(path: str, body: Any) -> Answer:
        sent = server.received[-1][2].get("Authorization", "").encode("latin-1")
        return answers[path](body) if sent == b"Bearer " + key.encode() else refused("missing or wrong", 401)

    server.answers = {path: lambda body, path=path: guarded(path, body) for path in answers}


def enter(page: Page, key: str) -> None:
    page.wait("document.querySelector('#locked').open")
    page.run("document.querySelector('#key').select()")
    page.type(key)
    page.press("Enter")


@pytest.mark.parametrize("key", ["plain", "schlüssel", "клюƪч 🐉 ключ"])
def test_a_key_of_any_characters_opens_the_page(browser: Browser, server: ScriptedServer, key: str) -> None:
    with_key(server, key)
    page = browser.open(server.url)
    assert page.text("#locked-why").startswith("This server requires an API key")
    enter(page, "ключ?")
    page.wait("/refused this API key/.test(document.querySelector('#locked-why').textContent)")
    enter(page, key)
    page.wait("document.body.dataset.ready")
    assert "4 tokens" in generate(page)
    page.go("about:blank")
    page.go(server.url)
    page.wait("document.body.dataset.ready")
    assert not page.run("document.querySelector('#locked').open"), "the key is kept for this tab"
    page.run("sessionStorage.clear()")


def test_a_wrong_key_is_not_kept_and_the_question_can_be_cancelled(browser: Browser, server: ScriptedServer) -> None:
    with_key(server, "right")
    page = browser.open(server.url)
    enter(page, "wrong")
    page.wait("/refused this API key/.test(document.querySelector('#locked-why').textContent)")
    assert page.run("sessionStorage.length") == 0
    page.press("Escape")
    page.wait(FAILED)
    assert page.text("#status").startswith("The server requires an API key, and none was entered.")
    page.click("#retry")
    enter(page, "right")
    page.wait("document.body.dataset.ready")
    page.run("sessionStorage.clear()")


def test_blocked_storage_and_a_blocked_clipboard_stop_nothing(browser: Browser, server: ScriptedServer) -> None:
    with_key(server, "right")
    page = browser.open("about:blank", ready=False)
    blocked = "Object.defineProperty(window, 'sessionStorage', { get() { throw new DOMException('no'); } });"
    added = page.ask("Page.addScriptToEvaluateOnNewDocument", source=blocked + "delete Navigator.prototype.clipboard;")
    try:
        page.go(server.url)
        enter(page, "right")
        page.wait("document.body.dataset.ready")
        generate(page)
        page.click("#copy")
        page.wait("document.querySelector('#manual').open")
        assert page.run("document.querySelector('#manual-text').value") == story(page)
        assert page.run("getSelection().toString()") == story(page)
        page.press("Enter")
    finally:
        page.ask("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])


def test_a_model_that_is_no_longer_served_is_replaced(page: Page, server: ScriptedServer) -> None:
    server.answers[MODELS] = lambda _: models({**MODEL, "id": "b"})
    server.completes(refused("Unknown model 'a'.", 404, "model_not_found"))
    page.click("#generate")
    page.wait("/up to date now/.test(document.querySelector('#status').textContent)")
    assert page.run("document.querySelector('.sheet select').value") == "b"
    server.completes(DOGS)
    assert "4 tokens" in generate(page)


def test_one_of_two_sheets_may_fail(page: Page, server: ScriptedServer) -> None:
    server.answers[MODELS] = lambda _: models(MODEL, {**MODEL, "id": "b"})
    page.run("location.reload()")
    page.wait("document.querySelectorAll('.sheet option').length === 2")
    page.click("#compare")

    def answer(body: Any) -> Answer:
        return DOGS if body["model"] == "a" else html(502)

    server.answers[COMPLETIONS] = answer
    said = generate(page)
    assert said.startswith("a: 4 tokens")
    assert "b: HTTP 502" in said
    assert "4 tokens" in generate(page, "#continue"), "the sheet with a story continues"


def test_a_link_in_the_open_tab_and_a_damaged_link_are_answered(page: Page) -> None:
    generate(page)
    page.click("#share")
    page.wait("document.querySelector('#status').textContent === 'The link copied.'")
    link = page.run("navigator.clipboard.readText()")
    text = story(page)
    colors = page.run("[...document.querySelectorAll('.word')].map((one) => one.className)")
    page.run("document.querySelector('.story').textContent = ''")
    page.run(f"location.href = {json.dumps(link)}")
    page.wait("/shared story/.test(document.querySelector('#status').textContent)")
    assert story(page) == text
    assert page.run("[...document.querySelectorAll('.word')].map((one) => one.className)") == colors
    page.run("location.hash = '#AAAA'")
    page.wait(FAILED)
    assert "The link is damaged" in page.text("#status")
    assert "4 tokens" in generate(page)
