"""Train a small story model in about two minutes and generate three stories.

Examples:
  fabella quickstart
  fabella quickstart --minutes 10         a better model
  fabella quickstart                      again: use the existing run
"""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from fabella.cli.output import print_json, print_result, print_status
from fabella.cli.run_options import AsJson, Device, writable
from fabella.generation.completion import Completion
from fabella.generation.generator import load
from fabella.generation.sampling import SamplingParams
from fabella.report.plots import plot_loss
from fabella.runs.checkpoint import latest_valid_step
from fabella.runs.run_dir import RunDir, require_empty
from fabella.tracking.prepare_progress import PrepareProgressLine
from fabella.training.run import resume, start_run
from fabella.training.session import TrainResult
from fabella.training.setup.quickstart import is_finished, quickstart_run
from fabella.training.setup.request import prepare_data

STORIES = 3
STORY = SamplingParams(temperature=0.6, top_p=0.9, seed=1)  # a low temperature suits a model trained this briefly


def command(
    minutes: Annotated[float, typer.Option(help="Approximate training time in minutes.")] = 2.0,
    out: Annotated[Path, typer.Option(help="Run directory.", callback=writable)] = Path("runs/quickstart"),
    prepared: Annotated[Path, typer.Option(help="Directory of prepared datasets.", callback=writable)] = Path(
        "prepared"
    ),
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    result = _train(minutes, out, prepared, device)
    plot = plot_loss(out)
    stories = load(out, device=device).generate("", STORY, n=STORIES, max_tokens=400)
    if as_json:
        print_json(_to_json(result, plot, stories))
        return
    print_result(f"\nOn {result.score.tokens:,} held-out tokens: {result.score}. Loss curve: {plot}\n")
    for number, story in enumerate(stories, start=1):
        print_result(f"Story {number}\n{_indented(story.text.strip())}\n")
    print_result(_next_commands(out))


def _train(minutes: float, out: Path, prepared: Path, device: str) -> TrainResult:
    """Train a new run, or resume the existing one."""
    if (out / "config.yaml").exists():
        run_dir = RunDir.open(out)
        finished = is_finished(run_dir.run, latest_valid_step(run_dir))
        print_status(f"{'Using' if finished else 'Resuming'} the existing run {out}. Remove it to start again.")
        return resume(out, device=device)
    require_empty(out)
    print_status("Measuring this machine …")
    run = quickstart_run(minutes, device=device)
    with PrepareProgressLine() as line:
        dataset = prepare_data(run, prepared, progress=line)
    return start_run(run, out, dataset, device=device)


def _to_json(result: TrainResult, plot: Path, stories: list[Completion]) -> dict[str, object]:
    score = result.score
    return {
        "run": str(result.path),
        "steps": result.progress.step,
        "loss": score.loss,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
        "rule": score.rule,
        "plot": str(plot),
        "stories": [{"text": story.text, "finish_reason": story.finish_reason} for story in stories],
    }


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _next_commands(out: Path) -> str:
    run = quote(str(out))
    return (
        "Try next:\n"
        f'  fabella generate {run} "Once upon a time"\n'
        f'  fabella perplexity {run} "The little fox was sad."\n'
        "  fabella train my-stories.txt"
    )
