"""Start and resume runs.

start_run ─ dataset → resolved config → run directory ─┐
resume ──── run directory → latest valid checkpoint ───┴→ session → fit → final loss
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fabella.data.dataset import TokenizedDataset
from fabella.engine import engine as engines
from fabella.engine.distributed.process_group import ProcessGroup, SingleProcess
from fabella.run_config.run import RunConfig
from fabella.runs.environment import environment
from fabella.runs.resume_rules import compare_manifests, record_changes
from fabella.runs.run_dataset import DATA, dataset_entry, open_run_dataset, remember_dataset
from fabella.runs.run_dir import CHANGES, FIRST_SCHEDULE, RunDir
from fabella.tracking.factory import require_packages
from fabella.tracking.tracker import Tracker
from fabella.training.fit import fit
from fabella.training.loop import Callback, Progress, UserCallback, callback_name
from fabella.training.recovery import DivergedStepError, FailedStepError, restore, roll_back, truncate_logs
from fabella.training.session import Extras, PendingRecord, ResumeState, TrainingSession, TrainResult
from fabella.training.setup.resolve_config import require_disk_space, resolve_config, resolve_for_resume


def start_run(
    run: RunConfig,
    out: Path,
    dataset: TokenizedDataset,
    *,
    device: str = "auto",
    trackers: Sequence[Tracker] = (),
    callbacks: Sequence[Callback] = (),
    user_callbacks: Sequence[UserCallback] = (),
    process_group: ProcessGroup | None = None,
) -> TrainResult:
    """Train a new run in the directory ``out`` to its last step.

    ``trackers``, ``callbacks``, ``user_callbacks``: in addition to those of the config; see ``Extras``.
    In a process group, every rank calls this; rank 0 writes.

    Raise ConfigError or TokenizerError if config and data do not match, StorageError if ``out`` is not empty or its
    disk is full, TrainingInterrupted (with everything saved) after Ctrl-C.
    """
    run, process_group = resolve_config(run, dataset), process_group or SingleProcess()
    extras = Extras(trackers, callbacks, user_callbacks)
    is_main = process_group.rank_info.is_main
    if is_main:
        require_packages(run.tracking)
    engine = engines.create_engine(run, device=device, group=process_group)
    if not is_main:
        session = TrainingSession(run, RunDir(out, run, {}), dataset, engine, process_group, extras)
        return _fit_with_rollback(session, Progress(), {})
    require_disk_space(out, run, existing=0)
    run_dir = RunDir.create(out, run, _first_manifest(run, out, dataset, engine, extras))
    with run_dir.lock():
        run_dir.save_tokenizer(dataset.tokenizer)
        session = TrainingSession(run, run_dir, dataset, engine, process_group, extras)
        return _fit_with_rollback(session, Progress(), {})


def resume(
    path: Path,
    *,
    device: str = "auto",
    dataset: Path | None = None,
    run: RunConfig | None = None,
    trackers: Sequence[Tracker] = (),
    callbacks: Sequence[Callback] = (),
    user_callbacks: Sequence[UserCallback] = (),
    process_group: ProcessGroup | None = None,
) -> TrainResult:
    """Resume the run in ``path`` from its latest valid checkpoint, exactly as if it had never stopped.

    The run directory is not changed before the first step is taken: after any error until then it is as it was.
    ``dataset``: new path of a dataset that was moved. ``run``: a changed config, already compared with the saved one.
    Raise CheckpointError or PreparedDataError if checkpoints or data are damaged or not those of the run.
    """
    process_group = process_group or SingleProcess()
    is_main = process_group.rank_info.is_main
    with _lock_as_main(path) if is_main else _open_as_worker(path, process_group) as saved_run:
        data = open_run_dataset(saved_run, dataset, full=True)
        requested = resolve_for_resume(saved_run, run or saved_run.run, data)
        if is_main:
            process_group.broadcast("run directory ready")
        engine = engines.create_engine(
            requested, device=device, group=process_group, matmul=_recorded_matmul(saved_run, requested)
        )
        extras = Extras(trackers, callbacks, user_callbacks)
        run_dir = replace(saved_run, run=requested)
        session = TrainingSession(requested, run_dir, data, engine, process_group, extras)
        _warn_of_changes(session, _manifest(path, data, engine))
        progress, saved = restore(session)
        if is_main:
            pending = PendingRecord(partial(_record_resume, session, saved_run, progress.step))
            session = replace(session, record=pending)
        return _fit_with_rollback(session, progress, saved)


def _recorded_matmul(saved_run: RunDir, requested: RunConfig) -> str:
    """Return how the run computed matrix products on a CPU; empty if unknown, or if another precision is requested."""
    same = saved_run.run.training.precision == requested.training.precision
    return saved_run.recorded_matmul() if same else ""


def _fit_with_rollback(session: TrainingSession, progress: Progress, saved: ResumeState) -> TrainResult:
    """Train to the last step. After a failed step, continue from a checkpoint if the config says ``rollback``."""
    initial_rows: Sequence[Mapping[str, Any]] = ()
    while True:
        try:
            return fit(session, progress, saved, initial_rows)
        except (FailedStepError, DivergedStepError) as error:
            failed = error
        progress, saved, row = roll_back(session, failed)
        del failed  # its traceback holds the loader and the last batch
        initial_rows = [row]


@contextmanager
def _lock_as_main(path: Path) -> Generator[RunDir]:
    """Lock the run directory, repair what a killed process left in it, and yield it."""
    run_dir = RunDir.open(path)
    with run_dir.lock():
        yield run_dir


@contextmanager
def _open_as_worker(path: Path, process_group: ProcessGroup) -> Generator[RunDir]:
    """Wait until rank 0 has repaired the run directory; yield it, to be read only."""
    process_group.broadcast("")
    yield RunDir.open(path)


def _record_resume(session: TrainingSession, saved_run: RunDir, step: int) -> None:
    """Write what a resume after ``step`` changes in the run directory: log rows, tokenizer, manifest, config."""
    run_dir, dataset = session.run_dir, session.dataset
    truncate_logs(session, step)
    if not (run_dir.path / "tokenizer").exists():  # killed after creating the directory
        run_dir.save_tokenizer(dataset.tokenizer)
    changes = record_changes(run_dir.manifest.get(CHANGES, []), saved_run.run, session.run, step)
    entries = {CHANGES: changes} if changes or CHANGES in run_dir.manifest else {}
    recorded = remember_dataset(run_dir, dataset).with_manifest(**entries)
    if session.run != saved_run.run or entries:
        recorded.with_config(session.run)


def _warn_of_changes(session: TrainingSession, now: Mapping[str, Any]) -> None:
    """Print how environment and callbacks differ from the start of the run. Its bits can differ then."""
    manifest = session.run_dir.manifest
    for difference in compare_manifests(manifest, now):
        if difference.verdict == "warn":
            session.print(f"warning: the environment differs from the one the run started in: {difference}")
    before, after = manifest.get("callbacks", []), _user_callbacks(session.extras).get("callbacks", [])
    if before != after:
        session.print(
            f"warning: the run started with the callbacks [{', '.join(before)}] and resumes with [{', '.join(after)}]"
        )


def _manifest(out: Path, dataset: TokenizedDataset, engine: engines.Engine) -> dict[str, Any]:
    return {
        "environment": environment() | engine.describe(),
        DATA: dataset_entry(dataset, out),
        "tokenizer": dataset.tokenizer.fingerprint,
    }


def _first_manifest(
    run: RunConfig, out: Path, dataset: TokenizedDataset, engine: engines.Engine, extras: Extras
) -> dict[str, Any]:
    """Return the manifest of a new run."""
    schedule = {FIRST_SCHEDULE: [phase.model_dump(mode="json") for phase in run.optimizer.schedule]}
    return _manifest(out, dataset, engine) | _user_callbacks(extras) | schedule


def _user_callbacks(extras: Extras) -> dict[str, list[str]]:
    """Return the manifest's names of user callbacks, which are not part of the config but can affect the weights."""
    names = [callback_name(callback) for callback in extras.user_callbacks]
    return {"callbacks": names} if names else {}
