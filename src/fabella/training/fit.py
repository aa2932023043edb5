"""A run from where it stands to its end: who looks on is put together here, and the recipe is fed."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote

from fabella.config.training import MaxSteps, RollBack
from fabella.data.dataset import TokenizedDataset
from fabella.data.sequences import SequenceDataset
from fabella.engine.distributed.process_group import ProcessGroup
from fabella.engine.engine import Engine, StepResult
from fabella.errors import TrainingInterrupted
from fabella.run_config.run import RunConfig
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dir import RunDir
from fabella.tracking.console import ConsoleTracker, print_status
from fabella.tracking.factory import open_trackers
from fabella.tracking.tracker import JsonlTracker, Row, Tracker, TrackerGroup
from fabella.tracking.background import BackgroundWorker, NullWorker
from fabella.training.callbacks.callbacks import (
    EarlyStop,
    GenerateSamples,
    LogHistograms,
    LogMetrics,
    SaveCheckpoint,
    Validate,
    Write,
    row_of,
)
from fabella.training.callbacks.grad_spikes import GradNormSpikes
from fabella.training.callbacks.samples import make_sampler
from fabella.training.callbacks.throughput import ThroughputMeter
from fabella.training.callbacks.watchdog import SHARE, Watchdog
from fabella.training.data_source import batches_from
from fabella.training.eval_loss import EvalLoss, bits_per_nat, fixed_subset, validate
from fabella.training.failed_step import FailedStepRecorder
from fabella.training.loop import Callback, Progress, train
from fabella.training.schedule import learning_rate
from fabella.training.signals import handle_signals
from fabella.training.signals_sync import SyncedSignals

ResumeState = Mapping[str, int | float | str]
"""What a checkpoint says of how far the run had come; nothing, where there is none yet."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a finished run gave: its folder, how much it learned from, and its score on all held-out text."""

    folder: Path
    progress: Progress
    score: EvalLoss


@dataclass(frozen=True, slots=True)
class TrainingSession:
    """A run that is about to go on: what it is, where it lies, what it learns from, and who trains it."""

    run: RunConfig
    folder: RunDir
    prepared: TokenizedDataset
    engine: Engine
    ranks: ProcessGroup
    sinks: Sequence[Tracker] = ()
    observers: Sequence[Callback] = ()
    """Who looks on beside those that every run has."""

    @property
    def steps(self) -> int:
        """Of the whole run."""
        assert isinstance(self.run.training.length, MaxSteps), "a saved run is resolved"
        return self.run.training.length.max_steps

    def rate(self, step: int, rollbacks: int = 0) -> float:
        """The learning rate of ``step`` (from 0), in a run that went back to a checkpoint so often."""
        policy = self.run.training.on_nonfinite
        factor = policy.lr_factor**rollbacks if isinstance(policy, RollBack) else 1.0
        return learning_rate(self.run.optimizer, step, self.steps) * factor

    def say(self, text: str) -> None:
        """A remark, once for all processes."""
        if self.ranks.rank_info.is_main:
            print_status(text)


def fit(session: TrainingSession, progress: Progress, saved: ResumeState, initial_rows: Sequence[Row]) -> TrainResult:
    """``news``: rows to be told first."""
    run, prepared, ranks, first = session.run, session.prepared, session.ranks, session.ranks.rank_info.is_main
    held_out = SequenceDataset(prepared.validation, run.data.sequences, prepared.tokenizer.eos_id)
    batch = run.training.micro_batch_size

    def score(chosen: int) -> EvalLoss:
        return validate(session.engine, held_out, prepared.validation, fixed_subset(held_out, chosen), batch)

    with ExitStack() as told:
        terminal = told.enter_context(closing(ConsoleTracker(session.steps, bits_per_nat(prepared.train))))
        opened = open_trackers(session.folder, step=progress.step, report=print_status) if first else []
        others = [told.enter_context(closing(one)) for one in opened]
        truth = JsonlTracker(session.folder.path, print_status)
        write = TrackerGroup(truth, [terminal, *others, *session.sinks], print_status)
        write = write if first else TrackerGroup(_unwritten, [], print_status)
        with (
            handle_signals(force_on_second=ranks.rank_info.world_size == 1, report=session.say) as heard,
            BackgroundWorker(print_status) if first else NullWorker() as behind,
        ):
            agreement = SyncedSignals(heard, ranks)

            def tell(row: Row) -> None:
                behind.submit(partial(write, row))

            def look_behind(progress: Progress, result: StepResult) -> None:
                behind.check()

            for row in initial_rows:
                tell(row)
            watching = Validate(run.validation.every_steps, lambda: score(run.validation.num_sequences), tell,
                                float(saved.get("best_loss", math.inf)), patience=run.validation.early_stopping_patience,
                                since_best=int(saved.get("validations_since_best", 0)))  # fmt: skip
            spikes = GradNormSpikes(
                run.tracking.grad_spike_factor, tell, _due(run), str(saved.get("gradient_norms", ""))
            )
            save = SaveCheckpoint(run, session.folder, session.engine, watching, steps=session.steps, interruption=agreement,
                        behind=behind, report=print_status, kept=spikes.numbers, settle=truth.flush)  # fmt: skip
            pace, rate = _pace(session), partial(session.rate, rollbacks=progress.rollbacks)
            log = LogMetrics(run.training.log_every_steps, rate, tell, pace)
            telling = make_sampler(session.engine, prepared.tokenizer, run)
            looking = [log, watching, GenerateSamples(run.samples.every_steps, run.samples.prompts, telling, tell)]
            observers = [pace, look_behind, spikes, *looking, *session.observers, agreement, save]
            if others:
                every = run.tracking.histogram_every_steps
                beside = LogHistograms(
                    every, session.engine.histograms, lambda row: behind.submit(partial(write.log_secondary, row))
                )
                observers.insert(3, beside)
            if not watching.should_stop:
                _say_how(session, progress)
                progress = _train(session, observers, rate, progress, pace)
            if watching.should_stop and progress.step < session.steps:
                session.say(_stopped_early(progress, watching))
            if agreement.to_stop():
                raise _unscored(session, progress)
        final = _final(session, progress, score, write, len(held_out))
        truth.flush()
    return TrainResult(session.folder.path, progress, final)


def _say_how(session: TrainingSession, progress: Progress) -> None:
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


def _pace(session: TrainingSession) -> ThroughputMeter:
    rows = read_rows(session.folder.path / "metrics.jsonl")
    seconds = max((float(row.get("seconds", 0.0)) for row in rows), default=0.0)
    return ThroughputMeter(session.engine, session.run.data.sequences.length, seconds)


def _due(run: RunConfig) -> list[int]:
    """Steps between the rows of each kind."""
    return [
        run.training.log_every_steps,
        run.validation.every_steps,
        run.samples.every_steps,
        run.tracking.histogram_every_steps,
    ]


def _stopped_early(progress: Progress, watching: Validate) -> str:
    return (
        f"Stopped at step {progress.step:,}: none of the last {watching.since_best} validation losses was below "
        f"{watching.best:.4f} (validation.early_stopping_patience). That best one is kept; fabella generate takes it."
    )


def _train(
    session: TrainingSession,
    observers: Sequence[Callback],
    rate: Callable[[int], float],
    progress: Progress,
    pace: ThroughputMeter,
) -> Progress:
    """The recipe, fed from where ``progress`` stands."""
    place = session.ranks.rank_info
    learner = FailedStepRecorder(session.engine, session.folder, place, progress)
    seconds = SHARE * session.run.training.parallel.timeout_seconds
    with (
        Watchdog(seconds, place, progress.step) as watchdog,
        closing(batches_from(session.run, session.prepared, progress)) as batches,
    ):
        looking = [watchdog.step_finished, *observers, watchdog.step_started]
        try:
            return train(learner, pace.timed(batches), rate, looking, progress=progress, until=session.steps)
        except EarlyStop as enough:
            return enough.progress


def _final(
    session: TrainingSession, progress: Progress, score: Callable[[int], EvalLoss], write: Write, windows: int
) -> EvalLoss:
    """The score on all held-out windows, measured once a run and kept in its metrics."""
    rows = [row for row in read_rows(session.folder.path / "metrics.jsonl") if row["kind"] == "final"]
    if rows and rows[-1]["step"] == progress.step:
        return EvalLoss(rows[-1]["loss"], rows[-1]["bits_per_byte"], rows[-1]["tokens"])
    try:
        final = score(windows)
    except KeyboardInterrupt:
        raise _unscored(session, progress) from None
    write(row_of("final", progress.step, final))
    return final


def _unscored(session: TrainingSession, progress: Progress) -> TrainingInterrupted:
    return TrainingInterrupted(
        f"Stopped after the last step, {progress.step:,}, before the final score was measured; everything is saved.",
        hint=f"Measure it with: fabella resume {quote(str(session.folder.path))}",
    )
