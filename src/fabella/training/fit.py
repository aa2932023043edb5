"""Train a session to its last step: build the callbacks, feed the loop, and measure the final loss."""

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from fabella.tracking.run_log import RunLog, open_run_log
from fabella.training.callbacks.checkpointing import CheckWorker, SaveCheckpoint
from fabella.training.callbacks.grad_spikes import GradNormSpikes
from fabella.training.callbacks.histograms import LogHistograms
from fabella.training.callbacks.metrics import LogMetrics
from fabella.training.callbacks.samples import GenerateSamples, make_sampler
from fabella.training.callbacks.throughput import ThroughputMeter, training_seconds
from fabella.training.callbacks.validation import EarlyStop, Validate, interrupted_before_final_loss, measure_final_loss
from fabella.training.callbacks.watchdog import TIMEOUT_SHARE, Watchdog
from fabella.training.data_source import batches_from
from fabella.training.eval_loss import ValidationSplit, bits_per_nat
from fabella.training.loop import Callback, Progress, UserCallbacks, train
from fabella.training.recovery import FailedStepRecorder
from fabella.training.session import ResumeState, TrainingSession, TrainResult
from fabella.training.signals import SyncedSignals, handle_signals


def fit(
    session: TrainingSession, progress: Progress, saved: ResumeState, initial_rows: Sequence[Mapping[str, Any]]
) -> TrainResult:
    """Train from ``progress`` to the last step, and return the result. Write ``initial_rows`` first.

    Raise FailedStepError at a non-finite step, and TrainingInterrupted, with everything saved, after a stop signal.
    """
    run, dataset = session.run, session.dataset
    validation = ValidationSplit(session.engine, dataset, run.data, run.training.micro_batch_size)
    with open_run_log(
        session.run_dir,
        step=progress.step,
        steps=session.steps,
        bits_per_nat=bits_per_nat(dataset.train),
        trackers=session.extras.trackers,
        is_main=session.is_main,
    ) as log:
        force_on_second = session.process_group.rank_info.world_size == 1
        with handle_signals(force_on_second=force_on_second, report=session.print) as received, log.in_background():
            for row in initial_rows:
                log.write(row)
            signals = SyncedSignals(received, session.process_group)
            progress = _train(session, progress, saved, log, signals, validation)
            if signals.stop_requested_anywhere():
                raise interrupted_before_final_loss(session, progress)
        final_loss = measure_final_loss(session, progress, validation, log)
        log.flush()
    return TrainResult(session.run_dir.path, progress, final_loss)


def _train(
    session: TrainingSession,
    progress: Progress,
    saved: ResumeState,
    log: RunLog,
    signals: SyncedSignals,
    validation: ValidationSplit,
) -> Progress:
    """Run the training loop with all callbacks."""
    run, engine, write = session.run, session.engine, log.write
    rate = partial(session.rate, rollbacks=progress.rollbacks)
    throughput = ThroughputMeter(engine, run.data.sequences.length, training_seconds(session.run_dir.path))
    spikes = GradNormSpikes(
        write,
        factor=run.tracking.grad_spike_factor,
        row_steps=_row_steps(session),
        norms=str(saved.get("gradient_norms", "")),
    )
    validate, early_stop = _validation_callbacks(session, saved, log, validation)
    if early_stop.should_stop:  # a resumed run that had stopped early
        _print_early_stop(session, early_stop, progress)
        return progress
    user_callbacks = UserCallbacks(session.extras.user_callbacks, engine)
    sampler = make_sampler(engine, session.dataset.tokenizer, run)
    callbacks: list[Callback] = [
        throughput,
        CheckWorker(log.worker),
        spikes,
        LogMetrics(rate, write, throughput, every=run.training.log_every_steps),
        validate,
        early_stop,
        GenerateSamples(sampler, write, prompts=run.samples.prompts, every=run.samples.every_steps),
        *session.extras.callbacks,
        user_callbacks,
        signals,
        SaveCheckpoint(
            session,
            signals,
            log.worker,
            every=run.checkpoint.every_steps,
            is_best=lambda: validate.improved,
            should_stop=lambda: early_stop.should_stop or user_callbacks.should_stop,
            callback_state=lambda: {**spikes.state(), **validate.state(), **early_stop.state()},
            flush_metrics=log.flush,
        ),
    ]
    if log.has_remote:
        every = run.tracking.histogram_every_steps
        callbacks.insert(3, LogHistograms(engine.histograms, log.write_secondary, every=every))
    _print_settings(session, progress)
    recorder = FailedStepRecorder(session, progress, lambda: spikes.last_read)
    progress = _run_loop(session, progress, callbacks, throughput, recorder)
    if early_stop.should_stop:
        _print_early_stop(session, early_stop, progress)
    return progress


def _validation_callbacks(
    session: TrainingSession, saved: ResumeState, log: RunLog, validation: ValidationSplit
) -> tuple[Validate, EarlyStop]:
    config = session.run.validation
    validate = Validate(
        partial(validation.loss, config.num_sequences),
        log.write,
        every=config.every_steps,
        best=float(saved.get("best_loss", math.inf)),
    )
    early_stop = EarlyStop(
        validate,
        patience=config.early_stopping_patience,
        since_best=int(saved.get("validations_since_best", 0)),
    )
    return validate, early_stop


def _run_loop(
    session: TrainingSession,
    progress: Progress,
    callbacks: Sequence[Callback],
    throughput: ThroughputMeter,
    recorder: FailedStepRecorder,
) -> Progress:
    """Run the training loop, watched for steps that hang or fail."""
    rate = partial(session.rate, rollbacks=progress.rollbacks)
    timeout_seconds = TIMEOUT_SHARE * session.run.training.parallel.timeout_seconds
    with (
        Watchdog(timeout_seconds, session.process_group.rank_info, progress.step) as watchdog,
        closing(batches_from(session.run, session.dataset, progress)) as batches,
    ):
        callbacks = [watchdog.step_finished, *callbacks, watchdog.step_started]
        watched = throughput.timed(recorder.watch(batches))
        with recorder.recording():
            return train(session.engine, watched, rate, callbacks, progress=progress, until=session.steps)


def _row_steps(session: TrainingSession) -> list[int]:
    """Return the cadences of all rows."""
    run = session.run
    return [
        run.training.log_every_steps,
        run.validation.every_steps,
        run.samples.every_steps,
        run.tracking.histogram_every_steps,
    ]


def _print_settings(session: TrainingSession, progress: Progress) -> None:
    """Print device and precision, and why the first step may take long."""
    if progress.step == session.steps:
        return
    settings = session.engine.describe()
    tf32 = " with TF32" if settings.get("tf32") == "True" else ""
    session.print(f"Training on {settings['device']}, in {settings['precision']}{tf32}.")
    if (compiled := settings["compiled"]) != "nothing":
        session.print(
            f"Compiling the {compiled}: the first step takes half a minute, or less if the compile cache has them."
        )


def _print_early_stop(session: TrainingSession, early_stop: EarlyStop, progress: Progress) -> None:
    if progress.step < session.steps:
        session.print(early_stop.message(progress.step))
