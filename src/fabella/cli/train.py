"""Train a model: on a text as it is, a preset, or a config of your own.

Examples:
  fabella train my-stories.txt                          chooses tokenizer, model and length, and says why
  fabella train storybook-1m --steps 200                a preset, on its own data
  fabella train piny-37m --data my-stories.txt --out runs/mine
  fabella train mine.yaml optimizer.lr=3e-4 seed=7      a config file, with two settings changed
"""

from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import say, show, show_json
from fabella.telemetry.plot import plot_loss
from fabella.telemetry.preparation import PreparationLine, say_remarks
from fabella.training.launch import Asked, plan, prepare_for
from fabella.training.session import Outcome, start


def command(
    what: Annotated[str, typer.Argument(help="A text (file, folder, glob), a preset, or a .yaml config.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings, as section.key=value.")] = None,
    data: Annotated[str, typer.Option(help="A source of text, or a prepared folder.")] = "",
    validation: Annotated[str, typer.Option(help="A source of text to validate on.")] = "",
    out: Annotated[Path | None, typer.Option(help="The run's folder; usually runs/NAME.")] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps; 0: as the config says.", min=0)] = 0,
    engine: Annotated[str, typer.Option(help="torch; usually as the config says.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    prepared: Annotated[Path, typer.Option(help="Where prepared data is kept.")] = Path("prepared"),
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    asked = Asked(
        what=what, data=data, validation=validation, engine=engine, steps=steps, overrides=tuple(overrides or ())
    )
    planned = plan(asked)
    for reason in planned.reasons:
        say(reason)
    ids = planned.prepared
    if ids is None:
        with PreparationLine() as line:
            ids = prepare_for(planned.run, prepared, progress=line)
        say_remarks(ids.manifest)
    report(start(planned.run, out or Path("runs") / planned.run.name, ids, device=device), as_json=as_json)


def report(outcome: Outcome, *, as_json: bool) -> None:
    """What a finished run gave, its plot, and what to do with it."""
    plot, score = plot_loss(outcome.folder), outcome.score
    if as_json:
        show_json(
            {
                "run": str(outcome.folder),
                "steps": outcome.progress.step,
                "tokens": outcome.progress.tokens,
                "loss": score.loss,
                "perplexity": score.perplexity,
                "bits_per_byte": score.bits_per_byte,
                "plot": str(plot),
            }
        )
        return
    show(f"On {score.tokens:,} held-out tokens, after {outcome.progress.step:,} steps: {score}. Its curve: {plot}")
    show(f"Tell a story:  fabella generate {outcome.folder}")
