"""Options that commands on a run or a model have in common."""

from typing import Annotated

import typer

CheckpointOption = Annotated[str, typer.Option(help="Checkpoint: best, latest, or a step number.")]
Device = Annotated[str, typer.Option(help="Device to compute on: auto, cpu, cuda or mps.")]
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
