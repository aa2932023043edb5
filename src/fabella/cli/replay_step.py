"""Replay a non-finite step that a training has saved. Nothing is trained.

Examples:
  fabella replay-step runs/mine/failures/step-00000120          print the first module with a non-finite output
  fabella replay-step runs/mine/failures/step-00000120 --device cpu
"""

from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_json, print_result
from fabella.cli.run_options import AsJson, Device
from fabella.training.replay import replay


def command(
    path: Annotated[Path, typer.Argument(help="Directory of the saved step: RUN/failures/step-NUMBER.")],
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    report = replay(path, device=device)
    if as_json:
        print_json(
            {"step": report.step, "happened": bool(report.error), "error": report.error, "module": report.module}
        )
        return
    print_result(str(report))
