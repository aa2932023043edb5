"""Start and resume runs.

start_run ─ dataset → resolved config → run directory ─┐
resume ──── run directory → latest valid checkpoint ───┴→ session → fit → final loss
"""

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fabella.data.dataset import TokenizedDataset, open_dataset
from fabella.engine import engine as engines
from fabella.engine.distributed.process_group import ProcessGroup, SingleProcess
from fabella.errors import CheckpointError, PreparedDataError
from fabella.run_config.run import RunConfig
from fabella.runs.environment import environment
from fabella.runs.resume_rules import compare_manifests
from fabella.runs.run_dir import RunDir
from fabella.tracking.factory import require_packages
from fabella.tracking.tracker import Tracker
from fabella.training.fit import fit
from fabella.training.loop import Callback, Progress, UserCallback, callback_name
from fabella.training.recovery import FailedStepError, restore, roll_back
from fabella.training.session import Extras, ResumeState, TrainingSession, TrainResult
from fabella.training.setup.resolve_config import require_disk_space, require_length, resolve_config


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
    run_dir = RunDir.create(out, run, _manifest(out, dataset, engine) | _user_callbacks(extras))
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

    ``dataset``: new path of a dataset that was moved. ``run``: a changed config, already compared with the saved one.
    Raise CheckpointError or PreparedDataError if checkpoints or data are damaged or not those of the run.
    """
    process_group = process_group or SingleProcess()
    open_run = _open_as_main if process_group.rank_info.is_main else _open_as_worker
    with open_run(path, dataset, run, process_group) as (run_dir, data):
        engine = engines.create_engine(run_dir.run, device=device, group=process_group)
        extras = Extras(trackers, callbacks, user_callbacks)
        session = TrainingSession(run_dir.run, run_dir, data, engine, process_group, extras)
        _warn_of_changes(session, _manifest(path, data, engine))
        progress, saved = restore(session)
        return _fit_with_rollback(session, progress, saved)


def _fit_with_rollback(session: TrainingSession, progress: Progress, saved: ResumeState) -> TrainResult:
    """Train to the last step. After a non-finite step, continue from a checkpoint if the config says ``rollback``."""
    initial_rows: Sequence[Mapping[str, Any]] = ()
    while True:
        try:
            return fit(session, progress, saved, initial_rows)
        except FailedStepError as error:
            failed = error
        progress, saved, row = roll_back(session, failed)
        del failed  # its traceback holds the loader and the last batch
        initial_rows = [row]


@contextmanager
def _open_as_main(
    path: Path, moved: Path | None, run: RunConfig | None, process_group: ProcessGroup
) -> Generator[tuple[RunDir, TokenizedDataset]]:
    """Lock the run directory and repair it; yield it with its dataset."""
    run_dir = RunDir.open(path)
    data = _open_same_data(run_dir, moved)
    with run_dir.lock():
        if run is not None and run != run_dir.run:
            require_length(run_dir, run)
            run_dir = run_dir.with_config(run)
        require_packages(run_dir.run.tracking)
        if not (run_dir.path / "tokenizer").exists():  # killed after creating the directory
            run_dir.save_tokenizer(data.tokenizer)
        process_group.broadcast("run directory ready")
        yield run_dir, data


@contextmanager
def _open_as_worker(
    path: Path, moved: Path | None, run: RunConfig | None, process_group: ProcessGroup
) -> Generator[tuple[RunDir, TokenizedDataset]]:
    """Wait until rank 0 has repaired the run directory; yield it, to be read only, with its dataset."""
    process_group.broadcast("")
    run_dir = RunDir.open(path)
    yield run_dir, _open_same_data(run_dir, moved)


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
        "data": {"fingerprint": dataset.fingerprint, "folder": os.path.relpath(dataset.folder, out)},
        "tokenizer": dataset.tokenizer.fingerprint,
    }


def _user_callbacks(extras: Extras) -> dict[str, list[str]]:
    """Return the manifest's names of user callbacks, which are not part of the config but can affect the weights."""
    names = [callback_name(callback) for callback in extras.user_callbacks]
    return {"callbacks": names} if names else {}


def _open_same_data(run_dir: RunDir, moved: Path | None) -> TokenizedDataset:
    """Open the dataset that the run started with. Raise PreparedDataError if it is missing or has changed."""
    expected: Mapping[str, str] = run_dir.manifest.get("data", {})
    if not {"folder", "fingerprint"} <= set(expected):
        raise CheckpointError(f"The manifest of {run_dir.path} does not name the dataset of the run.")
    dataset = open_dataset(moved or (run_dir.path / expected["folder"]).resolve(), full=True)
    if dataset.fingerprint != expected["fingerprint"]:
        raise PreparedDataError(
            f"The dataset in {dataset.folder} is not the one that run {run_dir.path} started with "
            f"(fingerprint {dataset.fingerprint[:12]} instead of {expected['fingerprint'][:12]}).",
            hint="Give the original dataset with --data, or start a new run.",
        )
    return dataset
