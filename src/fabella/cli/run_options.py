"""Options that commands on a run or a model have in common."""

from typing import Annotated

import typer

CheckpointOption = Annotated[str, typer.Option(help="best, latest, or a step number.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …")]
RunEngine = Annotated[str, typer.Option(help="torch or jax; by default the engine that trained the run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
