"""Resolve a request to resume a run, train it longer, or branch it, for the command line and ``fabella.resume``."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fabella.config.training import MaxSteps
from fabella.errors import ConfigError, UsageError
from fabella.run_config.files import apply_overrides, validate_config, value_of
from fabella.run_config.run import RunConfig
from fabella.runs.branch import branch, config_at
from fabella.runs.checkpoint import load, parse_which, start_step
from fabella.runs.failed_steps import FAILURES
from fabella.runs.metrics_log import read_rows
from fabella.runs.resume_rules import compare_for_resume
from fabella.runs.run_dataset import open_run_dataset
from fabella.runs.run_dir import CONFIG, FIRST_SCHEDULE, RunDir, require_empty
from fabella.storage import remove_dir
from fabella.tracking.console import print_status
from fabella.training.setup.extend import change_schedule, parse_schedule_change
from fabella.training.setup.resolve_config import is_resolved, resolve_config

ROWS_OF_SPEED = 50
"""Latest rows of metrics from which the speed of a run is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequest:
    """Options of ``fabella resume`` and ``fabella.resume``."""

    run: Path
    overrides: Sequence[str] = ()
    steps: int = 0
    """Train to this step; 0: not given"""
    epochs: float = 0.0
    """Train to this number of epochs; 0: not given"""
    tokens: int = 0
    """Train to this number of tokens; 0: not given"""
    minutes: float = 0.0
    """Train this much longer, at the speed of the run so far; 0: not given"""
    schedule: str = "auto"
    """What the learning-rate schedule becomes; see ``change_schedule``"""
    reset_optimizer: bool = False
    """Start with a fresh optimizer"""
    checkpoint: str = ""
    """best, latest or a step number: where a branch begins; empty: latest"""
    out: Path | None = None
    """Directory of a branch; None: the run itself continues"""
    data: Path | None = None
    """New path of the dataset, if it was moved"""

    @property
    def engine(self) -> str:
        """The engine that trains: that of the settings, or of the run. Raise CheckpointError if there is no run."""
        return str(value_of("engine", self.overrides) or RunDir.open(self.run).run.engine)


def resolve_resume(request: ResumeRequest) -> tuple[Path, RunConfig]:
    """Return the run directory to resume and its config.

    Create the branch if one is requested. Raise ConfigError for a setting that must not change; UsageError for options
    that contradict each other.
    """
    run_dir = RunDir.open(request.run)
    _require_out(request)
    step = _first_step(run_dir, request.checkpoint)
    saved = config_at(run_dir, step) if request.out else run_dir.run
    requested = _requested(run_dir, saved, request, step)
    if request.reset_optimizer and step:
        requested = _with_optimizer(requested, reset_after=tuple(sorted({*requested.optimizer.reset_after, step})))
    requested = _with_schedule(saved, requested, request, step)
    compare_for_resume(saved, requested)
    if request.out is None:
        return request.run, requested
    branch(run_dir, step, request.out)
    return request.out, requested


@contextmanager
def removing_unused_branch(request: ResumeRequest) -> Generator[None]:
    """Remove the branch of a request whose training fails in the block before it has saved anything of its own.

    Use it on rank 0 around ``resolve_resume`` and the training: a refused branch leaves no directory.
    """
    out = request.out
    is_new = out is not None and not (out / CONFIG).exists()
    try:
        yield
    except BaseException:
        if out is not None and is_new and (out / CONFIG).exists() and _is_unused(RunDir.open(out)):
            remove_dir(out)
        raise


def _is_unused(branched: RunDir) -> bool:
    """Return whether a branch has nothing but what it began with."""
    began = branched.manifest["parent"]["step"]
    rows = read_rows(branched.path / "metrics.jsonl")
    later = any(step > began for step in (*branched.steps(), *(row["step"] for row in rows)))
    return not later and not (branched.path / FAILURES).exists()


def _require_out(request: ResumeRequest) -> None:
    """Raise UsageError for a checkpoint without a directory for the branch, StorageError if that is not empty."""
    if request.out is not None:
        require_empty(request.out)
    elif request.checkpoint:
        raise UsageError(
            f"--checkpoint {request.checkpoint} of {request.run} begins a new run, which needs a directory.",
            hint=f"Give it: --out {request.run}-2. Without --checkpoint the run continues from its latest checkpoint.",
        )


def _with_schedule(saved: RunConfig, requested: RunConfig, request: ResumeRequest, step: int) -> RunConfig:
    """Return the config with the schedule of the remaining steps, unless the request has a schedule of its own."""
    change = parse_schedule_change(request.schedule)
    before, after = _max_steps(saved), _max_steps(requested)
    if requested.optimizer.schedule != saved.optimizer.schedule:
        if change != "auto":
            raise UsageError(f"--schedule {change} contradicts optimizer.schedule.", hint="Give one of them.")
        return requested
    if before == after and change == "auto":
        return requested
    schedule = change_schedule(
        saved.optimizer.schedule, change, step=step, before=before, after=after, from_zero=request.reset_optimizer
    )
    return _with_optimizer(requested, schedule=schedule)


def _first_step(run_dir: RunDir, checkpoint: str) -> int:
    """Return the step of the checkpoint to continue from; 0 without one."""
    which = parse_which(checkpoint or "latest")
    return start_step(run_dir) if which == "latest" else load(run_dir, which, weights_only=True).step


def _requested(run_dir: RunDir, saved: RunConfig, request: ResumeRequest, step: int) -> RunConfig:
    """Return the saved config with the changes of the request, its length in steps."""
    lengths = {
        f"training.length.max_steps={request.steps}": request.steps,
        f"training.length.epochs={request.epochs}": request.epochs,
        f"training.length.max_tokens={request.tokens}": request.tokens,
        "--minutes": request.minutes,
    }
    if request.minutes < 0:
        raise UsageError(f"minutes = {request.minutes:g} is negative.", hint="Give the minutes to train longer.")
    given = [text for text, value in lengths.items() if value]
    if len(given) > 1:
        raise UsageError("More than one length was given.", hint="Use one of --steps, --epochs, --tokens, --minutes.")
    overrides = [*(text for text in given if text != "--minutes"), *request.overrides]
    if request.minutes:
        overrides.append(f"training.length.max_steps={_steps_in(run_dir, request.minutes, step)}")
    if not overrides:
        return saved
    requested = validate_config(apply_overrides(saved.model_dump(mode="json"), overrides))
    if is_resolved(requested):
        return requested
    compare_for_resume(saved, requested)  # before the dataset is opened
    return resolve_config(requested, open_run_dataset(run_dir, request.data))


def _steps_in(run_dir: RunDir, minutes: float, step: int) -> int:
    """Return the last step of a run that is trained for so many more minutes after ``step``.

    Raise ConfigError if its speed was not measured.
    """
    rows = [row for row in read_rows(run_dir.path / "metrics.jsonl") if row.get("kind") == "train" and "seconds" in row]
    rows = rows[-ROWS_OF_SPEED:]
    seconds = rows[-1]["seconds"] - rows[0]["seconds"] if rows else 0.0
    if seconds <= 0.0:
        raise ConfigError(
            f"The speed of {run_dir.path} is unknown: its metrics have fewer than two rows.",
            hint=f"Give the length in steps: --steps {2 * _max_steps(run_dir.run)}.",
        )
    speed = (rows[-1]["step"] - rows[0]["step"]) / seconds
    more = max(round(minutes * 60 * speed), 1)
    print_status(f"{minutes:g} minutes at {speed:.3g} steps per second: {more:,} more steps, to step {step + more:,}.")
    return step + more


def accepted_config(run_dir: RunDir, requested: RunConfig) -> RunConfig:
    """Return a config from which the run was once started, with the schedule that the run has now.

    Raise ConfigError for a setting that must not change.
    """
    accepted = _with_saved_schedule(run_dir, requested)
    compare_for_resume(run_dir.run, accepted)
    return accepted


def _with_saved_schedule(run_dir: RunDir, requested: RunConfig) -> RunConfig:
    """Return a config with the saved schedule, unless it has another one than the run was started with."""
    saved, step = run_dir.run, start_step(run_dir)
    phases = [phase.model_dump(mode="json") for phase in requested.optimizer.schedule]
    if not requested.optimizer.reset_after:
        requested = _with_optimizer(requested, reset_after=saved.optimizer.reset_after)
    if requested.optimizer.schedule != saved.optimizer.schedule and phases != run_dir.manifest.get(FIRST_SCHEDULE):
        return requested
    before, after = _max_steps(saved), _max_steps(requested)
    schedule = saved.optimizer.schedule
    if before != after:
        schedule = change_schedule(schedule, "auto", step=step, before=before, after=after)
    return _with_optimizer(requested, schedule=schedule)


def _with_optimizer(run: RunConfig, **values: object) -> RunConfig:
    return run.model_copy(update={"optimizer": run.optimizer.model_copy(update=values)})


def _max_steps(run: RunConfig) -> int:
    assert isinstance(run.training.length, MaxSteps), "the config of a saved run is resolved"
    return run.training.length.max_steps


def change_config(saved: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Return the config with ``overrides`` and print what changes. Raise ConfigError for what must not change."""
    config = validate_config(apply_overrides(saved.model_dump(mode="json"), overrides)) if overrides else saved
    for difference in compare_for_resume(saved, config):
        print_status(str(difference))
    return config
