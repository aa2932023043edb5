"""The process of one section: ``python -m benchmarks.gpu_check.child NAME SETTINGS RESULT``, SETTINGS as JSON.

RESULT is written after every case, so that a section that crashes or is killed loses one case only.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.sections import SECTIONS, Section, Settings, SkipCaseError, Values
from fabella.storage import write_json

TRACEBACK_LINES = 12


def examine(function: Callable[[], Values]) -> dict[str, Any]:
    """Run a case and return its values with ``status``: passed, failed or skipped."""
    start = time.perf_counter()
    try:
        values = function()
        result = {"status": "passed" if values["passed"] else "failed", **values}
        del result["passed"]
    except SkipCaseError as reason:
        result = {"status": "skipped", "reason": str(reason)}
    except Exception as error:  # noqa: BLE001 - whatever fails on a GPU is the result of the case
        lines = traceback.format_exc().splitlines()[-TRACEBACK_LINES:]
        result = {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": lines}
    return {**result, "seconds": round(time.perf_counter() - start, 2)}


def run_section(section: Section, settings: Settings, result: Path) -> None:
    """Examine the cases of a section one after the other, and write their results after each."""
    cases: dict[str, dict[str, Any]] = {}
    try:
        for name, function in section.cases(settings):
            cases[name] = examine(function)
            write_json(result, {"cases": cases})
    except SkipCaseError as reason:
        write_json(result, {"cases": cases, "skipped": str(reason)})


def main() -> int:
    """Run the section that the command line names."""
    name, settings, result = sys.argv[1:]
    section = next(section for section in SECTIONS if section.name == name)
    run_section(section, Settings(**json.loads(settings)), Path(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
