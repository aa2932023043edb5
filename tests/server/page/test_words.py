"""Tests that the story page joins tokens to words, colors them by probability, and shows alternatives and versions."""

import json
import math
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
    models,
    scripted,
    tokens,
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find(), reason="needs Chromium or Chrome")]

LIKELIHOODS = (0.01, 0.1, 0.3, 0.6, 0.95)
DONE = "document.querySelector('#stop').disabled && /per second/.test(document.querySelector('#status').textContent)"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted() as running:
        yield running


def story(*pieces: tuple[str, float], others: dict[str, float] | None = None) -> Answer:
    """Return a stream of tokens with these probabilities."""
    events: list[str] = []
    for text, likely in pieces:
        top = {text: likely, **(others or {})}
        logprobs = {"tokens": [text], "token_logprobs": [math.log(likely)], "text_offset": [0],
                    "top_logprobs": [{key: math.log(value) for key, value in top.items()}]}  # fmt: skip
        events.append(json.dumps({"choices": [{"text": text, "logprobs": logprobs, "finish_reason": "length"}]}))
    return Answer(events=(*events, "[DONE]"))


def generated(page: Page) -> None:
    page.click("#generate")
    page.wait(DONE)


def shown(page: Page) -> list[list[str]]:
    """Return text and shade of each word."""
    return page.run(
        "[...document.querySelectorAll('.word')].map((one) => [one.textContent, one.className.match(/p(\\d)/)[1]])"
    )


def test_tokens_of_a_word_are_joined_and_have_the_color_of_the_least_likely(
    browser: Browser, server: ScriptedServer
) -> None:
    pieces = [(" le", 0.9), ("mon", 0.02), (",", 0.9), (" don", 0.9), ("'", 0.9), ("t", 0.6), (" 3", 0.9), ("2", 0.3),
              (" na", 0.9), ("ï", 0.9), ("ve", 0.9), ("狐", 0.9), ("狸", 0.1)]  # fmt: skip
    server.completes(story(*pieces))
    page = browser.open(server.url)
    generated(page)
    words = [["lemon", "0"], [",", "4"], ["don't", "3"], ["32", "2"], ["naïve", "4"], ["狐", "4"], ["狸", "1"]]
    assert shown(page) == words
    page.click(".word", 0)
    assert page.text("#word-likely").startswith("“lemon”: le 90.0 % · mon 2.0 %")
    page.click("#tokens")
    assert [text for text, _ in shown(page)] == [text.strip() for text, _ in pieces]
    assert shown(page)[0][1] == "4", "the split shows which token was unlikely"
    page.click("#tokens")
    assert shown(page) == words


@pytest.mark.parametrize("dark", [False, True])
def test_with_forced_colors_the_likelihood_is_a_line_below_the_word(
    browser: Browser, server: ScriptedServer, dark: bool
) -> None:
    server.completes(story(*((f" w{number}", likely) for number, likely in enumerate(LIKELIHOODS))))
    page = browser.open(server.url, forced=True, dark=dark)
    generated(page)
    style = "((one) => { const s = getComputedStyle(one); return s.borderBottomStyle + s.borderBottomWidth; })"
    lines = page.run(f"[...document.querySelectorAll('.word')].map({style})")
    assert len(set(lines)) == len(LIKELIHOODS)
    assert lines[-1].startswith("none")
    assert page.run(f"[...document.querySelectorAll('.legend i')].map({style})") == lines, "the legend shows the same"
    page.click("#colors")
    assert set(page.run(f"[...document.querySelectorAll('.word')].map({style})")) == {lines[-1]}


@pytest.mark.parametrize(("first", "space"), [(0, ""), (4, ""), (0, " ")])
def test_a_beginning_that_the_server_scores_is_colored(
    browser: Browser, server: ScriptedServer, first: int, space: str
) -> None:
    beginning = "A 🐉 dragon"
    pieces = ["A", " ", "", "🐉", " dra", "gon"][first:]  # the empty one is the first half of a character
    pieces[0] = space + pieces[0]  # of a tokenizer that adds one
    likely = [None, 0.5, 0.5, 0.5, 0.9, 0.01][first + 1 :]

    def answer(body: Any) -> Answer:
        if not body.get("echo"):
            return story((" ran", 0.6))
        logprobs = {
            "tokens": pieces,
            "token_logprobs": [None, *(math.log(value or 1.0) for value in likely)],
            "top_logprobs": [None, *({" cat": math.log(0.1)} for _ in likely)],
            "text_offset": [len("".join(pieces[:number])) for number in range(len(pieces))],
        }
        choice = {"text": "".join(pieces), "logprobs": logprobs, "finish_reason": "length"}
        return Answer(body=json.dumps({"choices": [choice]}))

    server.answers[COMPLETIONS] = answer
    page = browser.open(server.url)
    page.run(f"document.querySelector('#beginning').value = {json.dumps(beginning)}")
    generated(page)
    assert page.run("document.querySelector('.story').textContent") == f"{beginning} ran"
    beginnings = [["A", "4"], [" ", "3"], ["🐉", "2"], ["dragon", "0"]]
    assert shown(page) == [*(beginnings[-1:] if first else beginnings), ["ran", "3"]]
    if not first:
        page.click(".word", 3)
        page.click("#word-others button")
        page.wait("document.querySelectorAll('.versions button').length === 2")
        page.wait(DONE)
        assert page.run("document.querySelector('.story').textContent") == "A 🐉 cat ran"
        page.click(".word", 1)
        page.press("Home")
        page.click("#regenerate")
        page.wait("document.querySelectorAll('.versions button').length === 3")
        page.wait(DONE)
        assert page.run("document.querySelector('.story').textContent") == " ran", "the first word can be replaced too"
        assert page.complaints == []


def test_only_alternatives_worth_showing_are_shown(browser: Browser, server: ScriptedServer) -> None:
    others = {" cat": 0.002, " cow": 0.0004, "<|endoftext|>": 0.3}
    server.completes(story((" dog", 0.999), (" ran", 0.4), others=others))
    page = browser.open(server.url)
    generated(page)
    page.click(".word", 1)
    lines = page.run("[...document.querySelectorAll('#word-others button')].map((one) => one.textContent)")
    assert lines == ["end of text 30.0 %", "“cat” 0.20 %"]
    page.click("#word-others button")
    assert page.run("document.querySelector('.story').textContent") == "Once upon a time dog"
    assert page.run("document.querySelector('#continue').disabled"), "the chosen end is an end"
    page.press("Escape")
    server.completes(story((" dog", 0.9999), others={" cat": 0.00005}))
    generated(page)
    page.click(".word", 0)
    assert page.text("#word-likely").endswith("No alternative has 0.1 %.")
    assert page.run("document.querySelectorAll('#word-others li').length") == 0


def test_alternatives_beginnings_and_versions_are_never_treated_as_markup(
    browser: Browser, server: ScriptedServer
) -> None:
    markup = "<img src=x onerror=hacked=1>"
    server.completes(story((markup, 0.5), (f" {markup}", 0.5), others={f"{markup}2": 0.2}))
    page = browser.open(server.url)
    page.run(f"document.querySelector('#beginning').value = {json.dumps(markup)}")
    generated(page)
    generated(page)
    page.click(".word", 1)
    assert page.text("#word-others button").startswith(f"“{markup}2”")
    elements = "[...document.querySelectorAll('.story *, #word *, .versions *')].map((one) => one.tagName)"
    assert set(page.run(elements)) == {"BUTTON", "LI", "P", "SMALL", "SPAN", "UL"}
    assert page.run("window.hacked === undefined")


def test_a_new_beginning_is_a_new_story(browser: Browser, server: ScriptedServer) -> None:
    server.completes(story((" dog", 0.5), (" ran", 0.5)))
    page = browser.open(server.url)
    generated(page)
    page.run("document.querySelector('#beginning').value = 'A  cat\\nsat'")
    generated(page)
    page.click(".word", 1)
    page.click("#regenerate")
    page.wait(f"{DONE} && document.querySelectorAll('.versions button').length === 3")
    titles = page.run("[...document.querySelectorAll('.versions button')].map((one) => one.textContent)")
    assert titles == [
        "Story 1: “Once upon a time dog ran…”", "Story 2: “A cat sat dog ran…”", "Story 2, new from “dog ran…”",
    ]  # fmt: skip
    page.click(".versions button", 0)
    assert page.run("document.activeElement.textContent") == titles[0]


def test_the_first_view_has_examples_that_generate_and_a_legend(browser: Browser, server: ScriptedServer) -> None:
    server.answers[MODELS] = lambda _: models({**MODEL, "fabella": {**MODEL["fabella"], "prompts": ["Es war einmal"]}})
    server.completes(tokens(" dog"))
    page = browser.open(server.url, width=375, phone=True)
    labels = page.run("[...document.querySelectorAll('#examples button')].map((one) => one.textContent)")
    assert labels == ["Es war einmal", "Once upon a time", "The little dragon was"]
    assert page.run("document.querySelector('.legend').getBoundingClientRect().bottom") <= 700
    page.tap("#examples button", 0)
    page.wait(DONE)
    assert page.run("document.querySelector('.story').textContent") == "Es war einmal dog"


def test_on_a_phone_stop_and_status_stay_in_view(browser: Browser, server: ScriptedServer) -> None:
    answer = tokens(*(f" word{number}" for number in range(400)), reason=None, end=False)
    server.completes(answer)
    page = browser.open(server.url, width=375, phone=True)
    page.tap("#generate")
    page.wait("document.querySelectorAll('.word').length === 400")
    page.run("scrollTo(0, document.body.scrollHeight)")
    for part in ("#stop", "#status"):
        box = [
            page.run(f"document.querySelector('{part}').getBoundingClientRect().{edge}") for edge in ("top", "bottom")
        ]
        assert 0 <= box[0] < box[1] <= 700, part
    page.tap("#stop")
    page.wait("/^Stopped/.test(document.querySelector('#status').textContent)")
    server.lost.set()


def test_focus_rings_are_not_cut_off(browser: Browser, server: ScriptedServer) -> None:
    server.completes(story((" dog", 0.5), others={" cat": 0.2, " cow": 0.1}))
    page = browser.open(server.url)
    generated(page)
    generated(page)
    page.click(".word")
    for part in ("#word-others button", ".versions button"):
        page.run(f"document.querySelector('{part}').focus()")
        page.press("Tab", 8)
        page.press("Tab")
        assert page.run("document.activeElement.matches(':focus-visible')")
        assert page.run("getComputedStyle(document.activeElement).outlineOffset") == "-3px"
    page.run("document.querySelector('#panel').open = true")
    page.run("document.querySelector('#seed').value = 2147483647")
    assert page.run("document.querySelector('#seed').scrollWidth <= document.querySelector('#seed').clientWidth")
