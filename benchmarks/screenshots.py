"""Write a screenshot of every state of the story page, and of reports, in each view, into a folder that you name.

    python -m benchmarks.screenshots FOLDER [--only STATE] [--report RUN]

A state is named in tests/server/page/states.py. Needs Chromium or Chrome.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from fabella.report.page import page
from fabella.report.run_history import read
from tests.server.chromium import Browser, find, started
from tests.server.page.states import STATES, UNREADY, shown

DESK, PHONE = {"width": 1200, "height": 800}, {"width": 375, "height": 700, "phone": True}
VIEWS: dict[str, dict[str, Any]] = {
    f"{device}-{theme}": {**size, **colors}
    for device, size in (("desk", DESK), ("phone", PHONE))
    for theme, colors in (("light", {}), ("dark", {"dark": True}), ("forced", {"forced": True}))
}


def take_states(browser: Browser, folder: Path, states: list[str]) -> None:
    for state in states:
        for name, view in VIEWS.items():
            with shown(browser, state, **view) as opened:
                opened.picture(folder / f"{state}-{name}.png")


def take_report(browser: Browser, folder: Path, runs: list[Path]) -> None:
    """Take the whole report of some runs."""
    file = folder / "report.html"
    file.write_text(page([read(run) for run in runs]), encoding="utf-8")
    for name, view in VIEWS.items():
        browser.open(file.as_uri(), ready=False, **view).picture(folder / f"report-{name}.png", whole=True)


def main() -> None:
    """Take the screenshots of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=[*STATES, *UNREADY], action="append", help="take this state, not all")
    parser.add_argument("--report", type=Path, action="append", help="take the report of this run, not the states")
    options = parser.parse_args()
    if not find():
        parser.error("needs Chromium or Chrome; on Debian: apt-get install chromium")
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, started(find(), Path(profile)) as browser:
        if options.report:
            take_report(browser, options.folder, options.report)
        else:
            take_states(browser, options.folder, options.only or [*STATES, *UNREADY])


if __name__ == "__main__":
    main()
