"""A run from where it stands to its end: who looks on is put together here, and the recipe is fed."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote

from fabella.config.training import Rewind, Steps
from fabella.data.dataset import Prepared
from fabella.data.sequences import Windows
from fabella.engine.distributed.process_group import Ranks
from fabella.engine.engine import Engine, StepResult
from fabella.errors import Interrupted
from fabella.run_config.run import Run
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dir import RunFolder
from fabella.tracking.console import Terminal, say
from fabella.tracking.factory import services
from fabella.tracking.tracker import Fan, MetricsFile, Row, Sink
from fabella.training.background import Behind, NobodyBehind
from fabella.training.callbacks.callbacks import Enough, Histograms, Log, Save, Tell, Validate, Write, row_of
from fabella.training.callbacks.grad_spikes import Spikes
from fabella.training.callbacks.samples import teller_of
from fabella.training.callbacks.throughput import Pace
from fabella.training.callbacks.watchdog import SHARE, Watchdog
from fabella.training.data_source import batches_from
from fabella.training.eval_loss import Score, bits_per_nat, fixed_set, validate
from fabella.training.failed_step import Keeping
from fabella.training.loop import Observer, Progress, train
from fabella.training.schedule import learning_rate
from fabella.training.signals import interruptible
from fabella.training.signals_sync import Agreement

Saved = Mapping[str, int | float | str]
"""What a checkpoint says of how far the run had come; nothing, where there is none yet."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished run gave: its folder, how much it learned from, and its score on all held-out text."""

    folder: Path
    progress: Progress
    score: Score


@dataclass(frozen=True, slots=True)
class Session:
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
        """Of the whole run."""
        assert isinstance(self.run.training.length, Steps), "a saved run is resolved"
        return self.run.training.length.steps

    def rate(self, step: int, rewinds: int = 0) -> float:
        """The learning rate of ``step`` (from 0), in a run that went back to a checkpoint so often."""
        policy = self.run.training.nonfinite
        factor = policy.lr_factor**rewinds if isinstance(policy, Rewind) else 1.0
        return learning_rate(self.run.optimizer, step, self.steps) * factor

    def say(self, text: str) -> None:
        """A remark, once for all processes."""
        if self.ranks.place.first:
            say(text)


def to_the_end(session: Session, progress: Progress, saved: Saved, news: Sequence[Row]) -> Outcome:
    """``news``: rows to be told first."""
    run, prepared, ranks, first = session.run, session.prepared, session.ranks, session.ranks.place.first
    held_out = Windows(prepared.validation, run.data.windows, prepared.tokenizer.end)
    batch = run.training.micro_batch

    def score(chosen: int) -> Score:
        return validate(session.engine, held_out, prepared.validation, fixed_set(held_out, chosen), batch)

    with ExitStack() as told:
        terminal = told.enter_context(closing(Terminal(session.steps, bits_per_nat(prepared.train))))
        opened = services(session.folder, step=progress.step, report=say) if first else []
        others = [told.enter_context(closing(one)) for one in opened]
        truth = MetricsFile(session.folder.path, say)
        write = Fan(truth, [terminal, *others, *session.sinks], say)
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

            for row in news:
                tell(row)
            watching = Validate(run.validation.every, lambda: score(run.validation.windows), tell,
                                float(saved.get("best_loss", math.inf)), patience=run.validation.patience,
                                since_best=int(saved.get("validations_since_best", 0)))  # fmt: skip
            spikes = Spikes(run.telemetry.spike_factor, tell, _due(run), str(saved.get("gradient_norms", "")))
            save = Save(run, session.folder, session.engine, watching, steps=session.steps, interruption=agreement,
                        behind=behind, report=say, kept=spikes.numbers, settle=truth.settle)  # fmt: skip
            pace, rate = _pace(session), partial(session.rate, rewinds=progress.rewinds)
            log = Log(run.training.log_every, rate, tell, pace)
            telling = teller_of(session.engine, prepared.tokenizer, run)
            looking = [log, watching, Tell(run.samples.every, run.samples.prompts, telling, tell)]
            observers = [pace, look_behind, spikes, *looking, *session.observers, agreement, save]
            if others:
                every = run.telemetry.histograms_every
                beside = Histograms(every, session.engine.histograms, lambda row: behind.do(partial(write.beside, row)))
                observers.insert(3, beside)
            if not watching.exhausted:
                _say_how(session, progress)
                progress = _train(session, observers, rate, progress, pace)
            if watching.exhausted and progress.step < session.steps:
                session.say(_stopped_early(progress, watching))
            if agreement.to_stop():
                raise _unscored(session, progress)
        final = _final(session, progress, score, write, len(held_out))
        truth.settle()
    return Outcome(session.folder.path, progress, final)


def _say_how(session: Session, progress: Progress) -> None:
    """Where and how exactly it is computed, whoever chose that; and why nothing may happen for a while."""
    if progress.step == session.steps:
        return
    how = session.engine.describe()
    exactly = " with TF32" if how.get("tf32") == "True" else ""
    session.say(f"Training on {how['device']}, in {how['precision']}{exactly}.")
    if (compiled := how["compiled"]) != "nothing":
        session.say(
            f"Compiling the {compiled}: the first step takes half a minute, less where they were compiled before."
        )


def _unwritten(row: Row) -> None:
    """Where a process beside the first puts its rows: all are the same."""


def _pace(session: Session) -> Pace:
    rows = read_rows(session.folder.path / "metrics.jsonl")
    seconds = max((float(row.get("seconds", 0.0)) for row in rows), default=0.0)
    return Pace(session.engine, session.run.data.windows.length, seconds)


def _due(run: Run) -> list[int]:
    """Steps between the rows of each kind."""
    return [run.training.log_every, run.validation.every, run.samples.every, run.telemetry.histograms_every]


def _stopped_early(progress: Progress, watching: Validate) -> str:
    return (
        f"Stopped at step {progress.step:,}: none of the last {watching.since_best} validation losses was below "
        f"{watching.best:.4f} (validation.patience). That best one is kept; fabella generate takes it."
    )


def _train(
    session: Session, observers: Sequence[Observer], rate: Callable[[int], float], progress: Progress, pace: Pace
) -> Progress:
    """The recipe, fed from where ``progress`` stands."""
    place = session.ranks.place
    learner = Keeping(session.engine, session.folder, place, progress)
    seconds = SHARE * session.run.training.parallel.timeout_seconds
    with (
        Watchdog(seconds, place, progress.step) as watchdog,
        closing(batches_from(session.run, session.prepared, progress)) as batches,
    ):
        looking = [watchdog.rest, *observers, watchdog.watch]
        try:
            return train(learner, pace.timed(batches), rate, looking, progress=progress, until=session.steps)
        except Enough as enough:
            return enough.progress


def _final(session: Session, progress: Progress, score: Callable[[int], Score], write: Write, windows: int) -> Score:
    """The score on all held-out windows, measured once a run and kept in its metrics."""
    rows = [row for row in read_rows(session.folder.path / "metrics.jsonl") if row["kind"] == "final"]
    if rows and rows[-1]["step"] == progress.step:
        return Score(rows[-1]["loss"], rows[-1]["bits_per_byte"], rows[-1]["tokens"])
    try:
        final = score(windows)
    except KeyboardInterrupt:
        raise _unscored(session, progress) from None
    write(row_of("final", progress.step, final))
    return final


def _unscored(session: Session, progress: Progress) -> Interrupted:
    return Interrupted(
        f"Stopped after the last step, {progress.step:,}, before the final score was measured; everything is saved.",
        fix=f"Measure it with: fabella resume {quote(str(session.folder.path))}",
    )
