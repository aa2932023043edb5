"""Redraw the loss plot of a run while it trains."""

import time
from collections.abc import Callable
from functools import cached_property, partial

from fabella.data.modes.mode import data_mode
from fabella.engine.engine import StepResult
from fabella.report.plots import plot_loss
from fabella.tracking.background import Worker
from fabella.training.callbacks.cadence import Due, every_epochs
from fabella.training.loop import Progress
from fabella.training.session import TrainingSession

INTERVAL_SECONDS = 30.0
"""Least time between two plots; the first is drawn this long after the start."""
PAUSE_FACTOR = 50
"""The pause after a plot is at least so many times the seconds that it took: long logs take longer to draw."""


class RedrawLossPlot:
    """Draw ``loss.png`` after a validation and after each epoch, at most every ``interval_seconds``.

    A session that takes less time draws nothing here; one that has drawn draws again after the last step. It is drawn
    on the worker's thread. A plot that fails is reported once; the training continues without further plots. Register
    it after ``Validate``.
    """

    def __init__(
        self,
        session: TrainingSession,
        worker: Worker,
        *,
        is_due: Callable[[], bool],
        interval_seconds: float = INTERVAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``worker``: draws after the rows before have been written. ``is_due``: whether the step was validated."""
        self.session, self.worker, self.is_due, self.clock = session, worker, is_due, clock
        self.interval_seconds, self._pause = interval_seconds, interval_seconds
        self._last, self._drawn, self._failed = clock(), False, False

    def __call__(self, progress: Progress, result: StepResult) -> None:
        waited = self.clock() - self._last >= self._pause
        last = progress.step == self.session.steps and self._drawn
        if last or (waited and (self.is_due() or self._ends_epoch(progress))):
            self._last, self._drawn = self.clock(), True
            self.worker.submit(partial(self._draw, progress.step))

    def _draw(self, step: int) -> None:
        if self._failed:
            return
        start = self.clock()
        try:
            plot_loss(self.session.run_dir.path)
        except Exception as error:  # noqa: BLE001 - the plot can be drawn again at any time
            self._failed = True
            self.session.print(
                f"warning: the loss plot could not be drawn at step {step:,}: {error} "
                "No more plots are drawn while this training runs."
            )
        self._pause = max(self.interval_seconds, PAUSE_FACTOR * (self.clock() - start))

    @cached_property
    def _ends_epoch(self) -> Due:
        """Cadence of the ends of epochs; a stream has none. Counting the sequences of an epoch can take a while."""
        run = self.session.run
        sequences = data_mode(run.data.mode.kind).count_sequences(run.data, self.session.dataset)
        return every_epochs(1.0, sequences, run.training) if sequences else lambda progress: False
