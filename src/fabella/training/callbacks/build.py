"""Build the callbacks of a session, in the order in which they are called."""

from collections.abc import Mapping
from functools import partial

from fabella.tracking.run_log import RunLog
from fabella.training.callbacks.cadence import cadence, every_steps
from fabella.training.callbacks.checkpointing import (
    CallbackState,
    CheckWorker,
    CommitRecord,
    ResetOptimizer,
    SaveCheckpoint,
)
from fabella.training.callbacks.divergence import CheckValidation, watch_divergence
from fabella.training.callbacks.grad_spikes import GradNormSpikes
from fabella.training.callbacks.histograms import LogHistograms
from fabella.training.callbacks.metrics import LogMetrics
from fabella.training.callbacks.plots import RedrawLossPlot
from fabella.training.callbacks.samples import GenerateSamples, make_sampler
from fabella.training.callbacks.throughput import ThroughputMeter, training_seconds
from fabella.training.callbacks.validation import EarlyStop, FirstValidation, Measure, Validate
from fabella.training.eval_loss import ValidationSplit
from fabella.training.loop import Callback, Progress, UserCallbacks
from fabella.training.session import ResumeState, TrainingSession
from fabella.training.signals import SyncedSignals


class Callbacks:
    """The callbacks of a session that continues after ``progress``, with the callback state ``saved``."""

    def __init__(
        self,
        session: TrainingSession,
        progress: Progress,
        saved: ResumeState,
        log: RunLog,
        signals: SyncedSignals,
        validation: ValidationSplit,
        *,
        others: Mapping[str, Measure],
    ) -> None:
        """``others``: the losses on the texts of ``validation.also``."""
        run, engine, config = session.run, session.engine, session.run.validation
        samples_due = cadence(session, run.samples)
        log_due = every_steps(run.training.log_every_steps)
        histograms_due = every_steps(run.tracking.histogram_every_steps)
        seconds = training_seconds(session.run_dir.path, progress.step)
        self.throughput = ThroughputMeter(engine, run.data.sequences.length, seconds)
        rate = partial(session.rate, rollbacks=progress.rollbacks)
        self.validate = _validate(session, saved, log, validation, others)
        self.divergence = watch_divergence(session, log.write, saved, lambda: self.validate.best)
        self.spikes = GradNormSpikes(
            log.write,
            factor=run.tracking.grad_spike_factor,
            rows_due=[log_due, histograms_due, self.validate.is_due, samples_due],
            norms=str(saved.get("gradient_norms", "")),
            rate=rate,
            check_loss=self.divergence.check,
        )
        self.first_validation = FirstValidation(self.validate, log.write, session)
        self.early_stop = EarlyStop(
            self.validate,
            patience=config.early_stopping_patience,
            since_best=int(saved.get("validations_since_best", 0)),
        )
        user = UserCallbacks(session.extras.user_callbacks, engine)
        sampler = make_sampler(engine, session.dataset.tokenizer, run)
        self.in_order: list[Callback] = [
            self.throughput,
            CommitRecord(session.record),
            self.first_validation,
            CheckWorker(log.worker),
            self.spikes,
            *([LogHistograms(engine.histograms, log.write_secondary, due=histograms_due)] if log.has_remote else []),
            LogMetrics(rate, log.write, self.throughput, due=log_due),
            self.validate,
            CheckValidation(self.validate, self.divergence),
            self.early_stop,
            GenerateSamples(sampler, log.write, prompts=run.samples.prompts, due=samples_due),
            RedrawLossPlot(session, log.worker, is_due=lambda: self.validate.measured),
            *session.extras.callbacks,
            user,
            signals,
            self._save_checkpoint(session, signals, log, user),
            ResetOptimizer(engine, run.optimizer.reset_after),
        ]

    def _save_checkpoint(
        self, session: TrainingSession, signals: SyncedSignals, log: RunLog, user: UserCallbacks
    ) -> SaveCheckpoint:
        return SaveCheckpoint(
            session,
            signals,
            log.worker,
            due=cadence(session, session.run.checkpoint),
            is_best=lambda: self.validate.improved,
            should_stop=lambda: self.early_stop.should_stop or user.should_stop,
            callback_state=self._state,
            flush_metrics=log.flush,
        )

    def _state(self) -> CallbackState:
        """Return the values of all callbacks for a checkpoint. Spikes are first: they read the losses of all steps."""
        spikes = self.spikes.state()
        return {**spikes, **self.divergence.state(), **self.validate.state(), **self.early_stop.state()}


def _validate(
    session: TrainingSession,
    saved: ResumeState,
    log: RunLog,
    validation: ValidationSplit,
    others: Mapping[str, Measure],
) -> Validate:
    config = session.run.validation
    return Validate(
        partial(validation.loss, config.num_sequences),
        log.write,
        due=cadence(session, config),
        last_step=session.steps if config.is_enabled else 0,
        saved=saved,
        others=others,
    )
