"""Learning rate and length of each family of a comparison: given, found, or those of an earlier call."""

from pathlib import Path

from fabella.data.dataset import TokenizedDataset
from fabella.errors import UsageError
from fabella.run_config.files import apply_overrides, validate_config, with_sections
from fabella.run_config.run import RunConfig
from fabella.runs.run_dir import CONFIG, RunDir
from fabella.tracking.console import print_status
from fabella.training.setup.quickstart import measure_speed
from fabella.training.setup.resolve_config import resolve_config
from fabella.tuning.lr_search import find_rate
from fabella.tuning.space import max_steps

LR_FIND_STEPS = 200
"""Largest length of the trainings of --lr-find in steps; shorter runs are searched at their own length."""


def with_rates(runs: list[RunConfig], lr: str) -> list[RunConfig]:
    """Return the runs with the rates of ``--lr``: one for all, or ``family=rate`` by commas. Raise UsageError."""
    if not lr:
        return runs
    parts = [part.strip().rpartition("=") for part in lr.split(",")]
    rates = {name: number for name, _, number in parts}
    names = [run.name for run in runs]
    unknown = [name for name in rates if name and name not in names]
    try:
        numbers = {name: float(text) for name, text in rates.items()}
    except ValueError:
        raise UsageError(f"Cannot parse --lr {lr}.", hint="Use --lr 3e-3, or --lr llama=5e-3,gpt2=2e-3.") from None
    if unknown or ("" not in numbers and set(names) - set(numbers)):
        missing = sorted(set(unknown) or set(names) - set(numbers))
        reason = "which is not compared" if unknown else "which has no rate"
        raise UsageError(f"--lr {lr}: {missing[0]}, {reason}.", hint=f"The families are {', '.join(names)}.")
    return [with_rate(run, numbers.get(run.name, numbers.get("", 0.0))) for run in runs]


def with_found_rate(run: RunConfig, ids: TokenizedDataset, run_dir: Path, device: str) -> RunConfig:
    """Return the run with the rate of a range test, or with that of the run of an earlier call in ``run_dir``."""
    if (run_dir / CONFIG).is_file():
        return with_rate(run, RunDir.open(run_dir).run.optimizer.lr)
    print_status(f"{run.name}: trying learning rates …")
    steps = min(LR_FIND_STEPS, max_steps(resolve_config(run, ids)))
    return with_rate(run, find_rate(run, ids, steps=steps, device=device, report=print_status).suggested)


def with_minutes(run: RunConfig, minutes: float, run_dir: Path, device: str) -> RunConfig:
    """Return the run with as many steps as fit into the time, or as those of the run of an earlier call."""
    if (run_dir / CONFIG).is_file():
        length = RunDir.open(run_dir).run.training.length
        return run.model_copy(update={"training": run.training.model_copy(update={"length": length})})
    return steps_for_seconds(run, 60 * minutes, device=device)


def with_rate(run: RunConfig, lr: float) -> RunConfig:
    """Return the run with another peak learning rate."""
    return validate_config(apply_overrides(run.model_dump(mode="json"), [f"optimizer.lr={lr!r}"]))


def steps_for_seconds(run: RunConfig, seconds: float, *, device: str = "auto") -> RunConfig:
    """Return ``run`` with as many steps as this machine takes in ``seconds``; its speed is measured."""
    steps = measure_speed(run, device=device).steps_in(seconds / 60)
    return validate_config(with_sections(run.model_dump(mode="json"), {"training.length": {"max_steps": steps}}))
