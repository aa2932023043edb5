"""Tests that every state of the story page can be read and left on a phone, in light, dark and forced colors."""

import pytest

from tests.server.chromium import Browser, find
from tests.server.page.states import STATES, UNREADY, shown

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find(), reason="needs Chromium or Chrome")]

VIEWS = {
    "light": {"width": 320, "height": 640, "phone": True},
    "dark": {"width": 375, "height": 700, "phone": True, "dark": True},
    "forced": {"width": 375, "height": 700, "phone": True, "forced": True},
}
SILENT = {"first", "settings", "key", "wrong_key"}
"""States in which nothing has happened yet, or a dialog speaks."""
FAULTS = """(() => {
  const all = [...document.querySelectorAll("body *")]
    .filter((one) => one.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true }));
  const name = (one) => `${one.tagName} ${one.id || one.className}: ${one.textContent.trim().slice(0, 40)}`;
  const empty = all.filter((one) => one.matches("button, label, summary, option, li, h1, #word-likely, .facts"))
    .filter((one) => !one.innerText.trim());
  // The buttons of the main part reach over its edges on purpose, up to those of the window.
  const cut = all.filter((one) => one.tagName !== "MAIN" && getComputedStyle(one).display !== "inline")
    .filter((one) => one.scrollWidth > one.clientWidth + 1)
    .filter((one) => getComputedStyle(one).textOverflow !== "ellipsis" && getComputedStyle(one).overflowX !== "auto");
  const numbers = (color) => [...color.matchAll(/[\\d.]+/g)].map(Number);
  const light = (color) => numbers(color).slice(0, 3).map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
  const opaque = (color) => (numbers(color)[3] ?? 1) === 1;
  const behind = (one) => {
    const color = one ? getComputedStyle(one).backgroundColor : "rgb(255, 255, 255)";
    return opaque(color) ? color : behind(one.parentElement);
  };
  const off = (one) => one.closest(":disabled") || one.querySelector(":disabled") || one.matches("option, i");
  const contrast = (one) => {
    const [low, high] = [getComputedStyle(one).color, behind(one)].map(light).sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const own = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  const faint = all.filter((one) => own(one) && !off(one) && contrast(one) < 4.5);
  const wide = document.documentElement.scrollWidth;
  return [
    ...(wide > innerWidth ? [`${wide} pixels wide`] : []),
    ...empty.map((one) => `empty: ${name(one)}`), ...cut.map((one) => `cut: ${name(one)}`),
    ...faint.map((one) => `faint (${contrast(one).toFixed(1)}): ${name(one)}`),
  ];
})()"""
WAYS_OUT = "#generate:enabled, #stop:enabled, #retry:not([hidden]), dialog[open] button"
FAILURE_IN_VIEW = """(() => {
  const failed = document.querySelector("#status.failed")?.getBoundingClientRect();
  return !failed || (failed.top >= 0 && failed.bottom <= innerHeight);
})()"""
WITHOUT_RING = """[...document.querySelectorAll("button, select, summary, textarea, input, .story")]
  .filter((one) => one.checkVisibility() && !one.disabled && !document.querySelector("dialog[open]"))
  .filter((one) => { one.focus(); return parseFloat(getComputedStyle(one).outlineWidth) < 2; })
  .map((one) => one.id || one.className)"""


@pytest.mark.parametrize("view", VIEWS)
def test_every_state_can_be_read_and_left_on_a_phone(browser: Browser, view: str) -> None:
    for state in (*STATES, *UNREADY):
        with shown(browser, state, **VIEWS[view]) as page:
            assert page.run(FAULTS) == [], state
            assert bool(page.text("#status")) or state in SILENT, f"{state} says nothing"
            assert page.run(f"document.querySelectorAll('{WAYS_OUT}').length"), f"{state} has no way out"
            assert page.run(FAILURE_IN_VIEW), f"the error of {state} is not in view"
            page.press("Tab")  # from now on, focus is shown
            assert page.run(WITHOUT_RING) == [], state


def test_text_after_a_long_beginning_is_in_view(browser: Browser) -> None:
    with shown(browser, "long_prompt", **VIEWS["light"]) as page:
        box = page.run("[...document.querySelectorAll('.word')].at(-1).getBoundingClientRect().bottom / innerHeight")
        assert 0 < box < 1


def test_a_space_before_the_first_word_is_not_shown_after_its_first_letter(browser: Browser) -> None:
    with shown(browser, "empty_prompt", **VIEWS["light"]) as page:
        assert page.run("document.querySelector('.story').textContent").startswith(" there was")
        assert page.run("document.querySelector('.lead').getClientRects().length") == 0


def test_the_error_of_a_stream_that_breaks_says_what_to_do(browser: Browser) -> None:
    for state, advice in (("lost_stream", "press Continue."), ("lost_at_once", "Try again.")):
        with shown(browser, state, **VIEWS["light"]) as page:
            assert page.text("#status").endswith(advice)
