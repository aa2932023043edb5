"""TensorBoard's event files, written with its own writer: ``tensorboard --logdir runs`` shows them."""

import importlib
import os
import socket
import time
from pathlib import Path
from typing import Any

import yaml

from fabella.engine.engine import Histogram
from fabella.run_config.run import RunConfig
from fabella.storage import make_folders, storage_errors
from fabella.tracking.tracker import Row

FOLDER = "tensorboard"
TEXT = 7
"""TensorBoard's number for the type of strings."""


class TensorBoardTracker:
    """Takes rows; each is on disk when the call returns. Raises StorageError where it cannot be written."""

    def __init__(self, folder: Path, run: RunConfig, *, step: int) -> None:
        """A new file in ``folder/tensorboard``; what older ones tell of steps after ``step`` is no longer shown.

        Needs the extra ``track``; ModuleNotFoundError without it.
        """
        self._protos: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")
        self._summary: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        self._tensor: Any = importlib.import_module("tensorboard.compat.proto.tensor_pb2")
        writer: Any = importlib.import_module("tensorboard.summary.writer.record_writer")
        self.path = folder / FOLDER / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        with storage_errors(self.path, "writing TensorBoard's events"):
            make_folders(self.path.parent)
            self._file = self.path.open("wb")
        self._records = writer.RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if step:
            started = self._protos.SessionLog(status=self._protos.SessionLog.START)
            self._write(session_log=started, step=step + 1)
        self._tell(step, [self._text("config", f"```yaml\n{yaml.safe_dump(run.model_dump(mode='json'))}```")])

    def __call__(self, row: Row) -> None:
        if row["kind"] == "sample":
            self._tell(row["step"], [self._text(f"sample/{row['prompt']}", row["prompt"] + row["text"])])
        elif row["kind"] == "histograms":
            self._tell(row["step"], [self._histogram(name, one) for name, one in row["histograms"].items()])
        else:
            values = [self._summary.Summary.Value(tag=tag, simple_value=value) for tag, value in numbers(row).items()]
            self._tell(row["step"], values)

    def close(self) -> None:
        """Everything is on disk already, or could not be written."""
        with storage_errors(self.path, "writing TensorBoard's events"):
            self._file.close()

    def _tell(self, step: int, values: list[Any]) -> None:
        self._write(step=step, summary=self._summary.Summary(value=values))

    def _write(self, **values: Any) -> None:
        with storage_errors(self.path, "writing TensorBoard's events"):
            self._records.write(self._protos.Event(wall_time=time.time(), **values).SerializeToString())
            self._records.flush()

    def _text(self, tag: str, text: str) -> Any:
        kind = self._summary.SummaryMetadata.PluginData(plugin_name="text")
        content = self._tensor.TensorProto(dtype=TEXT, string_val=[text.encode("utf-8", "backslashreplace")])
        return self._summary.Summary.Value(
            tag=tag, tensor=content, metadata=self._summary.SummaryMetadata(plugin_data=kind)
        )

    def _histogram(self, tag: str, one: Histogram) -> Any:
        """TensorBoard also wants sums: of each bin's middle, as the values themselves are not kept."""
        width = (one.high - one.low) / max(len(one.counts), 1)
        middles = [one.low + width * (number + 0.5) for number in range(len(one.counts))]
        proto = self._summary.HistogramProto(
            min=one.low,
            max=one.high,
            num=sum(one.counts),
            sum=sum(count * middle for count, middle in zip(one.counts, middles, strict=True)),
            sum_squares=sum(count * middle**2 for count, middle in zip(one.counts, middles, strict=True)),
            bucket_limit=[middle + width / 2 for middle in middles],
            bucket=one.counts,
        )
        return self._summary.Summary.Value(tag=tag, histo=proto)


def numbers(row: Row) -> dict[str, float]:
    """The measured values of a row: ``validation/loss`` and the like."""
    values = {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}
    return {f"{row['kind']}/{name}": float(value) for name, value in values.items()}
