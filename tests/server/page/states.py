"""States of the story page: what its server answers, and what a user does until the page shows the state."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.server.chromium import Browser, Page
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
)

TOKENS = (" there", " was", " a", " le", "mon", " tree", " named", " Pip", ".", " It", " st", "ood", " in", " a",
          " very", " old", " gar", "den", ",", " and", " every", " morn", "ing", " the", " wind", " said", ":", "\n\n",
          "“", "Wake", " up", ",", " little", " tree", "!", "”")  # fmt: skip
NAMED = {
    **MODEL,
    "id": "stories-30m-with-a-name-that-is-longer-than-a-phone-is-wide@step-00120000",
    "fabella": {**MODEL["fabella"], "max_tokens": len(TOKENS)},
}
LIKELIHOODS = (0.97, 0.6, 0.3, 0.02, 0.9, 0.1, 0.85)
OTHERS = {" an old": 0.06, " " + "incomprehensibility" * 3: 0.04, "\n": 0.01, "<|endoftext|>": 0.005}
LONG_WORD = " " + "gogerychwyrndrobwllllantysiliogogogoch" * 3
CONTEXT = refused("This model's maximum context length is 31 tokens.", code="context_length_exceeded")
IDLE = "document.querySelector('#stop').disabled && !document.querySelector('#generate').disabled"


def scored(*texts: str, first: int = 0) -> dict[str, Any]:
    """Return the logprobs of tokens; each has the next one of LIKELIHOODS."""
    likely = [LIKELIHOODS[(first + number) % len(LIKELIHOODS)] for number in range(len(texts))]
    top = [{text: math.log(one), **{other: math.log(value) for other, value in OTHERS.items()}}
           for text, one in zip(texts, likely, strict=True)]  # fmt: skip
    offsets = [len("".join(texts[:number])) for number in range(len(texts))]
    return {"tokens": texts, "token_logprobs": [*map(math.log, likely)], "top_logprobs": top, "text_offset": offsets}


def streamed(*texts: str, reason: str | None = "length", end: bool = True) -> Answer:
    """Return a stream of tokens; one without ``end`` breaks when the server sets ``lost``."""
    choices = [{"text": text, "logprobs": scored(text, first=number), "finish_reason": None}
               for number, text in enumerate(texts)]  # fmt: skip
    choices.append({"text": "", "logprobs": None, "finish_reason": reason})
    return Answer(events=(*(json.dumps({"choices": [one]}) for one in choices), *(["[DONE]"] if end else [])), end=end)


def completes(server: ScriptedServer, *answers: Answer) -> None:
    """Answer generations in this order, the last one for ever, and score beginnings."""
    left = list(answers)

    def answer(body: Any) -> Answer:
        if not body.get("echo"):
            return left.pop(0) if len(left) > 1 else left[0]
        words = body["prompt"].split(" ")[-24:]  # as many as the model reads
        texts = [words[0], *(f" {word}" for word in words[1:])]
        return Answer(body=json.dumps({"choices": [{"text": "".join(texts), "logprobs": scored(*texts, first=2)}]}))

    server.answers[COMPLETIONS] = answer


def generate(page: Page, button: str = "#generate") -> str:
    """Press a button, wait until the page is idle, and return its status."""
    page.run("document.querySelector('#status').textContent = 'unchanged'")
    page.click(button)
    page.wait(f"{IDLE} && !/^(unchanged|Generating)/.test(document.querySelector('#status').textContent)")
    return page.text("#status")


def write(page: Page, beginning: str) -> None:
    page.run(f"document.querySelector('#beginning').value = {json.dumps(beginning)}")


def choose(page: Page, number: int) -> None:
    page.run(f"document.querySelectorAll('.word')[{number}].focus()")


def _first(page: Page, server: ScriptedServer) -> None:
    """The page as it opens."""


def _settings(page: Page, server: ScriptedServer) -> None:
    page.run("document.querySelector('#panel').open = true")


def _generating(page: Page, server: ScriptedServer) -> None:
    completes(server, streamed(*TOKENS[:20], reason=None, end=False))
    page.run("document.querySelector('#generate').click()")
    page.wait("/ and$/.test(document.querySelector('.story').textContent)")


def _limit(page: Page, server: ScriptedServer) -> None:
    generate(page)


def _word(page: Page, server: ScriptedServer) -> None:
    generate(page)
    choose(page, 7)


def _tokens(page: Page, server: ScriptedServer) -> None:
    generate(page)
    page.run("document.querySelector('#tokens').click()")
    choose(page, 8)


def _without_colors(page: Page, server: ScriptedServer) -> None:
    generate(page)
    page.run("document.querySelector('#colors').click()")


def _branches(page: Page, server: ScriptedServer) -> None:
    generate(page)
    for word in (6, 9, 3):
        completes(server, streamed(*TOKENS[word:], *TOKENS[:word]))
        choose(page, word)
        generate(page, "#regenerate")
    write(page, "A cat")
    generate(page)
    page.run("document.querySelectorAll('.versions button')[1].focus()")


def _ended(page: Page, server: ScriptedServer) -> None:
    completes(server, streamed(*TOKENS, reason="stop"))
    generate(page)


def _ended_at_once(page: Page, server: ScriptedServer) -> None:
    completes(server, streamed(reason="stop"))
    generate(page)


def _invalid_setting(page: Page, server: ScriptedServer) -> None:
    page.run("document.querySelector('#length').value = 999999")
    page.run("document.querySelector('#generate').click()")


def _proxy_error(page: Page, server: ScriptedServer) -> None:
    generate(page)
    completes(server, html(502))
    generate(page)


def _busy(page: Page, server: ScriptedServer) -> None:
    completes(server, refused("The queue is full. Try again later.", 429, **{"Retry-After": "3"}))
    generate(page)


def _lost_stream(page: Page, server: ScriptedServer) -> None:
    completes(server, streamed(*TOKENS[:9], reason=None, end=False))
    page.run("document.querySelector('#generate').click()")
    page.wait("/Pip\\.$/.test(document.querySelector('.story').textContent)")
    server.lost.set()
    page.wait(IDLE)


def _lost_at_once(page: Page, server: ScriptedServer) -> None:
    completes(server, Answer(events=('{"choices": []}',), end=False))
    server.lost.set()
    generate(page)


def _lost_server(page: Page, server: ScriptedServer) -> None:
    generate(page)
    server.shutdown()
    server.server_close()
    generate(page)


def _empty_prompt(page: Page, server: ScriptedServer) -> None:
    write(page, "")
    generate(page)


def _long_prompt(page: Page, server: ScriptedServer) -> None:
    answers = server.answers[COMPLETIONS]
    server.answers[COMPLETIONS] = lambda body: answers(body) if "truncate_prompt_tokens" in body else CONTEXT
    write(page, "many words and then some " * 400)
    generate(page)


def _long_word(page: Page, server: ScriptedServer) -> None:
    completes(server, streamed(LONG_WORD, LONG_WORD, reason="stop"))
    write(page, LONG_WORD.strip())
    generate(page)
    generate(page)
    choose(page, 1)


def _compared(page: Page, server: ScriptedServer) -> None:
    page.run("document.querySelector('#compare').click()")
    generate(page)


def _shared(page: Page, server: ScriptedServer) -> None:
    generate(page)
    _copied(page, server)
    page.run("document.querySelector('#manual').close()")
    link = page.run("document.querySelector('#manual-text').value")
    page.go("about:blank")
    page.go(link)
    page.wait("document.body.dataset.ready")


def _damaged_link(page: Page, server: ScriptedServer) -> None:
    page.run("location.hash = '#AAAA'")
    page.wait("document.querySelector('#status.failed')")


def _copied(page: Page, server: ScriptedServer) -> None:
    """Copying where the browser does not allow it."""
    generate(page)
    page.run("Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true })")
    page.run("document.querySelector('#share').click()")
    page.wait("document.querySelector('#manual').open")


def _cannot_start(server: ScriptedServer) -> None:
    server.answers[MODELS] = lambda _: html(502)


def _with_key(server: ScriptedServer) -> None:
    server.answers[MODELS] = lambda _: refused("Incorrect API key.", 401)


def _wrong_key(page: Page, server: ScriptedServer) -> None:
    page.type("wrong")
    page.press("Enter")
    page.wait("/refused/.test(document.querySelector('#locked-why').textContent)")


def _no_key(page: Page, server: ScriptedServer) -> None:
    page.press("Escape")
    page.wait("document.querySelector('#status.failed')")


Action = Callable[[Page, ScriptedServer], None]
STATES: dict[str, Action] = {
    action.__name__[1:]: action
    for action in (
        _first, _settings, _generating, _limit, _word, _tokens, _without_colors, _branches, _ended, _ended_at_once,
        _invalid_setting, _proxy_error, _busy, _lost_stream, _lost_at_once,
        _lost_server, _empty_prompt, _long_prompt, _long_word,
        _compared, _shared, _damaged_link, _copied,
    )
}  # fmt: skip
"""Name of a state → actions on the page of a server that works."""
UNREADY: dict[str, tuple[Callable[[ScriptedServer], None], Action]] = {
    "cannot_start": (_cannot_start, _first),
    "key": (_with_key, _first),
    "wrong_key": (_with_key, _wrong_key),
    "no_key": (_with_key, _no_key),
}
"""Name of a state → how the server differs before the page is opened, and actions."""


@contextmanager
def shown(browser: Browser, state: str, **view: Any) -> Iterator[Page]:
    """Open the page with the options of ``Browser.open`` and take it into a state."""
    with scripted() as server:
        server.answers[MODELS] = lambda _: models(NAMED, MODEL)
        completes(server, streamed(*TOKENS))
        prepare, action = UNREADY.get(state) or (lambda _: None, STATES[state])
        prepare(server)
        page = browser.open(server.url, **view)
        action(page, server)
        try:
            yield page
        finally:
            page.go("about:blank")
            server.lost.set()
