"""Run lm-evaluation-harness tasks on a model: BLiMP, LAMBADA, or your own.

Examples:
  fabella lm-eval runs/quickstart blimp lambada_openai --limit 200     downloads the data; pip install 'fabella[eval]'
  fabella lm-eval runs/quickstart endings --include-path my-tasks        your own task over local files
  fabella lm-eval runs/quickstart my-tasks/endings.yaml --num-fewshot 2 --json
"""

from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_report, print_status
from fabella.cli.run_options import AsJson, CheckpointOption, Device, RunEngine, WeightsOption
from fabella.evaluation.harness import HarnessConfig, Results, run_tasks
from fabella.runs.checkpoint import of_average
from fabella.tracking.terminal_escape import escape


def command(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    tasks: Annotated[list[str], typer.Argument(help="Task names, group names, or YAML files.")],
    include_path: Annotated[
        list[Path] | None, typer.Option(help="Directory of additional tasks (YAML files); repeatable.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Number of solved examples in each prompt; by default the task's own.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Maximum number of questions per task; 0 takes all.")] = 0,
    checkpoint: CheckpointOption = "best",
    weights: WeightsOption = "trained",
    device: Device = "auto",
    engine: RunEngine = "",
    as_json: AsJson = False,
) -> None:
    config = HarnessConfig(
        tasks=tuple(dict.fromkeys(tasks)), include_path=tuple(include_path or ()), num_fewshot=num_fewshot, limit=limit,
        checkpoint=checkpoint, weights=weights, device=device, engine=engine,
    )  # fmt: skip
    result = run_tasks(run, config, print_status)
    print_report(result, lines, as_json=as_json)


def lines(result: Results) -> list[str]:
    """Format the result as a table."""
    shown = [f"Step {result.step:,}{of_average(result.weights)}, by lm-evaluation-harness {result.harness}:", ""]
    shown.append(f"  {'task':<32} {'metric':<20} {'value':>10} {'± error':>9} {'questions':>9} {'shots':>5}")
    for metric in result.metrics:
        error = f"{metric.stderr:.4f}" if metric.stderr == metric.stderr else "-"
        shown.append(
            f"  {escape(metric.task):<32} {escape(metric.metric):<20} {metric.value:>10.4f} {error:>9} "
            f"{metric.num_samples:>9,} {metric.num_fewshot:>5}"
        )
    if result.limit:
        shown += [
            "",
            f"Limited to {result.limit:,} questions per task: do not compare with published numbers.",
        ]
    return shown
