"""Train a storyteller in about two minutes, from nothing, and let it tell three stories.

Examples:
  fabella quickstart
  fabella quickstart --minutes 10         a better one
  fabella quickstart                      again: uses what is there
"""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from fabella.cli.output import print_json, print_result, print_status
from fabella.generation.completion import Completion
from fabella.generation.generator import load
from fabella.generation.sampling import SamplingParams
from fabella.report.png import plot_loss
from fabella.runs.checkpoint import latest_valid_step
from fabella.runs.run_dir import RunDir
from fabella.tracking.prepare_progress import PrepareProgressLine
from fabella.training.run import TrainResult, resume, start_run
from fabella.training.setup.quickstart import is_finished, quickstart_run
from fabella.training.setup.request import prepare_data

STORIES = 3
STORY = SamplingParams(temperature=0.6, top_p=0.9, seed=1)  # a young model, asked not to be too daring


def command(
    minutes: Annotated[float, typer.Option(help="How long to train, about.")] = 2.0,
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/quickstart"),
    prepared: Annotated[Path, typer.Option(help="Where prepared data is kept.")] = Path("prepared"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    outcome = _train(minutes, out, prepared, device)
    plot = plot_loss(out)
    stories = load(out, device=device).generate("", STORY, n=STORIES, max_tokens=400)
    if as_json:
        print_json(_facts(outcome, plot, stories))
        return
    print_result(
        f"\nOn {outcome.score.tokens:,} tokens of stories it has never seen: {outcome.score}. Its curve: {plot}\n"
    )
    for number, story in enumerate(stories, start=1):
        print_result(f"Story {number}\n{_indented(story.text.strip())}\n")
    print_result(_next_commands(out))


def _train(minutes: float, out: Path, prepared: Path, device: str) -> TrainResult:
    """Train, or go on, or find it done."""
    if (out / "config.yaml").exists():
        folder = RunDir.open(out)
        done = is_finished(folder.run, latest_valid_step(folder))
        print_status(f"{out} is there already: {'using it' if done else 'going on with it'} (remove it to begin anew).")
        return resume(out, device=device)
    print_status("Measuring this machine …")
    run = quickstart_run(minutes, device=device)
    with PrepareProgressLine() as line:
        data = prepare_data(run, prepared, progress=line)
    return start_run(run, out, data, device=device)


def _facts(outcome: TrainResult, plot: Path, stories: list[Completion]) -> dict[str, object]:
    score = outcome.score
    return {
        "run": str(outcome.folder),
        "steps": outcome.progress.step,
        "loss": score.loss,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
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
