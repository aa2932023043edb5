"""Go on with a run exactly where it stopped, as if it had never stopped.

Examples:
  fabella resume runs/my-stories
  fabella resume runs/my-stories --steps 5000           train longer than was planned
  fabella resume runs/my-stories checkpoint.every=50    with a setting changed that may change
"""

from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import say
from fabella.cli.train import report
from fabella.config import Run
from fabella.config_files import apply_overrides, run_from
from fabella.runs.compare import compare_for_resume
from fabella.runs.folder import RunFolder
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
    asked = _changed(saved, [*(overrides or []), *([f"training.length.steps={steps}"] if steps else [])])
    for difference in compare_for_resume(saved, asked):
        say(str(difference))
    report(resume(run, device=device, prepared=data, run=asked), as_json=as_json)


def _changed(saved: Run, overrides: list[str]) -> Run:
    return run_from(apply_overrides(saved.model_dump(mode="json"), overrides)) if overrides else saved
