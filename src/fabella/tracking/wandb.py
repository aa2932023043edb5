"""Weights & Biases: one W&B run for each run directory, with the same id after every resume."""

import importlib
import re
import secrets
from pathlib import Path
from typing import Any, final

from fabella.engine.engine import Histogram
from fabella.run_config.run import RunConfig
from fabella.runs.run_dir import RunDir, step_name
from fabella.storage import atomic_write, storage_errors
from fabella.tracking.async_tracker import RemoteTracker, Report
from fabella.tracking.tracker import Row, scalars

TITLE = "Weights & Biases"
PACKAGE = "wandb"
ID_FILE = "wandb-id"
CONNECTING_SECONDS, FINISHING_SECONDS = 60, 20
"""Timeouts of the wandb package. They end before ``async_tracker.CLOSING_SECONDS``, so that its message is shown."""


def connect(run_dir: RunDir, *, step: int, report: Report) -> RemoteTracker:
    """Return a tracker that logs to W&B as ``tracking.wandb`` says. ``step`` is not needed: W&B knows its own."""
    return WandbTracker(run_dir.path, run_dir.run, report)


@final
class WandbTracker:
    """Log rows to a W&B run; upload the finished model after the final loss."""

    def __init__(self, run_dir: Path, run: RunConfig, report: Report) -> None:
        """Connect, which may take long. Raise what the package raises; ModuleNotFoundError if it is missing."""
        config = run.tracking.wandb
        self._package: Any = importlib.import_module(PACKAGE)
        self.run_dir, self.artifact = run_dir, config.artifact
        self.id = run_id(run_dir)
        self._run: Any = self._package.init(
            project=config.project,
            entity=config.entity or None,
            name=run.name,
            id=self.id,
            resume="allow",
            mode=config.mode,
            dir=str(run_dir),
            config=run.model_dump(mode="json"),
            settings=self._package.Settings(
                console="off",
                silent=True,
                save_code=False,
                disable_git=True,
                login_timeout=1,
                init_timeout=CONNECTING_SECONDS,
                finish_timeout=FINISHING_SECONDS,
                finish_timeout_raises=True,
            ),
        )
        if self._run.disabled:
            raise RuntimeError("you are not logged in (wandb login); tracking.wandb.mode=offline needs no account")
        # A resumed run repeats some steps with the same bits; W&B already has their rows.
        self._first_new_step = int(self._run.step) if self._run.resumed else 0
        if config.mode == "online":
            report(f"Weights & Biases: {self._run.url}")

    def __call__(self, row: Row) -> None:
        step = int(row["step"])
        if step >= self._first_new_step:
            self._run.log(self._values(row), step=step)
        if row["kind"] == "final" and self.artifact:
            self._upload_model(step)

    def close(self) -> None:
        """Wait until everything is uploaded or on disk; raise TimeoutError if that takes too long."""
        self._run.finish()

    def _values(self, row: Row) -> dict[str, Any]:
        if row["kind"] == "sample":
            return {f"sample/{row['prompt']}": row["prompt"] + row["text"]}
        if row["kind"] == "histograms":
            return {name: self._histogram(histogram) for name, histogram in row["histograms"].items()}
        return scalars(row)

    def _histogram(self, histogram: Histogram) -> Any:
        bins = len(histogram.counts)
        edges = [histogram.low + (histogram.high - histogram.low) * index / bins for index in range(bins + 1)]
        return self._package.Histogram(np_histogram=(list(histogram.counts), edges))

    def _upload_model(self, step: int) -> None:
        """Upload what ``fabella generate`` needs: weights, config and tokenizer."""
        model = self._package.Artifact(f"model-{self.id}", type="model", metadata={"step": step})
        model.add_file(str(self.run_dir / "checkpoints" / step_name(step) / "model.safetensors"))
        model.add_file(str(self.run_dir / "config.yaml"))
        model.add_dir(str(self.run_dir / "tokenizer"), name="tokenizer")
        self._run.log_artifact(model)


def run_id(run_dir: Path) -> str:
    """Return the W&B id of the run in ``run_dir``, created at the first call and saved there.

    A damaged id is replaced: the resumed run then appears in W&B as a second run.
    """
    path = run_dir / ID_FILE
    with storage_errors(path, f"reading {ID_FILE}"):
        saved = path.read_bytes().decode("latin-1").strip() if path.exists() else ""
    if re.fullmatch(r"[0-9a-f]{16}", saved):
        return saved
    new = secrets.token_hex(8)
    atomic_write(path, f"{new}\n".encode())
    return new
