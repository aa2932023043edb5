"""Find the largest micro-batch that fits into memory, and the fastest, by trying.

Examples:
  fabella batch-size piny-37m                          doubles and halves until it is found; nothing can crash
  fabella batch-size piny-37m --memory 4GB             as if there were no more memory than that
  fabella batch-size piny-37m --write mine.yaml        the answer as a config: fabella train mine.yaml
  fabella batch-size mine.yaml --fastest --write mine.yaml

The global batch stays what it was: the accumulation is set to make up for the micro-batch, so that the same is
learned. Each trial is a process of its own; one that is killed for memory, or hangs, has tried too much.
"""

from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_json, print_result, print_status
from fabella.engine import engine as engines
from fabella.errors import ConfigError
from fabella.planning.batch_size_finder import BatchSizeResult, find_batch_size, with_micro_batch
from fabella.planning.memory import MemoryBudget, available_ram, size_in_bytes
from fabella.planning.probe import REASONS, ProbeLimits, ProbeResult
from fabella.run_config.files import load_config, to_yaml
from fabella.run_config.run import RunConfig
from fabella.storage import atomic_write, format_bytes
from fabella.training.setup.request import TrainRequest, resolve_request

FREE_SHARE = 0.9
"""Of the free memory: the rest is for batches in waiting, for saving, and for what else the machine does."""


def command(
    what: Annotated[str, typer.Argument(help="A preset, a .yaml config, or a text.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings, as section.key=value.")] = None,
    memory: Annotated[
        str, typer.Option(help="Memory that may be used, as 4GB; usually nine tenths of what is free.")
    ] = "",
    most: Annotated[int, typer.Option(help="Try no larger micro-batch; 0: up to the global batch.", min=0)] = 0,
    seconds: Annotated[float, typer.Option(help="Longest time for one trial.", min=1)] = 120.0,
    fastest: Annotated[bool, typer.Option("--fastest", help="Write the fastest instead of the largest.")] = False,
    write: Annotated[Path | None, typer.Option(help="A .yaml file for the config with the answer.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    engine: Annotated[str, typer.Option(help="torch or jax; usually as the config says.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    run = resolve_request(TrainRequest(what=what, engine=engine, overrides=tuple(overrides or ()))).run
    if write is not None:
        require_absent(write)
    room, on_gpu = available_memory(run, device)
    limit = size_in_bytes(memory) if memory else int(room.free * FREE_SHARE)
    free, total = format_bytes(room.free), format_bytes(room.total)
    print_status(f"{free} of {total} {room.where} are free; up to {format_bytes(limit)} may be used.")
    given = ProbeLimits(limit=limit, on_gpu=on_gpu, seconds=seconds, device=device)
    answer = find_batch_size(run, given, most=most, report=lambda trial: print_status(format_trial(trial)))
    chosen = answer.fastest if fastest else answer.largest
    changed = with_micro_batch(run, chosen.micro_batch)
    if write is not None:
        atomic_write(write, to_yaml(changed).encode())
    if as_json:
        print_json(_facts(answer, changed, limit, write))
    else:
        _tell(answer, changed, write)


def available_memory(run: RunConfig, device: str) -> tuple[MemoryBudget, bool]:
    """The memory that activations will lie in, and whether it is a GPU's."""
    of_gpu: tuple[int, int] | None = engines.backend(run.engine, "measure.memory").device_memory(device)
    return (MemoryBudget(of_gpu[0], of_gpu[1], "memory of the GPU"), True) if of_gpu else (available_ram(), False)


def require_absent(path: Path) -> None:
    """Raises ConfigError for a name that is no config's, or a file that holds anything else."""
    if path.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"--write {path} is no .yaml file.", hint=f"Write it to {path.with_suffix('.yaml')}.")
    if path.exists():
        load_config(str(path))


def format_trial(trial: ProbeResult) -> str:
    """One line about a trial."""
    if not trial.fits:
        return f"micro-batch {trial.micro_batch:>6,}: {REASONS[trial.reason]}"
    speed, peak = f"{trial.tokens_per_second:>9,.0f} tokens/s", format_bytes(trial.peak_bytes)
    return f"micro-batch {trial.micro_batch:>6,}: {speed}, {peak} at most"


def _tell(answer: BatchSizeResult, changed: RunConfig, write: Path | None) -> None:
    print_result(f"Largest that fits: {_in_brief(answer.largest)}")
    print_result(f"Fastest:           {_in_brief(answer.fastest)}")
    training = changed.training
    settings = f"training.micro_batch_size={training.micro_batch_size} 'training.gradient_accumulation={_pairs(training.gradient_accumulation)}'"
    print_result(f"Written to {write}." if write else f"The same global batch with: {settings}")


def _in_brief(trial: ProbeResult) -> str:
    return f"{trial.micro_batch:,} ({trial.tokens_per_second:,.0f} tokens/s, {format_bytes(trial.peak_bytes)} at most)"


def _pairs(accumulation: tuple[tuple[int, int], ...]) -> str:
    return str([list(pair) for pair in accumulation]).replace(" ", "")


def _facts(answer: BatchSizeResult, changed: RunConfig, limit: int, write: Path | None) -> dict[str, object]:
    return {
        "micro_batch_size": changed.training.micro_batch_size,
        "gradient_accumulation": changed.training.gradient_accumulation,
        "largest": answer.largest.micro_batch,
        "fastest": answer.fastest.micro_batch,
        "memory_bytes": limit,
        "trials": [
            {
                "micro_batch_size": trial.micro_batch,
                "fits": trial.fits,
                "reason": trial.reason,
                "tokens_per_second": trial.tokens_per_second,
                "peak_bytes": trial.peak_bytes,
            }
            for trial in answer.trials
        ],
        "written": str(write) if write else "",
    }
