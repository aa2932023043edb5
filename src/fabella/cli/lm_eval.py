"""Put standard tasks to a run, by lm-evaluation-harness: BLiMP, LAMBADA, or one of your own.

Examples:
  fabella lm-eval runs/quickstart blimp lambada_openai --limit 200     (pip install 'fabella[eval]'; data from the hub)
  fabella lm-eval runs/quickstart endings --folder my-tasks              a task of your own over local files
  fabella lm-eval runs/quickstart my-tasks/endings.yaml --shots 2 --json
"""

from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_report, print_status
from fabella.evaluation.harness import HarnessConfig, Results, run_tasks
from fabella.tracking.terminal_escape import escape


def command(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    tasks: Annotated[list[str], typer.Argument(help="Names of tasks or groups, or YAML files.")],
    folder: Annotated[list[Path] | None, typer.Option(help="Where more tasks lie, as YAML files.")] = None,
    shots: Annotated[
        int | None, typer.Option(min=0, help="Solved examples before each question; otherwise as the task has it.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Most questions a task; 0: all.")] = 0,
    checkpoint: Annotated[str, typer.Option(help="best, latest, or the number of a step.")] = "best",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    engine: Annotated[str, typer.Option(help="torch or jax; usually the one of the run.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    asked = HarnessConfig(
        tasks=tuple(dict.fromkeys(tasks)), include_path=tuple(folder or ()), num_fewshot=shots, limit=limit,
        checkpoint=checkpoint, device=device, engine=engine,
    )  # fmt: skip
    result = run_tasks(run, asked, print_status)
    print_report(result, lines, as_json=as_json)


def lines(result: Results) -> list[str]:
    """A table for people."""
    shown = [f"Step {result.step:,}, by lm-evaluation-harness {result.harness}:", ""]
    shown.append(f"  {'task':<32} {'metric':<20} {'value':>10} {'± error':>9} {'questions':>9} {'shots':>5}")
    for one in result.metrics:
        error = f"{one.stderr:.4f}" if one.stderr == one.stderr else "-"
        shown.append(
            f"  {escape(one.task):<32} {escape(one.metric):<20} {one.value:>10.4f} {error:>9} "
            f"{one.num_samples:>9,} {one.num_fewshot:>5}"
        )
    if result.limit:
        shown += [
            "",
            f"At most {result.limit:,} questions a task were asked: not to be compared with published numbers.",
        ]
    return shown
