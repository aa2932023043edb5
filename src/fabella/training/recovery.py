"""A run to its end, however often a step that is not finite leads back to a checkpoint on the way."""

import dataclasses
from collections.abc import Callable

from fabella.config.training import Rewind
from fabella.errors import NumericsError
from fabella.tracking.tracker import Row
from fabella.training.failed_step import FailedStep
from fabella.training.fit import Outcome, Saved, Session, to_the_end
from fabella.training.loop import Progress

Back = Callable[[], tuple[Progress, Saved]]
"""Restores the engine and gives the progress of the newest checkpoint that ``checkpoint.every`` asked for.

Not of one that a signal asked for: a run that was disturbed and resumed must come to the same place.
"""


def go_on(session: Session, progress: Progress, saved: Saved, back: Back) -> Outcome:
    """From where ``progress`` stands to the end, as ``training.nonfinite`` says. Raises NumericsError as it says."""
    news: list[Row] = []
    while True:
        try:
            return to_the_end(session, progress, saved, news)
        except FailedStep as failed:
            policy = session.run.training.nonfinite
            if not isinstance(policy, Rewind):
                raise
            _require_patience(failed, policy)
            session.say(failed.problem)
            position = failed.after
        progress, saved = back()
        news = [_row(progress, failed_step=position.step, rewinds=position.rewinds + 1, policy=policy)]
        progress = dataclasses.replace(position, step=progress.step, rewinds=position.rewinds + 1)


def _require_patience(failed: FailedStep, policy: Rewind) -> None:
    if failed.after.rewinds == policy.times:
        raise NumericsError(
            f"{failed.problem} The run went back to a checkpoint {policy.times} times before (training.nonfinite).",
            fix=failed.fix,
        ) from failed


def _row(progress: Progress, *, failed_step: int, rewinds: int, policy: Rewind) -> Row:
    """What is told of it, as a row of the first step that is taken anew.

    A run that is killed before that step is saved is resumed from this checkpoint or an older one, fails again, and
    tells it again.
    """
    return {
        "kind": "rewind",
        "step": progress.step + 1,
        "failed": failed_step,
        "times": rewinds,
        "allowed": policy.times,
        "lr_factor": policy.lr_factor**rewinds,
    }
