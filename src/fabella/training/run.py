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

from fabella.config.optimizer import Muon
from fabella.config.training import Epochs, Steps
from fabella.data.dataset import Prepared, open_prepared
from fabella.data.sequences import Windows
from fabella.engine import engine as engines
from fabella.engine.distributed.process_group import Alone, Ranks
from fabella.engine.engine import Engine, State
from fabella.errors import CheckpointError, ConfigError, PreparedDataError, TokenizerError
from fabella.models.parameters import block_matrices, count, initial_weights
from fabella.run_config.run import Run
from fabella.runs.checkpoint import Loaded, load, newest_due, require_space
from fabella.runs.environment import environment
from fabella.runs.metrics_log import keep_through
from fabella.runs.resume_rules import compare_manifests
from fabella.runs.run_dir import RunFolder
from fabella.tracking.factory import require
from fabella.tracking.tracker import Sink
from fabella.training.fit import Outcome, Saved, Session
from fabella.training.loop import Observer, Progress
from fabella.training.recovery import go_on
from fabella.training.schedule import steps_for


def start(
    run: Run,
    out: Path,
    prepared: Prepared,
    *,
    device: str = "auto",
    sinks: Sequence[Sink] = (),
    observers: Sequence[Observer] = (),
    ranks: Ranks | None = None,
) -> Outcome:
    """Train a new run in the folder ``out`` to its end.

    ``sinks`` are given every row that is measured, on the thread behind the loop; ``observers`` look on after every
    step, on the loop's own thread, before the step is saved. ``ranks``: the processes that train together; each calls
    this, and the first writes.

    Raises ConfigError or TokenizerError where run and data do not fit, StorageError where ``out`` holds something
    else or has no room, Interrupted (everything saved) after Ctrl-C.
    """
    run, ranks = resolve(run, prepared), ranks or Alone()
    if ranks.place.first:
        require(run.telemetry)
    engine = engines.for_training(run, device=device, ranks=ranks)
    if not ranks.place.first:
        beside = Session(run, RunFolder(out, run, {}), prepared, engine, ranks, sinks, observers)
        return _go_on(beside, Progress(), {})
    _require_room(out, run, there=0)
    folder = RunFolder.create(out, run, _manifest(out, prepared, engine))
    with folder.lock():
        folder.keep_tokenizer(prepared.tokenizer)
        return _go_on(Session(run, folder, prepared, engine, ranks, sinks, observers), Progress(), {})


def resume(
    path: Path,
    *,
    device: str = "auto",
    prepared: Path | None = None,
    run: Run | None = None,
    sinks: Sequence[Sink] = (),
    observers: Sequence[Observer] = (),
    ranks: Ranks | None = None,
) -> Outcome:
    """Go on with the run in ``path`` from its newest good checkpoint, exactly as if it had never stopped.

    ``prepared``: where the data lies now, if it was moved. ``run``: a changed config, already checked against the
    saved one. Raises CheckpointError, PreparedDataError where data or checkpoints are damaged or others.
    """
    ranks = ranks or Alone()
    with (_taken_up if ranks.place.first else _beside)(path, prepared, run, ranks) as (folder, data):
        engine = engines.for_training(folder.run, device=device, ranks=ranks)
        session = Session(folder.run, folder, data, engine, ranks, sinks, observers)
        _warn_of_changes(session, _manifest(path, data, engine))
        progress, saved = _restore(session)
        return _go_on(session, progress, saved)


@contextmanager
def _taken_up(path: Path, moved: Path | None, run: Run | None, ranks: Ranks) -> Generator[tuple[RunFolder, Prepared]]:
    """The run's folder, held by this process and put in order, and its data."""
    folder = RunFolder.open(path)
    data = _same_data(folder, moved)
    with folder.lock():
        if run is not None and run != folder.run:
            _require_steps_to_go(folder, run)
            folder = folder.with_run(run)
        require(folder.run.telemetry)
        if not (folder.path / "tokenizer").exists():  # killed between making the folder and keeping the tokenizer
            folder.keep_tokenizer(data.tokenizer)
        ranks.tell("the folder is in order")
        yield folder, data


def _require_steps_to_go(folder: RunFolder, run: Run) -> None:
    """Raises ConfigError where the run has gone further than it is now asked to go."""
    taken = max(folder.steps(), default=0)
    if isinstance(run.training.length, Steps) and run.training.length.steps < taken:
        raise ConfigError(
            f"training.length.steps = {run.training.length.steps:,}, but {folder.path} has taken {taken:,} steps.",
            fix=f"Give more than {taken:,}, or leave it out.",
        )


@contextmanager
def _beside(path: Path, moved: Path | None, run: Run | None, ranks: Ranks) -> Generator[tuple[RunFolder, Prepared]]:
    """The same for a process beside the first: once that has put the folder in order, it is only read."""
    ranks.tell("")
    folder = RunFolder.open(path)
    yield folder, _same_data(folder, moved)


def _warn_of_changes(session: Session, now: Mapping[str, Any]) -> None:
    """Say what differs from where the run began: the bits may, the course will not."""
    folder = session.folder
    differences = [d for d in compare_manifests(folder.manifest, now) if d.verdict == "warn"]
    for difference in differences:
        session.say(f"Not as when the run began: {difference}")


def _restore(session: Session, *, due: bool = False) -> tuple[Progress, Saved]:
    """Engine and progress from the newest good checkpoint; from the start where there is none yet.

    ``due``: of those that ``checkpoint.every`` asked for. Rows that were measured later are dropped: they will be
    measured again.
    """
    loaded = _newest(session, due=due)
    progress, saved = Progress(), dict[str, int | float | str]()
    if loaded is None:
        session.say("No checkpoint yet: the run begins again at step 0.")
        session.engine.restore(first_state(session.run))
    else:
        for remark in loaded.ignored:
            session.say(remark)
        saved = dict(loaded.checkpoint.progress)
        session.engine.restore(loaded.checkpoint.state)
        progress = _progress_of(saved, loaded.step)
    if session.ranks.place.first:
        if progress.step < session.steps and not due:
            _require_room(session.folder.path, session.run, there=len(session.folder.steps()))
        for name in ("metrics.jsonl", "samples.jsonl"):
            keep_through(session.folder.path / name, progress.step)
    session.ranks.tell("the metrics end where the run goes on")
    return progress, saved


def _progress_of(saved: Mapping[str, int | float | str], step: int) -> Progress:
    """What a checkpoint says of how far the run had come. Raises CheckpointError where it does not."""
    if missing := [name for name in ("step", "windows", "tokens") if name not in saved]:
        raise CheckpointError(f"The checkpoint of step {step} does not say how far the run had come: no {missing[0]}.")
    return Progress(
        int(saved["step"]),
        int(saved["windows"]),
        int(saved["tokens"]),
        stream=str(saved.get("stream", "")),
        rewinds=int(saved.get("rewinds", 0)),
    )


def first_state(run: Run) -> State:
    """Of an engine that has taken no step."""
    weights = initial_weights(run.model.parameters(), run.seed)
    moments = {
        f"{kind}.{name}": np.zeros_like(array) for kind in ("first", "second") for name, array in weights.items()
    }
    return State(weights, moments, {"step": 0, "updates": 0})


def _newest(session: Session, *, due: bool) -> Loaded | None:
    """The newest good checkpoint; the first process chooses it, and the others take the same."""
    folder, ranks = session.folder, session.ranks
    if ranks.place.first:
        loaded = newest_due(folder) if due else load(folder, "latest") if folder.steps() else None
        ranks.tell(str(loaded.step) if loaded else "")
        return loaded
    step = ranks.tell("")
    return load(folder, int(step)) if step else None


def resolve(run: Run, prepared: Prepared) -> Run:
    """The run with its length in steps. Raises TokenizerError where an id would have no row in the embedding."""
    ids, rows = prepared.tokenizer.vocabulary, run.model.vocabulary
    if ids > rows:
        raise TokenizerError(
            f"The tokenizer has {ids:,} ids, the model only {rows:,} rows for them (model.vocabulary).",
            fix=f"Set model.vocabulary={ids}, or prepare the data with a smaller tokenizer.",
        )
    length = run.training.length
    if isinstance(length, Epochs):
        windows = len(Windows(prepared.train, run.data.windows, prepared.tokenizer.end))
        length = Steps(steps=steps_for(run.training, math.ceil(windows * length.epochs)))
    return run.model_copy(update={"training": run.training.model_copy(update={"length": length})})


def _require_room(out: Path, run: Run, *, there: int) -> None:
    """Raises DiskFullError where all checkpoints of ``run`` there may be at once, beside ``there``, do not fit."""
    # Beside those kept: the best, the one being written, and after a resume the one that was gone on from.
    most = run.checkpoint.keep + 3
    require_space(out, checkpoint_bytes(run) * max(most - there, 1))


def checkpoint_bytes(run: Run) -> int:
    """Size of one checkpoint: weights and their moments in float32, and a little for the rest."""
    table = run.model.parameters()
    single = block_matrices(table) if isinstance(run.optimizer, Muon) else []  # those with one moment, not two
    return (count(table) * 3 - sum(table[name].size for name in single)) * 4 + 100_000


def _manifest(out: Path, prepared: Prepared, engine: Engine) -> dict[str, Any]:
    return {
        "environment": environment() | engine.describe(),
        "data": {"fingerprint": prepared.fingerprint, "folder": os.path.relpath(prepared.folder, out)},
        "tokenizer": prepared.tokenizer.fingerprint,
    }


def _same_data(folder: RunFolder, moved: Path | None) -> Prepared:
    """The data the run began with. Raises PreparedDataError where it is gone or has changed since."""
    expected: Mapping[str, str] = folder.manifest.get("data", {})
    if not {"folder", "fingerprint"} <= set(expected):
        raise CheckpointError(f"The manifest of {folder.path} does not say which data the run learned from.")
    prepared = open_prepared(moved or (folder.path / expected["folder"]).resolve(), full=True)
    if prepared.fingerprint != expected["fingerprint"]:
        raise PreparedDataError(
            f"The data in {prepared.folder} is not what run {folder.path} began with "
            f"(fingerprint {prepared.fingerprint[:12]}, then {expected['fingerprint'][:12]}).",
            fix="Give the original folder with --data, or begin a new run.",
        )
    return prepared


def _go_on(session: Session, progress: Progress, saved: Saved) -> Outcome:
    return go_on(session, progress, saved, lambda: _restore(session, due=True))
