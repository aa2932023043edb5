"""Tests of the story page in a real browser, used with a mouse, by touch, or with the keyboard only."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fabella.server.limits import Limits
from fabella.server.served_models import ServedModel, ServedModels
from tests.server.chromium import CONTROL, SHIFT, Browser, Page, find
from tests.server.stubs import Gated, listening, saying, served_models, spelling

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find(), reason="needs Chromium or Chrome"),
]

STORY = "Once there was a naïve 🐉, and “hello” it said.\n\nIt was happy."
FINISHED = "document.querySelector('#stop').disabled && document.querySelectorAll('.word:not(.beginning)').length > 2"
COLORS = ["paper", "sheet", "ink", "soft", "accent", "on-accent", "edge", "p0", "p1", "p2", "p3"]
SHORT = Limits(max_tokens=70)
GENERATED = ".word:not(.beginning)"
WORDS = "[...document.querySelectorAll('.word:not(.beginning)')].map((word) => word.textContent)"
# Each payload sets window.hacked if the page treats it as markup, a script or a URL.
PAYLOADS = [
    *(f"<{tag}>hacked=1</{tag}>" for tag in ("script", "SCRIPT", "script type=module", "svg><script", "math><script")),
    *(f"<{tag} src=x onerror=hacked=1>" for tag in ("img", "video", "audio", "iframe", "input type=image", "embed")),
    *(f"<{tag} onload=hacked=1>" for tag in ("svg", "body", "iframe", "object data=x", "style",
                                                   "link rel=stylesheet href=x")),
    *(f"<div {event}=hacked=1 tabindex=0>" for event in ("onclick", "onfocus", "onmouseover", "onpointerenter",
                                                               "onanimationstart")),
    *(f"<{tag} href='javascript:hacked=1'>x</a>" for tag in ("a", "A", "base", "form action", "svg><a xlink:href")),
    "<details open ontoggle=hacked=1>", "<marquee onstart=hacked=1>", "<select autofocus onfocus=hacked=1>",
    "<textarea autofocus onfocus=hacked=1>", "<meta http-equiv=refresh content='0;url=javascript:hacked=1'>",
    "<iframe srcdoc='<script>top.hacked=1</script>'>", "<object data='data:text/html,<script>top.hacked=1</script>'>",
    "</textarea><script>hacked=1</script>", "</title><script>hacked=1</script>", "--><script>hacked=1</script>",
    "]]><script>hacked=1</script>", "'\"><script>hacked=1</script>", "`${hacked=1}`", "{{hacked=1}}",
    "javascript:hacked=1", "\\u003cscript\\u003ehacked=1\\u003c/script\\u003e", "&lt;script&gt;hacked=1&lt;/script&gt;",
    "%3Cscript%3Ehacked=1%3C/script%3E", "<scr<script>ipt>hacked=1</scr</script>ipt>",
    "<img src=x:x onerror\x0b=hacked=1>",
    "<noscript><p title='</noscript><img src=x onerror=hacked=1>'>", "<a id=models><a id=sheets name=length>",
    "<form id=word><input name=hidden>",
    "<template shadowrootmode=open><script>hacked=1</script></template>", "data: [DONE]\n\ndata: {}",
]  # fmt: skip


@pytest.fixture(scope="module")
def running_server() -> Iterator[str]:
    """Model a depends on the prompt; model b always generates STORY after two tokens."""
    with listening(served_models(spelling(), saying(STORY, prompt=2), limits=SHORT), SHORT) as port:
        yield f"http://127.0.0.1:{port}/"


@contextmanager
def at(
    browser: Browser, url: str, *, width: int = 1000, phone: bool = False, dark: bool = False, but: str = "\0"
) -> Iterator[Page]:
    """Open a page; it must log no complaint except ``but`` and request only its own server."""
    page = browser.open(url, width=width, phone=phone, dark=dark)
    yield page
    assert [complaint for complaint in page.complaints if but not in complaint] == []
    assert all(address.startswith(url.split("#")[0]) for address in page.addresses - {"about:blank"})


def set_beginning(page: Page, beginning: str, model: str = "a") -> None:
    page.run(f"document.querySelector('.sheet select').value = '{model}'")
    page.run("document.querySelector('#beginning').select()")
    page.type(beginning)


def story(page: Page, number: int = 0) -> str:
    """Wait for the end and return the text of a sheet, including its beginning."""
    page.wait(FINISHED)
    return page.run(f"document.querySelectorAll('.story')[{number}].textContent")


def test_a_beginning_is_continued_to_the_end(browser: Browser, running_server: str) -> None:
    with at(browser, running_server) as page:
        set_beginning(page, "Hi", "b")
        page.click("#generate")
        assert story(page) == "Hi" + STORY
        assert page.text("#status").startswith(f"{len(STORY.encode())} tokens, ")
        assert "complete" in page.text("#status")


def test_text_is_streamed_and_can_be_stopped_and_continued(browser: Browser) -> None:
    model = Gated()
    models = served_models(model.generator())
    with listening(models) as port, at(browser, f"http://127.0.0.1:{port}/") as page:
        page.run("document.querySelector('#beginning').value = ''")  # nothing to score, which would pass the gate too
        page.click("#generate")
        for _ in range(3):
            length = len(page.run("document.querySelector('.story').textContent"))
            model.gate.release(8)
            page.wait(f"document.querySelector('.story').textContent.length > {length}")
        assert page.run("document.querySelector('#generate').disabled")
        assert page.run("document.querySelector('.sheet').classList.contains('generating')")
        page.click("#stop")
        page.wait("/^Stopped\\. Press Continue/.test(document.querySelector('#status').textContent)")
        partial = page.run("document.querySelector('.story').textContent")
        model.close()
        scheduler = models.models["a"].scheduler
        page.click("#continue")
        page.wait(
            "document.querySelector('#stop').disabled"
            " && /press Continue/.test(document.querySelector('#status').textContent)"
        )
        assert story(page).startswith(partial)
        assert len(story(page)) > len(partial)
        assert (scheduler.running, scheduler.waiting) == (0, 0)
        assert page.run("document.querySelectorAll('.versions button').length") == 0, "Continue makes no new branch"


def test_regenerating_from_a_word_keeps_the_earlier_branch(browser: Browser, running_server: str) -> None:
    with at(browser, running_server) as page:
        page.click("#generate")
        first = story(page)
        prefix = page.run(
            """(() => {
                const before = document.createRange();
                before.setStart(document.querySelector(".story"), 0);
                before.setEndBefore(document.querySelectorAll(".word:not(.beginning)")[3]);
                return before.toString();
            })()"""
        )
        page.click(GENERATED, 3)
        page.click("#regenerate")
        page.wait(
            "document.querySelectorAll('.versions button').length === 2 && document.querySelector('#stop').disabled"
        )
        second = story(page)
        assert second != first
        assert second.startswith(prefix)
        page.click(".versions button", 0)
        assert story(page) == first
        page.click(".versions button", 1)
        assert story(page) == second
        titles = page.run("[...document.querySelectorAll('.versions button')].map((one) => one.textContent)")
        assert titles == [f"Story 1: “{_start(first)}…”", f"Story 1, new from “{_start(second[len(prefix) :])}…”"]


def test_alternatives_of_a_word_are_shown_and_can_be_chosen(browser: Browser, running_server: str) -> None:
    with at(browser, running_server) as page:
        page.click("#generate")
        story(page)
        page.click("#tokens")
        page.point(GENERATED, 4)
        assert not page.run("document.querySelector('#word').hidden")
        assert re.match(r"“.+”: [\d.]+ %", page.text("#word-likely"))
        assert page.run("document.querySelectorAll('#word-others li').length") >= 3
        assert all(
            re.search(r"\d %$", line)
            for line in page.run("[...document.querySelectorAll('#word-others li')].map((li) => li.innerText)")
        )
        page.point("h1")
        assert page.run("document.querySelector('#word').hidden"), "the card disappears when the mouse leaves the word"
        page.click(GENERATED, 4)
        chosen = page.run("document.querySelector('#word-others button').firstChild.textContent")
        page.click("#word-others button")
        page.wait(
            "document.querySelectorAll('.versions button').length === 2 && document.querySelector('#stop').disabled"
        )
        assert page.run(WORDS)[4] == chosen.strip("“”…")
        page.click(GENERATED, page.run(f"{WORDS}.findIndex((word) => word.trim())"))
        page.click("h1")
        assert page.run("document.querySelector('#word').hidden")


def test_two_sheets_use_the_same_beginning_and_seed(browser: Browser, running_server: str) -> None:
    with at(browser, running_server) as page:
        page.click("#compare")
        page.run("document.querySelectorAll('.sheet select')[1].value = 'a'")
        page.click("#generate")
        assert story(page, 0) == story(page, 1)
        page.run("document.querySelectorAll('.sheet select')[1].value = 'b'")
        set_beginning(page, "Hi")
        page.click("#generate")
        assert story(page, 0) != story(page, 1) == "Hi" + STORY
        boxes = page.run("[...document.querySelectorAll('.sheet')].map((one) => one.getBoundingClientRect().top)")
        assert boxes[0] == boxes[1], "the sheets are in one row"
        page.click("#compare")
        assert page.run("document.querySelectorAll('.sheet').length") == 1


def test_text_and_link_are_copied_and_the_link_restores_the_story(browser: Browser, running_server: str) -> None:
    with at(browser, running_server) as page:
        page.click("#compare")
        page.run("document.querySelector('#temperature').value = 0.35")
        set_beginning(page, "Hi")
        page.click("#generate")
        stories = [story(page, 0), story(page, 1)]
        page.click("#copy")
        page.wait("document.querySelector('#status').textContent === 'The text copied.'")
        assert page.run("navigator.clipboard.readText()") == "\n\n---\n\n".join(stories)
        page.click("#share")
        page.wait("document.querySelector('#status').textContent === 'The link copied.'")
        link = page.run("navigator.clipboard.readText()")
    with at(browser, link) as page:
        assert page.run("[...document.querySelectorAll('.story')].map((one) => one.textContent)") == stories
        assert page.run("document.querySelector('#beginning').value") == "Hi"
        assert page.run("document.querySelector('#temperature').value") == "0.35"
        page.click(GENERATED, 2)
        page.click("#regenerate")
        page.wait("document.querySelector('.versions button')")
        story(page)
    for damaged in (link[:-9], f"{running_server}#AAAA", f"{running_server}#%"):
        with at(browser, damaged) as page:
            assert "The link is damaged" in page.text("#status")


@pytest.mark.fault("F19", cases=len(PAYLOADS))
def test_generated_text_is_never_treated_as_markup(browser: Browser) -> None:
    payload_text = " ".join(PAYLOADS)
    name = "<img src=x onerror=hacked=1>"
    models = ServedModels(
        [
            ServedModel(name, saying(payload_text, prompt=2), Limits(max_tokens=20_000)),
            *served_models(spelling()).models.values(),
        ]
    )
    with listening(models) as port, at(browser, f"http://127.0.0.1:{port}/", but="404") as page:
        elements = (
            "[...new Set([...document.querySelectorAll('.story *, #word *')].map((one) => one.tagName))].sort().join()"
        )
        page.run("document.querySelector('#length').value = 20000")
        page.run("document.querySelector('#beginning').select()")
        page.type("Hi")
        page.click("#generate")
        assert story(page) == "Hi" + payload_text
        page.click(GENERATED, payload_text.index("<img"))
        assert page.run(elements) == "BUTTON,P,SPAN,UL"
        assert page.run("document.querySelector('.sheet select').selectedOptions[0].textContent") == name
        page.click("#share")
        page.wait("document.querySelector('#status').textContent === 'The link copied.'")
        link = page.run("navigator.clipboard.readText()")
        page = browser.open(link)
        assert page.run("document.querySelector('.story').textContent") == "Hi" + payload_text
        page.run(f"document.querySelector('.sheet select').options[0].value = {name!r} + 'x'")
        page.click("#generate")
        page.wait("document.querySelector('#status.failed')")
        assert "The model '<img" in page.text("#status")
        assert page.run("window.hacked === undefined && document.scripts.length === 1")


def test_the_page_can_be_used_with_the_keyboard_only(browser: Browser, running_server: str) -> None:
    with at(browser, running_server) as page:
        page.run("document.querySelector('#beginning').focus()")
        page.press("Enter", CONTROL)
        first = story(page)
        for _ in range(30):
            if page.run("document.activeElement.className") == "story":
                break
            page.press("Tab")
        assert page.run("document.activeElement.className") == "story"
        for _ in range(5):
            page.press("ArrowRight")
        assert (
            page.run("document.querySelectorAll('.word').length")
            > page.run("[...document.querySelectorAll('.word')].indexOf(document.activeElement)")
            == 4
        )
        page.press("Enter")
        assert page.run("document.activeElement.closest('#word-others, #regenerate') !== null")
        page.press("Escape")
        assert page.run("document.activeElement.classList.contains('chosen')")
        page.press("Enter")
        page.press("Enter")
        page.wait(
            "document.querySelectorAll('.versions button').length === 2 && document.querySelector('#stop').disabled"
        )
        assert story(page) != first
        assert page.run("document.activeElement.className") == "story", "the focus is not lost"
        page.press("Tab", SHIFT)
        assert page.run("document.activeElement.tagName") == "SELECT"
        page.press("Escape")
        assert page.run("document.querySelector('#word').hidden")


def test_every_control_has_an_accessible_name(browser: Browser, running_server: str) -> None:
    with at(browser, running_server) as page:
        page.click("#generate")
        story(page)
        page.click(GENERATED, 3)
        page.run("document.querySelector('details').open = true")
        nodes = page.ask("Accessibility.getFullAXTree")["nodes"]
        roles = {"button", "textbox", "combobox", "slider", "spinbutton", "checkbox", "complementary"}
        usable = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
        assert len(usable) > 12
        assert [node for node in usable if not node["name"]["value"].strip()] == []
        assert page.run("document.querySelector('#status').getAttribute('aria-live')") == "polite"


@pytest.mark.parametrize("width", [320, 375])
def test_on_a_phone_the_story_stays_in_view(browser: Browser, running_server: str, width: int) -> None:
    with at(browser, running_server, width=width, phone=True) as page:
        wide = "document.documentElement.scrollWidth"
        assert page.run(wide) <= width
        page.tap("#generate")
        story(page)
        page.tap("summary")
        page.tap("#compare")
        assert page.run(wide) <= width
        for place in (2, page.run(f"{WORDS}.length") - 1, 0):
            page.tap(GENERATED, place)
            page.wait("document.querySelector('.word.chosen') && !document.querySelector('#word').hidden")
            word, card = (page.run(f"document.querySelector('{one}').getBoundingClientRect().{side}")
                          for one, side in ((".word.chosen", "bottom"), ("#word", "top")))  # fmt: skip
            assert 0 < word <= card, "the card hides its word"
            assert card > 0.66 * 700, "the card hides the story"
            assert page.run(wide) <= width
        shown = "[...document.querySelectorAll('button, select')].filter((one) => one.offsetParent)"
        heights = page.run(f"{shown}.map((one) => one.offsetHeight)")
        assert min(heights) >= 44, "buttons are large enough to touch"
        page.tap("#regenerate")
        page.wait(
            "document.querySelectorAll('.versions button').length === 2 && document.querySelector('#stop').disabled"
        )
        assert page.run("document.querySelector('#word').hidden")
        versions = "[...document.querySelectorAll('.versions, .versions button')]"
        box = "document.querySelector('.story').getBoundingClientRect()"
        assert page.run(f"{versions}.every((one) => one.getBoundingClientRect().right <= {box}.right + 1)")
        assert page.run(
            "document.querySelector('.versions').scrollWidth <= document.querySelector('.versions').clientWidth"
        )


@pytest.mark.parametrize("dark", [False, True])
def test_every_color_pair_has_enough_contrast(browser: Browser, running_server: str, dark: bool) -> None:
    with at(browser, running_server, dark=dark) as page:
        value = "getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()"
        colors = page.run(f"Object.fromEntries({COLORS}.map((name) => [name, {value}]))")
    assert (_light(colors["paper"]) < 0.1) == dark
    pairs = [("ink", back) for back in ("paper", "sheet", "p0", "p1", "p2", "p3")]
    pairs += [(front, back) for front in ("soft", "accent") for back in ("paper", "sheet")] + [("on-accent", "accent")]
    assert [pair for pair in pairs if _contrast(*(colors[name] for name in pair)) < 4.5] == []
    assert _contrast(colors["edge"], colors["sheet"]) >= 3.0, "edges of buttons are visible"


def test_the_page_asks_for_the_api_key(browser: Browser) -> None:
    key = "correct-hörse-battery-🐉"
    with listening(served_models(spelling()), key=key) as port:
        page = browser.open(f"http://127.0.0.1:{port}/")
        for attempt in ("wrong", key):
            page.wait("document.querySelector('dialog[open]')")
            page.run("document.querySelector('#key').select()")
            page.type(attempt)
            page.press("Enter")
        page.wait("document.body.dataset.ready")
        page.click("#generate")
        assert story(page)


def _start(text: str) -> str:
    """Return the whole words among the first 60 characters."""
    words = " ".join(text.split())
    return words if len(words) <= 60 else words[:60].rpartition(" ")[0]


def _light(color: str) -> float:
    """Return the relative luminance of WCAG 2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_light(one), _light(other)))
    return (light + 0.05) / (dark + 0.05)
