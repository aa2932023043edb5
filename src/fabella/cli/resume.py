"""Go on with a run exactly where it stopped, as if it had never stopped.

Examples:
  fabella resume runs/my-stories
  fabella resume runs/my-stories --steps 5000           train longer than was planned
  fabella resume runs/my-stories checkpoint.every=50    with a setting changed that may change
"""

from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.train import report
from fabella.runs.folder import RunFolder
from fabella.training.api import changed
from fabella.training.session import resume


def command(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings, as section.key=value.")] = None,
    steps: Annotated[int, typer.Option(help="Train to this optimizer step; 0: as planned.", min=0)] = 0,
    data: Annotated[Path | None, typer.Option(help="The prepared folder, if it was moved.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    saved = RunFolder.open(run).run
    asked = changed(saved, [*(overrides or []), *([f"training.length.steps={steps}"] if steps else [])])
    report(resume(run, device=device, prepared=data, run=asked), as_json=as_json)
