"""One run from its first step or its last checkpoint to its end: everything is put together here.

start ── prepared data → resolved run → run folder ─┐
resume ─ run folder → newest good checkpoint ───────┴→ engine, observers → train → final score
"""

import math
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fabella.config import Epochs, Muon, Run, Steps
from fabella.data.prepared import Prepared, open_prepared
from fabella.data.windows import Windows
from fabella.engine import engine as engines
from fabella.engine.engine import Engine, StepResult
from fabella.engine.ranks import Alone, Ranks
from fabella.errors import CheckpointError, PreparedDataError, TokenizerError
from fabella.models.parameters import block_matrices, count
from fabella.runs.checkpoint import Loaded, load, require_space
from fabella.runs.compare import compare_manifests
from fabella.runs.folder import RunFolder
from fabella.runs.metrics import keep_through, read_rows
from fabella.telemetry.services import require, services
from fabella.telemetry.sinks import Fan, MetricsFile, Row, Sink
from fabella.telemetry.terminal import Terminal, say
from fabella.training.agreement import Agreement
from fabella.training.batches import batches_from
from fabella.training.behind import Behind, NobodyBehind
from fabella.training.environment import environment
from fabella.training.interruption import interruptible
from fabella.training.observers import Histograms, Log, Save, Tell, Validate, Write, row_of
from fabella.training.pace import Pace
from fabella.training.replay import Keeping
from fabella.training.schedule import learning_rate, steps_for
from fabella.training.telling import teller_of
from fabella.training.train import Observer, Progress, train
from fabella.training.validate import Score, bits_per_nat, fixed_set, validate


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished run gave: its folder, how much it learned from, and its score on all held-out text."""

    folder: Path
    progress: Progress
    score: Score


@dataclass(frozen=True, slots=True)
class _Session:
    """A run that is about to go on: what it is, where it lies, what it learns from, and who trains it."""

    run: Run
    folder: RunFolder
    prepared: Prepared
    engine: Engine
    ranks: Ranks
    sinks: Sequence[Sink] = ()
    observers: Sequence[Observer] = ()
    """Who looks on beside those that every run has."""

    @property
    def steps(self) -> int:
        assert isinstance(self.run.training.length, Steps), "a saved run is resolved"
        return self.run.training.length.steps

    def rate(self, step: int) -> float:
        return learning_rate(self.run.optimizer, step, self.steps)

    def say(self, text: str) -> None:
        """A remark, once for all processes."""
        if self.ranks.place.first:
            say(text)


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
        beside = _Session(run, RunFolder(out, run, {}), prepared, engine, ranks, sinks, observers)
        return _go_on(beside, Progress(), best=math.inf)
    _require_room(out, run, there=0)
    folder = RunFolder.create(out, run, _manifest(out, prepared, engine))
    with folder.lock():
        folder.keep_tokenizer(prepared.tokenizer)
        return _go_on(_Session(run, folder, prepared, engine, ranks, sinks, observers), Progress(), best=math.inf)


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
        session = _Session(folder.run, folder, data, engine, ranks, sinks, observers)
        _warn_of_changes(session, _manifest(path, data, engine))
        progress, best = _restore(session)
        if ranks.place.first:
            if progress.step < session.steps:
                _require_room(path, folder.run, there=len(folder.steps()))
            for name in ("metrics.jsonl", "samples.jsonl"):
                keep_through(folder.path / name, progress.step)
        ranks.tell("the metrics end where the run goes on")
        return _go_on(session, progress, best=best)


@contextmanager
def _taken_up(path: Path, moved: Path | None, run: Run | None, ranks: Ranks) -> Generator[tuple[RunFolder, Prepared]]:
    """The run's folder, held by this process and put in order, and its data."""
    folder = RunFolder.open(path)
    data = _same_data(folder, moved)
    with folder.lock():
        if run is not None and run != folder.run:
            folder = folder.with_run(run)
        require(folder.run.telemetry)
        if not (folder.path / "tokenizer").exists():  # killed between making the folder and keeping the tokenizer
            folder.keep_tokenizer(data.tokenizer)
        ranks.tell("the folder is in order")
        yield folder, data


@contextmanager
def _beside(path: Path, moved: Path | None, run: Run | None, ranks: Ranks) -> Generator[tuple[RunFolder, Prepared]]:
    """The same for a process beside the first: once that has put the folder in order, it is only read."""
    ranks.tell("")
    folder = RunFolder.open(path)
    yield folder, _same_data(folder, moved)


def _warn_of_changes(session: _Session, now: Mapping[str, Any]) -> None:
    """Say what differs from where the run began: the bits may, the course will not."""
    folder = session.folder
    differences = [d for d in compare_manifests(folder.manifest, now) if d.verdict == "warn"]
    for difference in differences:
        session.say(f"Not as when the run began: {difference}")


def _restore(session: _Session) -> tuple[Progress, float]:
    """Engine, progress and best loss from the newest good checkpoint; from the start where there is none yet."""
    loaded = _newest(session)
    if loaded is None:
        session.say("No checkpoint yet: the run begins again at step 0.")
        return Progress(), math.inf
    for remark in loaded.ignored:
        session.say(remark)
    saved = dict(loaded.checkpoint.progress)
    session.engine.restore(loaded.checkpoint.state)
    best = float(saved.get("best_loss", math.inf))
    progress = Progress(int(saved["step"]), int(saved["windows"]), int(saved["tokens"]), str(saved.get("stream", "")))
    return progress, best


def _newest(session: _Session) -> Loaded | None:
    """The newest good checkpoint; the first process chooses it, and the others take the same."""
    folder, ranks = session.folder, session.ranks
    if ranks.place.first:
        loaded = load(folder, "latest") if folder.steps() else None
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


def _go_on(session: _Session, progress: Progress, *, best: float) -> Outcome:
    if (compiled := session.engine.describe()["compiled"]) != "nothing":
        session.say(
            f"Compiling the {compiled}: the first step takes half a minute, less where they were compiled before."
        )
    run, prepared, ranks, first = session.run, session.prepared, session.ranks, session.ranks.place.first
    held_out = Windows(prepared.validation, run.data.windows, prepared.tokenizer.end)
    batch = run.training.micro_batch

    def score(chosen: int) -> Score:
        return validate(session.engine, held_out, prepared.validation, fixed_set(held_out, chosen), batch)

    with ExitStack() as told:
        terminal = told.enter_context(closing(Terminal(session.steps, bits_per_nat(prepared.train))))
        opened = services(session.folder, step=progress.step, report=say) if first else []
        others = [told.enter_context(closing(one)) for one in opened]
        write = Fan(MetricsFile(session.folder.path), [terminal, *others, *session.sinks], say)
        write = write if first else Fan(_unwritten, [], say)
        with (
            interruptible(insisting=ranks.place.size == 1, report=session.say) as heard,
            Behind(say) if first else NobodyBehind() as behind,
        ):
            agreement = Agreement(heard, ranks)

            def tell(row: Row) -> None:
                behind.do(partial(write, row))

            def look_behind(progress: Progress, result: StepResult) -> None:
                behind.check()

            watching = Validate(run.validation.every, lambda: score(run.validation.windows), tell, best)
            save = Save(run, session.folder, session.engine, watching, steps=session.steps,
                        interruption=agreement, behind=behind, report=say)  # fmt: skip
            pace = _pace(session)
            looking = _looking(session, pace, watching, tell)
            observers = [pace, look_behind, *looking, *session.observers, agreement, save]
            if others:
                every = run.telemetry.histograms_every
                beside = Histograms(every, session.engine.histograms, lambda row: behind.do(partial(write.beside, row)))
                observers.insert(2, beside)
            progress = _train(session, observers, progress, pace)
        final = _final(session, progress, score, write, len(held_out))
    return Outcome(session.folder.path, progress, final)


def _unwritten(row: Row) -> None:
    """Where a process beside the first puts its rows: all are the same."""


def _pace(session: _Session) -> Pace:
    rows = read_rows(session.folder.path / "metrics.jsonl")
    seconds = max((float(row.get("seconds", 0.0)) for row in rows), default=0.0)
    return Pace(session.engine, session.run.data.windows.length, seconds)


def _looking(session: _Session, pace: Pace, watching: Validate, write: Write) -> list[Observer]:
    """The observers that measure and tell; ``write`` takes their rows."""
    run = session.run
    return [
        Log(run.training.log_every, session.rate, write, pace),
        watching,
        Tell(run.samples.every, run.samples.prompts, teller_of(session.engine, session.prepared.tokenizer, run), write),
    ]


def _train(session: _Session, observers: Sequence[Observer], progress: Progress, pace: Pace) -> Progress:
    """The recipe, fed from where ``progress`` stands."""
    with closing(batches_from(session.run, session.prepared, progress)) as batches:
        timed, learner = pace.timed(batches), Keeping(session.engine, session.folder, session.ranks.place)
        return train(learner, timed, session.rate, observers, progress=progress, until=session.steps)


def _final(session: _Session, progress: Progress, score: Callable[[int], Score], write: Write, windows: int) -> Score:
    """The score on all held-out windows, measured once a run and kept in its metrics."""
    rows = [row for row in read_rows(session.folder.path / "metrics.jsonl") if row["kind"] == "final"]
    if rows and rows[-1]["step"] == progress.step:
        return Score(rows[-1]["loss"], rows[-1]["bits_per_byte"], rows[-1]["tokens"])
    final = score(windows)
    write(row_of("final", progress.step, final))
    return final
