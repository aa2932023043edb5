"""A headless Chromium that a test drives: commands and events go through two pipes, each ended by a NUL.

Pipes instead of a port: no other process can reach it, and it ends when its pipe closes.
The protocol: https://chromedevtools.github.io/devtools-protocol
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome-headless-shell")
TIMEOUT_SECONDS = 60.0
"""Timeout in seconds for a page; a busy machine needs a few to start a browser."""
_FLAGS = (
    "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-features=Translate,OptimizationHints,MediaRouter", "--no-proxy-server", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--password-store=basic", "--use-mock-keychain",
)  # fmt: skip
# Chromium reads commands from descriptor 3 and answers in descriptor 4.
_LAUNCHER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
         "Home": 36, "End": 35, " ": 32}  # fmt: skip
CONTROL = 2
SHIFT = 8


def find() -> str:
    """Return the path of the browser; empty if there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), "")


class PageError(Exception):
    """A refused command, a script that raised, or a condition that never became true."""


class Browser:
    """One process; a test opens a ``Page`` in its tab."""

    def __init__(self, process: "subprocess.Popen[bytes]", commands: int, responses: int) -> None:
        self._process, self._commands, self._answers = process, commands, responses
        self._held = b""
        self._last = 0
        self._session = ""
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Return the result of a command."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters} | (
            {"sessionId": session} if session else {}
        )
        left = json.dumps(message).encode() + b"\0"
        while left:
            left = left[os.write(self._commands, left) :]
        while True:
            response = self._next()
            if response.get("id") == self._last:
                if "error" in response:
                    raise PageError(f"{method}: {response['error']['message']}")
                return response["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._answers], [], [], TIMEOUT_SECONDS)
            if not ready:
                raise PageError(f"the browser sent nothing for {TIMEOUT_SECONDS:g} s")
            read = os.read(self._answers, 1 << 20)
            if not read:
                raise PageError("the browser has ended")
            self._held += read
        whole, _, self._held = self._held.partition(b"\0")
        message = json.loads(whole)
        if "method" in message:
            self.events.append(message)
        return message

    def open(
        self,
        url: str,
        *,
        width: int = 1000,
        height: int = 700,
        phone: bool = False,
        dark: bool = False,
        forced: bool = False,
        ready: bool = True,
    ) -> "Page":
        """Open a URL in the only tab: a new tab costs a second, and pages share no state.

        ``forced``: with the forced colors of a contrast theme. ``ready``: wait until the story page is ready.
        """
        if not self._session:
            self._begin()
        page = Page(self, self._session)
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        page.ask("Emulation.setDeviceMetricsOverride", **metrics)
        page.ask("Emulation.setTouchEmulationEnabled", enabled=phone)
        features = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce",
            "forced-colors": "active" if forced else "none",
        }
        page.ask("Emulation.setEmulatedMedia", features=[{"name": name, "value": features[name]} for name in features])
        page.go("about:blank")
        self.events.clear()
        page.go(url)
        if ready:
            page.wait("document.body.dataset.ready || document.querySelector('.failed, dialog[open]')")
        return page

    def _begin(self) -> None:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable", self._session)
        self.ask("Emulation.setFocusEmulationEnabled", self._session, enabled=True)
        self.ask("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])

    def end(self) -> None:
        """Close the process."""
        with suppress(PageError, OSError):
            self.ask("Browser.close")
        os.close(self._commands)
        os.close(self._answers)
        try:
            self._process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Page:
    """Actions and observations of a user in the tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a command to this page."""
        return self._browser.ask(method, self._session, **parameters)

    def go(self, url: str) -> None:
        """Navigate to a URL."""
        self.ask("Page.navigate", url=url)
        self.wait(
            f"location.href.split('#')[0] === {json.dumps(url.split('#')[0])} && document.readyState === 'complete'"
        )

    def run(self, script: str) -> Any:
        """Return the value of an expression, awaited."""
        done = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in done:
            raise PageError(done["exceptionDetails"].get("exception", {}).get("description", script))
        return done["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true. Raises PageError after the timeout."""
        poll = f"""new Promise((done) => {{
            const until = performance.now() + {1000 * TIMEOUT_SECONDS * 0.8};
            const poll = () => {{
                const value = (() => {{ try {{ return ({condition}); }} catch (error) {{ return null; }} }})();
                if (value || performance.now() > until) done(Boolean(value)); else setTimeout(poll, 10);
            }};
            poll();
        }})"""
        while True:
            try:
                reached = self.run(poll)
            except PageError as failed:  # the page was being left
                if "navigated" not in str(failed) and "context" not in str(failed):
                    raise
                continue
            if not reached:
                raise PageError(f"never true: {condition}; the page says: {self.text('body')[:500]}")
            return

    def text(self, selector: str) -> str:
        """Return the visible text of an element."""
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def click(self, selector: str, number: int = 0) -> None:
        """Click the middle of an element. Raises PageError if another element covers it."""
        x, y = self._middle(selector, number)
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def tap(self, selector: str, number: int = 0) -> None:
        """Touch the middle of an element."""
        x, y = self._middle(selector, number)
        self.ask("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def point(self, selector: str, number: int = 0) -> None:
        """Move the mouse to an element."""
        x, y = self._middle(selector, number)
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def _middle(self, selector: str, number: int) -> tuple[float, float]:
        """Return the middle of the longest line of an element; a word may wrap."""
        point = self.run(
            f"""(() => {{
                const element = document.querySelectorAll({json.dumps(selector)})[{number}];
                element.scrollIntoView({{ block: "nearest", behavior: "instant" }});
                const box = [...element.getClientRects()].sort((a, b) => b.width - a.width)[0];
                const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
                const top = document.elementFromPoint(x, y);
                return [x, y, element === top || element.contains(top), top?.outerHTML.slice(0, 200)];
            }})()"""
        )
        x, y, reachable, covering = point
        if not reachable:
            raise PageError(f"{selector} {number} is covered by {covering}")
        return x, y

    def type(self, text: str) -> None:
        """Type text into the focused element."""
        self.ask("Input.insertText", text=text)

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press one key."""
        about = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": _KEYS[key],
                 "modifiers": modifiers}  # fmt: skip
        spoken = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **about, **spoken)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **about)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write a screenshot as PNG."""
        taken = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    @property
    def complaints(self) -> list[str]:
        """Console errors and warnings, exceptions and blocked requests since the page was opened."""
        return [
            json.dumps(event["params"])[:1000]
            for event in self._browser.events
            if _complains(event["method"], event["params"])
        ]

    @property
    def addresses(self) -> set[str]:
        """URLs that the page requested."""
        return {
            event["params"]["request"]["url"]
            for event in self._browser.events
            if event["method"] == "Network.requestWillBeSent"
        }


def _complains(method: str, parameters: dict[str, Any]) -> bool:
    if method == "Runtime.consoleAPICalled":
        return parameters["type"] in {"error", "warning", "assert"}
    if method == "Log.entryAdded":
        return parameters["entry"]["level"] in {"error", "warning"}
    return method in {"Runtime.exceptionThrown", "Page.javascriptDialogOpening"}


@contextmanager
def started(program: str, profile: Path) -> Iterator[Browser]:
    """Start a browser with its own profile directory."""
    read_commands, commands = os.pipe()
    responses, write_answers = os.pipe()
    # Away from 3 and 4, which the launcher overwrites.
    inherited = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (read_commands, write_answers)]
    launch = [sys.executable, "-IS", "-c", _LAUNCHER, *map(str, inherited), program]
    process = subprocess.Popen(
        [*launch, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=inherited, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    for fd in (read_commands, write_answers, *inherited):
        os.close(fd)
    browser = Browser(process, commands, responses)
    try:
        yield browser
    finally:
        browser.end()
