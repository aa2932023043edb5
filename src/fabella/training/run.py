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
from fabella.engine.distributed.process_group import ProcessGroup, SingleProcess
from fabella.run_config.run import RunConfig
from fabella.runs.branch import InitialWeights, begin_with
from fabella.runs.run_dataset import open_run_dataset
from fabella.runs.run_dir import RunDir
from fabella.tracking.tracker import Tracker
from fabella.training.data_source import texts_of_new_run, texts_of_resumed_run
from fabella.training.fit import fit
from fabella.training.loop import Callback, Progress, UserCallback
from fabella.training.record.out_of_memory import create_engine_for_training, explain_model_too_large
from fabella.training.record.run_record import first_manifest, print_changes, record_resume
from fabella.training.recovery import DivergedStepError, FailedStepError, first_state, restore, roll_back
from fabella.training.session import Extras, PendingRecord, ResumeState, TrainingSession, TrainResult
from fabella.training.setup.resolve_config import require_startable, resolve_config, resolve_for_resume


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
    initial: InitialWeights | None = None,
) -> TrainResult:
    """Train a new run in the directory ``out`` to its last step.

    ``initial``: weights that it begins with; only rank 0 needs them. By default they are drawn from the seed.
    ``trackers``, ``callbacks``, ``user_callbacks``: in addition to those of the config; see ``Extras``.
    In a process group, every rank calls this; rank 0 writes.

    Raise ConfigError or TokenizerError if config and data do not match, StorageError if ``out`` is not empty or its
    disk is full, TrainingInterrupted (with everything saved) after Ctrl-C.
    """
    run, process_group = resolve_config(run, dataset), process_group or SingleProcess()
    extras = Extras(trackers, callbacks, user_callbacks)
    is_main = process_group.rank_info.is_main
    engine = create_engine_for_training(run, device, process_group)
    texts = texts_of_new_run(run, dataset, process_group)
    session = TrainingSession(run, RunDir(out, run, {}), dataset, engine, process_group, extras, list(texts.values()))
    if not is_main:
        return _fit_with_rollback(session, *first_state(session))
    require_startable(out, run)
    fill = partial(begin_with, initial, dataset.tokenizer) if initial else None
    run_dir = RunDir.create(out, run, first_manifest(session, initial, texts), fill=fill)
    with run_dir.lock():
        run_dir.save_tokenizer(dataset.tokenizer)
        session = replace(session, run_dir=run_dir)
        return _fit_with_rollback(session, *first_state(session))


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
        recorded = _recorded_compute(saved_run, requested)
        engine = create_engine_for_training(requested, device, process_group, recorded)
        extras = Extras(trackers, callbacks, user_callbacks)
        run_dir = replace(saved_run, run=requested)
        texts = texts_of_resumed_run(run_dir, requested, data, process_group)
        session = TrainingSession(requested, run_dir, data, engine, process_group, extras, list(texts.values()))
        with explain_model_too_large(requested):
            progress, saved = restore(session)
        print_changes(session, saved_run, progress.step)
        if is_main:
            pending = PendingRecord(partial(record_resume, session, saved_run, progress.step, saved, texts))
            session = replace(session, record=pending)
        return _fit_with_rollback(session, progress, saved)


def _recorded_compute(saved_run: RunDir, requested: RunConfig) -> dict[str, str]:
    """Return how the run computed on a CPU; empty if unknown, or if another precision is requested."""
    same = saved_run.run.training.precision == requested.training.precision
    return saved_run.recorded_compute() if same else {}


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
