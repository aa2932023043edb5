"""A run to its end, however often a step that is not finite leads back to a checkpoint on the way."""

import dataclasses
from collections.abc import Callable

from fabella.config.training import RollBack
from fabella.errors import NumericsError
from fabella.tracking.tracker import Row
from fabella.training.failed_step import FailedStep
from fabella.training.fit import ResumeState, TrainingSession, TrainResult, fit
from fabella.training.loop import Progress

RestoreFn = Callable[[], tuple[Progress, ResumeState]]
"""Restores the engine and gives the progress of the newest checkpoint that ``checkpoint.every_steps`` asked for.

Not of one that a signal asked for: a run that was disturbed and resumed must come to the same place.
"""


def fit_with_rollback(session: TrainingSession, progress: Progress, saved: ResumeState, back: RestoreFn) -> TrainResult:
    """From where ``progress`` stands to the end, as ``training.on_nonfinite`` says. Raises NumericsError as it says."""
    news: list[Row] = []
    while True:
        try:
            return fit(session, progress, saved, news)
        except FailedStep as failed:
            policy = session.run.training.on_nonfinite
            if not isinstance(policy, RollBack):
                raise
            check_rollback_limit(failed, policy)
            session.say(failed.message)
            position = failed.after
        progress, saved = back()
        news = [_row(progress, failed_step=position.step, rollbacks=position.rollbacks + 1, policy=policy)]
        progress = dataclasses.replace(position, step=progress.step, rollbacks=position.rollbacks + 1)


def check_rollback_limit(failed: FailedStep, policy: RollBack) -> None:
    if failed.after.rollbacks == policy.max_rollbacks:
        raise NumericsError(
            f"{failed.message} The run went back to a checkpoint {policy.max_rollbacks} times before (training.on_nonfinite).",
            hint=failed.hint,
        ) from failed


def _row(progress: Progress, *, failed_step: int, rollbacks: int, policy: RollBack) -> Row:
    """What is told of it, as a row of the first step that is taken anew.

    A run that is killed before that step is saved is resumed from this checkpoint or an older one, fails again, and
    tells it again.
    """
    return {
        "kind": "rollback",
        "step": progress.step + 1,
        "failed": failed_step,
        "times": rollbacks,
        "allowed": policy.max_rollbacks,
        "lr_factor": policy.lr_factor**rollbacks,
    }
