"""Train a session to its last step: build the callbacks, feed the loop, and measure the final loss."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from shlex import quote
from typing import Any

from fabella.tracking.run_log import RunLog, open_run_log
from fabella.training.callbacks.build import Callbacks
from fabella.training.callbacks.validation import (
    Measure,
    best_checkpoint,
    interrupted_before_final_loss,
    measure_final_average,
    measure_final_loss,
)
from fabella.training.callbacks.watchdog import TIMEOUT_SHARE, Watchdog
from fabella.training.data_source import batches_from
from fabella.training.eval_loss import ValidationSplit, bits_per_nat
from fabella.training.loop import Progress, train
from fabella.training.record.out_of_memory import explain_out_of_memory
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
    batch_size = run.validation.batch_size or run.training.micro_batch_size
    validation = ValidationSplit(session.engine, dataset, run.data.sequences, batch_size)
    others: dict[str, Measure] = {
        text.name: partial(
            ValidationSplit(session.engine, text.dataset, text.sequences, batch_size).loss,
            run.validation.num_sequences,
        )
        for text in session.other_texts
    }
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
            progress = _train(session, progress, saved, log, signals, validation, others=others)
            if signals.stop_requested_anywhere():
                raise interrupted_before_final_loss(session, progress)
        session.record.commit()  # if there was no step to take
        final_loss = measure_final_loss(session, progress, validation, log, others)
        average_loss = measure_final_average(session, progress, validation, log)
        log.flush()
    return TrainResult(session.run_dir.path, progress, final_loss, best_checkpoint(session.run_dir), average_loss)


def _train(
    session: TrainingSession,
    progress: Progress,
    saved: ResumeState,
    log: RunLog,
    signals: SyncedSignals,
    validation: ValidationSplit,
    *,
    others: Mapping[str, Measure],
) -> Progress:
    """Run the training loop with all callbacks."""
    callbacks = Callbacks(session, progress, saved, log, signals, validation, others=others)
    first, run = progress.step, quote(str(session.run_dir.path))
    if not callbacks.early_stop.should_stop:  # otherwise a resumed run that had stopped early
        _print_settings(session, progress)
        begins_with_weights = progress.step == 0 and saved  # a checkpoint of step 0: the weights of another run
        if begins_with_weights and session.run.validation.is_enabled:
            callbacks.first_validation.measure()
        progress = _run_loop(session, progress, callbacks)
    if first == session.steps:
        session.print(f"All {first:,} steps are taken. To train it longer: fabella resume {run} --steps {2 * first}")
    if callbacks.early_stop.should_stop and progress.step < session.steps:
        session.print(callbacks.early_stop.message(progress.step))
        session.print(f"To train it further: fabella resume {run} validation.early_stopping_patience=0")
    return progress


def _run_loop(session: TrainingSession, progress: Progress, callbacks: Callbacks) -> Progress:
    """Run the training loop, watched for steps that hang or fail."""
    rate = partial(session.rate, rollbacks=progress.rollbacks)
    recorder = FailedStepRecorder(session, progress, lambda: callbacks.spikes.last_read)
    timeout_seconds = TIMEOUT_SHARE * session.run.training.parallel.timeout_seconds
    with (
        Watchdog(timeout_seconds, session.process_group.rank_info, progress.step) as watchdog,
        closing(batches_from(session.run, session.dataset, progress)) as batches,
    ):
        watched = callbacks.throughput.timed(recorder.watch(batches))
        with recorder.recording(), explain_out_of_memory(session):
            return train(
                session.engine,
                watched,
                rate,
                [watchdog.step_finished, *callbacks.in_order, watchdog.step_started],
                progress=progress,
                until=session.steps,
            )


def _print_settings(session: TrainingSession, progress: Progress) -> None:
    """Print device and precision, and why the first step may take long."""
    if progress.step == session.steps:
        return
    settings = session.engine.describe()
    tf32 = " with TF32" if settings.get("tf32") == "True" else ""
    session.print(f"Training on {settings['device']}, in {settings['precision']}{tf32}.")
    if speedup := settings.get("matmul_speedup"):
        name = {"onednn": "float32 by oneDNN"}.get(str(settings["matmul"]), settings["matmul"])
        session.print(f"Matrix products: {name}, {speedup} times as fast as PyTorch's default on this CPU.")
    if warning := settings.get("kernels_warning"):
        session.print(str(warning))
    if (compiled := settings["compiled"]) != "nothing":
        session.print(
            f"Compiling the {compiled}: the first step takes half a minute, or less if the compile cache has them."
        )
