"""One run from its first step or its last checkpoint to its end: everything is put together here.

start ── prepared data → resolved run → run folder ─┐
resume ─ run folder → newest good checkpoint ───────┴→ engine, observers → train → final score
"""

import math
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fabella.config.training import Epochs, MaxSteps
from fabella.data.dataset import TokenizedDataset, open_dataset
from fabella.data.sequences import SequenceDataset
from fabella.engine import engine as engines
from fabella.engine.distributed.process_group import ProcessGroup, SingleProcess
from fabella.engine.engine import Engine, State
from fabella.errors import CheckpointError, ConfigError, PreparedDataError, TokenizerError
from fabella.models.parameters import count, initial_weights
from fabella.optim.registry import state_spec
from fabella.run_config.run import RunConfig
from fabella.runs.checkpoint import Loaded, latest_scheduled, load, max_checkpoints, require_space
from fabella.runs.environment import environment
from fabella.runs.metrics_log import truncate_after
from fabella.runs.resume_rules import compare_manifests
from fabella.runs.run_dir import RunDir
from fabella.tracking.factory import require_packages
from fabella.tracking.tracker import Tracker
from fabella.training.fit import ResumeState, TrainingSession, TrainResult
from fabella.training.loop import Callback, Progress
from fabella.training.recovery import fit_with_rollback
from fabella.training.schedule import steps_for_sequences


def start_run(
    run: RunConfig,
    out: Path,
    prepared: TokenizedDataset,
    *,
    device: str = "auto",
    sinks: Sequence[Tracker] = (),
    observers: Sequence[Callback] = (),
    ranks: ProcessGroup | None = None,
) -> TrainResult:
    """Train a new run in the folder ``out`` to its end.

    ``sinks`` are given every row that is measured, on the thread behind the loop; ``observers`` look on after every
    step, on the loop's own thread, before the step is saved. ``ranks``: the processes that train together; each calls
    this, and the first writes.

    Raises ConfigError or TokenizerError where run and data do not fit, StorageError where ``out`` holds something
    else or has no room, Interrupted (everything saved) after Ctrl-C.
    """
    run, ranks = resolve_config(run, prepared), ranks or SingleProcess()
    if ranks.rank_info.is_main:
        require_packages(run.tracking)
    engine = engines.create_engine(run, device=device, group=ranks)
    if not ranks.rank_info.is_main:
        beside = TrainingSession(run, RunDir(out, run, {}), prepared, engine, ranks, sinks, observers)
        return _go_on(beside, Progress(), {})
    require_space(out, checkpoint_bytes(run) * max_checkpoints(run, 0))
    folder = RunDir.create(out, run, _manifest(out, prepared, engine))
    with folder.lock():
        folder.save_tokenizer(prepared.tokenizer)
        return _go_on(TrainingSession(run, folder, prepared, engine, ranks, sinks, observers), Progress(), {})


def resume(
    path: Path,
    *,
    device: str = "auto",
    prepared: Path | None = None,
    run: RunConfig | None = None,
    sinks: Sequence[Tracker] = (),
    observers: Sequence[Callback] = (),
    ranks: ProcessGroup | None = None,
) -> TrainResult:
    """Go on with the run in ``path`` from its newest good checkpoint, exactly as if it had never stopped.

    ``prepared``: where the data lies now, if it was moved. ``run``: a changed config, already checked against the
    saved one. Raises CheckpointError, PreparedDataError where data or checkpoints are damaged or others.
    """
    ranks = ranks or SingleProcess()
    with (_open_as_main if ranks.rank_info.is_main else _open_as_worker)(path, prepared, run, ranks) as (folder, data):
        engine = engines.create_engine(folder.run, device=device, group=ranks)
        session = TrainingSession(folder.run, folder, data, engine, ranks, sinks, observers)
        _warn_of_changes(session, _manifest(path, data, engine))
        progress, saved = _restore(session)
        return _go_on(session, progress, saved)


@contextmanager
def _open_as_main(
    path: Path, moved: Path | None, run: RunConfig | None, ranks: ProcessGroup
) -> Generator[tuple[RunDir, TokenizedDataset]]:
    """The run's folder, held by this process and put in order, and its data."""
    folder = RunDir.open(path)
    data = _same_data(folder, moved)
    with folder.lock():
        if run is not None and run != folder.run:
            _require_steps_to_go(folder, run)
            folder = folder.with_config(run)
        require_packages(folder.run.tracking)
        if not (folder.path / "tokenizer").exists():  # killed between making the folder and keeping the tokenizer
            folder.save_tokenizer(data.tokenizer)
        ranks.broadcast("the folder is in order")
        yield folder, data


def _require_steps_to_go(folder: RunDir, run: RunConfig) -> None:
    """Raises ConfigError where the run has gone further than it is now asked to go."""
    taken = max(folder.steps(), default=0)
    if isinstance(run.training.length, MaxSteps) and run.training.length.max_steps < taken:
        raise ConfigError(
            f"training.length.max_steps = {run.training.length.max_steps:,}, but {folder.path} has taken {taken:,} steps.",
            hint=f"Give more than {taken:,}, or leave it out.",
        )


@contextmanager
def _open_as_worker(
    path: Path, moved: Path | None, run: RunConfig | None, ranks: ProcessGroup
) -> Generator[tuple[RunDir, TokenizedDataset]]:
    """The same for a process beside the first: once that has put the folder in order, it is only read."""
    ranks.broadcast("")
    folder = RunDir.open(path)
    yield folder, _same_data(folder, moved)


def _warn_of_changes(session: TrainingSession, now: Mapping[str, Any]) -> None:
    """Say what differs from where the run began: the bits may, the course will not."""
    folder = session.folder
    differences = [d for d in compare_manifests(folder.manifest, now) if d.verdict == "warn"]
    for difference in differences:
        session.say(f"Not as when the run began: {difference}")


def _restore(session: TrainingSession, *, due: bool = False) -> tuple[Progress, ResumeState]:
    """Engine and progress from the newest good checkpoint; from the start where there is none yet.

    ``due``: of those that ``checkpoint.every_steps`` asked for. Rows that were measured later are dropped: they will be
    measured again.
    """
    loaded = _newest(session, due=due)
    progress, saved = Progress(), dict[str, int | float | str]()
    if loaded is None:
        session.say("No checkpoint yet: the run begins again at step 0.")
        session.engine.restore(initial_state(session.run))
    else:
        for remark in loaded.warnings:
            session.say(remark)
        saved = dict(loaded.checkpoint.progress)
        session.engine.restore(loaded.checkpoint.state)
        progress = _progress_of(saved, loaded.step)
    if session.ranks.rank_info.is_main:
        if progress.step < session.steps and not due:
            space = checkpoint_bytes(session.run) * max_checkpoints(session.run, len(session.folder.steps()))
            require_space(session.folder.path, space)
        for name in ("metrics.jsonl", "samples.jsonl"):
            truncate_after(session.folder.path / name, progress.step)
    session.ranks.broadcast("the metrics end where the run goes on")
    return progress, saved


def _progress_of(saved: Mapping[str, int | float | str], step: int) -> Progress:
    """What a checkpoint says of how far the run had come. Raises CheckpointError where it does not."""
    if missing := [name for name in ("step", "sequences", "tokens") if name not in saved]:
        raise CheckpointError(f"The checkpoint of step {step} does not say how far the run had come: no {missing[0]}.")
    return Progress(
        int(saved["step"]),
        int(saved["sequences"]),
        int(saved["tokens"]),
        stream=str(saved.get("stream", "")),
        rollbacks=int(saved.get("rollbacks", 0)),
    )


def initial_state(run: RunConfig) -> State:
    """Of an engine that has taken no step."""
    table = run.model.parameters()
    zeros = {name: np.zeros(shape, np.float32) for name, shape in state_spec(table, run.optimizer).items()}
    return State(initial_weights(table, run.seed), zeros, {"step": 0, "updates": 0})


def _newest(session: TrainingSession, *, due: bool) -> Loaded | None:
    """The newest good checkpoint; the first process chooses it, and the others take the same."""
    folder, ranks = session.folder, session.ranks
    if ranks.rank_info.is_main:
        loaded = latest_scheduled(folder) if due else load(folder, "latest") if folder.steps() else None
        ranks.broadcast(str(loaded.step) if loaded else "")
        return loaded
    step = ranks.broadcast("")
    return load(folder, int(step)) if step else None


def resolve_config(run: RunConfig, prepared: TokenizedDataset) -> RunConfig:
    """The run with its length in steps. Raises TokenizerError where an id would have no row in the embedding."""
    ids, rows = prepared.tokenizer.vocab_size, run.model.vocab_size
    if ids > rows:
        raise TokenizerError(
            f"The tokenizer has {ids:,} ids, the model only {rows:,} rows for them (model.vocab_size).",
            hint=f"Set model.vocab_size={ids}, or prepare the data with a smaller tokenizer.",
        )
    length = run.training.length
    if isinstance(length, Epochs):
        windows = len(SequenceDataset(prepared.train, run.data.sequences, prepared.tokenizer.eos_id))
        length = MaxSteps(max_steps=steps_for_sequences(run.training, math.ceil(windows * length.epochs)))
    return run.model_copy(update={"training": run.training.model_copy(update={"length": length})})


def checkpoint_bytes(run: RunConfig) -> int:
    """Size of one checkpoint: weights and their moments in float32, and a little for the rest."""
    table = run.model.parameters()
    moments = sum(math.prod(shape) for shape in state_spec(table, run.optimizer).values())
    return (count(table) + moments) * 4 + 100_000


def _manifest(out: Path, prepared: TokenizedDataset, engine: Engine) -> dict[str, Any]:
    return {
        "environment": environment() | engine.describe(),
        "data": {"fingerprint": prepared.fingerprint, "folder": os.path.relpath(prepared.folder, out)},
        "tokenizer": prepared.tokenizer.fingerprint,
    }


def _same_data(folder: RunDir, moved: Path | None) -> TokenizedDataset:
    """The data the run began with. Raises PreparedDataError where it is gone or has changed since."""
    expected: Mapping[str, str] = folder.manifest.get("data", {})
    if not {"folder", "fingerprint"} <= set(expected):
        raise CheckpointError(f"The manifest of {folder.path} does not say which data the run learned from.")
    prepared = open_dataset(moved or (folder.path / expected["folder"]).resolve(), full=True)
    if prepared.fingerprint != expected["fingerprint"]:
        raise PreparedDataError(
            f"The data in {prepared.folder} is not what run {folder.path} began with "
            f"(fingerprint {prepared.fingerprint[:12]}, then {expected['fingerprint'][:12]}).",
            hint="Give the original folder with --data, or begin a new run.",
        )
    return prepared


def _go_on(session: TrainingSession, progress: Progress, saved: ResumeState) -> TrainResult:
    return fit_with_rollback(session, progress, saved, lambda: _restore(session, due=True))
