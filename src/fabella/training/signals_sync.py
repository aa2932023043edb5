"""What one process was asked for, all do: at the same step, whoever of them heard the signal."""

from fabella.engine.distributed.process_group import ProcessGroup
from fabella.engine.engine import StepResult
from fabella.training.loop import Progress
from fabella.training.signals import Interruption

CONTINUE, SAVE, STOP = 0, 1, 2


class SyncedSignals(Interruption):
    """An observer that asks the others after every step. Its ``asked`` and ``save`` are the same for all of them.

    Alone, they are those of ``heard``. With others they come a step later: nobody waits for an answer before it is
    needed (see ``Ranks.agree``).
    """

    def __init__(self, heard: Interruption, ranks: ProcessGroup) -> None:
        super().__init__()
        self.heard, self.ranks = heard, ranks

    def __call__(self, progress: Progress, result: StepResult) -> None:
        vote = STOP if self.heard.stop_requested else SAVE if self.heard.save else CONTINUE
        if vote == SAVE:
            self.heard.save = False
        agreed = self.ranks.poll_max(vote)
        self.stop_requested, self.save = agreed == STOP, agreed == SAVE

    def to_stop(self) -> bool:
        """Whether any process was asked to stop, up to now; all of them call this, after the last step."""
        before = self.ranks.poll_max(STOP if self.heard.stop_requested else CONTINUE)
        return STOP in (before, self.ranks.poll_max(CONTINUE))

    def save_again(self) -> None:
        self.heard.save = True
