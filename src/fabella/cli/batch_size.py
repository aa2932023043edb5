"""Find the largest micro-batch that fits into memory, and the fastest.

Examples:
  fabella batch-size piny-37m                          probe by doubling, then by bisection
  fabella batch-size piny-37m --memory 4GB             set the memory limit
  fabella batch-size piny-37m --write mine.yaml        write the result as a config: fabella train mine.yaml
  fabella batch-size mine.yaml --fastest --write mine.yaml

The global batch does not change: the gradient accumulation is adjusted to the micro-batch. Each trial runs in its own
process; a trial that is killed for memory, or reaches its timeout, does not fit.
"""

from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_json, print_result, print_status
from fabella.cli.run_options import AsJson, Device, writable
from fabella.cli.text_options import ReadingOptions, TokenizerOptions, Words, expand_options, text_request
from fabella.engine import engine as engines
from fabella.errors import ConfigError
from fabella.planning.batch_size_finder import BatchSizeResult, find_batch_size, with_micro_batch_size
from fabella.planning.memory import MemoryBudget, available_ram, parse_bytes
from fabella.planning.probe import REASONS, ProbeLimits, ProbeResult
from fabella.run_config.files import load_config, to_yaml
from fabella.run_config.run import RunConfig
from fabella.storage import atomic_write, format_bytes
from fabella.training.setup.request import resolve_request

FREE_SHARE = 0.9
"""Default limit as a share of the free memory; the rest is for prefetched batches, checkpoints and other programs."""


@expand_options
def command(
    reading: ReadingOptions,
    tokenizing: TokenizerOptions,
    what: Annotated[str, typer.Argument(help="A preset, a .yaml config, or a text file.")],
    overrides: Words = None,
    data: Annotated[str, typer.Option(help="Text source, or directory of a prepared dataset.")] = "",
    memory: Annotated[str, typer.Option(help="Memory limit, e.g. 4GB; by default 90 % of the free memory.")] = "",
    max_micro_batch_size: Annotated[
        int, typer.Option(help="Largest micro-batch to try, in sequences; 0 for the global batch.", min=0)
    ] = 0,
    trial_timeout: Annotated[float, typer.Option(help="Timeout of one trial, in seconds.", min=1)] = 120.0,
    fastest: Annotated[bool, typer.Option("--fastest", help="Use the fastest instead of the largest.")] = False,
    write: Annotated[
        Path | None, typer.Option(help="A .yaml file to write the resulting config to.", callback=writable)
    ] = None,
    device: Device = "auto",
    engine: Annotated[str, typer.Option(help="Engine: torch or jax; by default that of the config.")] = "",
    as_json: AsJson = False,
) -> None:
    run = resolve_request(text_request(what, overrides, reading, tokenizing, data=data, engine=engine)).run
    if write is not None:
        require_absent(write)
    budget, on_gpu = available_memory(run, device)
    limit = parse_bytes(memory) if memory else int(budget.free * FREE_SHARE)
    free, total = format_bytes(budget.free), format_bytes(budget.total)
    print_status(f"{free} of {total} {budget.where} are free; up to {format_bytes(limit)} may be used.")
    limits = ProbeLimits(limit=limit, on_gpu=on_gpu, seconds=trial_timeout, device=device)
    result = find_batch_size(
        run, limits, max_size=max_micro_batch_size, report=lambda trial: print_status(format_trial(trial))
    )
    chosen = result.fastest if fastest else result.largest
    changed = with_micro_batch_size(run, chosen.micro_batch_size)
    if write is not None:
        atomic_write(write, to_yaml(changed).encode())
    if as_json:
        print_json(_to_json(result, changed, limit, write))
    else:
        _print_report(result, changed, write)


def available_memory(run: RunConfig, device: str) -> tuple[MemoryBudget, bool]:
    """Return the memory for the activations, and True if it is that of a GPU."""
    gpu: tuple[int, int] | None = engines.backend(run.engine, "measure.memory").device_memory(device)
    return (MemoryBudget(gpu[0], gpu[1], "memory of the GPU"), True) if gpu else (available_ram(), False)


def require_absent(path: Path) -> None:
    """Raise ConfigError if ``path`` is not a .yaml name, or an existing file that is not a config."""
    if path.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"--write {path} is not a .yaml file.", hint=f"Use --write {path.with_suffix('.yaml')}.")
    if path.exists():
        load_config(str(path))


def format_trial(trial: ProbeResult) -> str:
    """Return one line about a trial."""
    if not trial.measured:
        return f"micro-batch {trial.micro_batch_size:>6,}: {REASONS[trial.reason]}"
    speed, peak = f"{trial.tokens_per_second:>9,.0f} tokens/s", format_bytes(trial.peak_bytes)
    return f"micro-batch {trial.micro_batch_size:>6,}: {speed}, {peak} peak"


def _print_report(result: BatchSizeResult, changed: RunConfig, write: Path | None) -> None:
    print_result(f"Largest that fits: {_summary(result.largest)}")
    print_result(f"Fastest:           {_summary(result.fastest)}")
    slow = [trial.micro_batch_size for trial in result.trials if trial.reason == "time"]
    if slow:
        print_result(f"Not measured in the time: {min(slow):,} and more (--trial-timeout allows more time).")
    training = changed.training
    settings = f"training.micro_batch_size={training.micro_batch_size}"
    settings += f" 'training.gradient_accumulation={_pairs(training.gradient_accumulation)}'"
    print_result(f"Written to {write}." if write else f"Same global batch with: {settings}")


def _summary(trial: ProbeResult) -> str:
    return (
        f"{trial.micro_batch_size:,} ({trial.tokens_per_second:,.0f} tokens/s, {format_bytes(trial.peak_bytes)} peak)"
    )


def _pairs(accumulation: tuple[tuple[int, int], ...]) -> str:
    return str([list(pair) for pair in accumulation]).replace(" ", "")


def _to_json(result: BatchSizeResult, changed: RunConfig, limit: int, write: Path | None) -> dict[str, object]:
    return {
        "micro_batch_size": changed.training.micro_batch_size,
        "gradient_accumulation": changed.training.gradient_accumulation,
        "largest": result.largest.micro_batch_size,
        "fastest": result.fastest.micro_batch_size,
        "memory_bytes": limit,
        "trials": [
            {
                "micro_batch_size": trial.micro_batch_size,
                "fits": trial.fits,
                "reason": trial.reason,
                "tokens_per_second": trial.tokens_per_second if trial.measured else None,
                "peak_bytes": trial.peak_bytes if trial.measured else None,
            }
            for trial in result.trials
        ],
        "written": str(write) if write else "",
    }
