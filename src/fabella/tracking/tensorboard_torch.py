"""TensorBoard event files, written by torch's ``SummaryWriter``; ``tensorboard --logdir runs`` shows them."""

from pathlib import Path
from typing import final

import yaml
from torch.utils.tensorboard import SummaryWriter

from fabella.engine.engine import Histogram
from fabella.run_config.run import RunConfig
from fabella.runs.run_dir import RunDir
from fabella.storage import make_dirs, storage_errors
from fabella.tracking.async_tracker import RemoteTracker, Report
from fabella.tracking.tracker import Row, scalars

TITLE = "TensorBoard"
PACKAGE = "torch.utils.tensorboard"
DIRECTORY = "tensorboard"


def connect(run_dir: RunDir, *, step: int, report: Report) -> RemoteTracker:
    """Return a tracker that writes to ``RUN/tensorboard``, for a run that continues after ``step``."""
    return TensorBoardTracker(run_dir.path, run_dir.run, step=step)


@final
class TensorBoardTracker:
    """Write rows to an event file. Each is on disk when the call returns. Raise StorageError if writing fails."""

    def __init__(self, run_dir: Path, run: RunConfig, *, step: int) -> None:
        """Open a new event file. TensorBoard discards what older files contain after ``step``."""
        self.directory = run_dir / DIRECTORY
        with storage_errors(self.directory, "writing TensorBoard's event files"):
            make_dirs(self.directory)
            self._writer = SummaryWriter(str(self.directory), purge_step=step + 1 if step else None)
            self._add_text("config", f"```yaml\n{yaml.safe_dump(run.model_dump(mode='json'))}```", step)
            self._writer.flush()

    def __call__(self, row: Row) -> None:
        step = int(row["step"])
        with storage_errors(self.directory, "writing TensorBoard's event files"):
            if row["kind"] == "sample":
                self._add_text(f"sample/{row['prompt']}", row["prompt"] + row["text"], step)
            elif row["kind"] == "histograms":
                for tag, histogram in row["histograms"].items():
                    self._add_histogram(tag, histogram, step)
            else:
                for tag, value in scalars(row).items():
                    self._writer.add_scalar(tag, value, step)
            self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        with storage_errors(self.directory, "writing TensorBoard's event files"):
            self._writer.close()

    def _add_text(self, tag: str, text: str, step: int) -> None:
        self._writer.add_text(tag, text.encode("utf-8", "backslashreplace").decode(), step)

    def _add_histogram(self, tag: str, histogram: Histogram, step: int) -> None:
        """Add a histogram. Its sums are those of the bins' centers, as the values are not kept."""
        width = (histogram.high - histogram.low) / max(len(histogram.counts), 1)
        centers = [histogram.low + width * (index + 0.5) for index in range(len(histogram.counts))]
        self._writer.add_histogram_raw(
            tag,
            min=histogram.low,
            max=histogram.high,
            num=sum(histogram.counts),
            sum=sum(count * center for count, center in zip(histogram.counts, centers, strict=True)),
            sum_squares=sum(count * center**2 for count, center in zip(histogram.counts, centers, strict=True)),
            bucket_limits=[center + width / 2 for center in centers],
            bucket_counts=histogram.counts,
            global_step=step,
        )
