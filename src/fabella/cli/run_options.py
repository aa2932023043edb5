"""Options that commands on a run or a model have in common."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fabella.storage import require_writable


def writable(ctx: typer.Context, param: typer.CallbackParam, value: Path | None) -> Path | None:
    """Return the path of an output. Raise StorageError if it cannot be written, before the command does any work.

    A default is checked by the command where it uses it.
    """
    source = ctx.get_parameter_source(param.name or "")
    if value is not None and source is not None and source.name != "DEFAULT":
        require_writable(value, param.opts[0])
    return value


CheckpointOption = Annotated[str, typer.Option(help="Checkpoint: best, latest, or a step number.")]
WeightsOption = Annotated[
    Literal["trained", "average"],
    typer.Option("--weights", help="Weights of the checkpoint: trained, or their average (optimizer.average)."),
]
Device = Annotated[
    str, typer.Option(help="Device to compute on: auto, cpu, cuda, cuda:N (GPU number N, from 0) or mps.")
]
RunEngine = Annotated[str, typer.Option(help="Engine: torch or jax; by default the one that trained the run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]

LearningRate = Annotated[
    float | None, typer.Option("--lr", help="Peak learning rate (optimizer.lr); by default that of the config.")
]
Epochs = Annotated[
    float | None,
    typer.Option(help="Passes over the training text (training.length.epochs); instead of --steps."),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Sequences of one forward pass (training.micro_batch_size); a step takes as many forward passes as "
        "training.gradient_accumulation says, one by default."
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(help="Seed of weights, dropout and order of the text (seed); by default that of the config."),
]
